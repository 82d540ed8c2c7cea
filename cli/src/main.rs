//! `lote`: the one binary. `lote up` is a whole cluster on this machine, `lote demo` shows it at work.

mod backup;
mod client;
mod demo;
mod folder;
mod inspect;
mod output;
mod recover;
mod settings;
mod status;
mod up;

use clap::{CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Batch computing on your own machines, with the Azure Batch interface.
#[derive(Debug, Parser)]
#[command(name = "lote", version, propagate_version = true)]
struct Arguments {
    /// Log filter, e.g. `info` or `lote_coordinator=debug`.
    #[arg(long, global = true, env = "LOTE_LOG", default_value = "warn")]
    log: String,
    /// Write logs as JSON lines.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a coordinator and workers on this machine until Ctrl-C.
    Up(settings::UpArguments),
    /// Run the whole workflow on an embedded cluster and check the result.
    Demo(demo::Arguments),
    /// Show the state of a running cluster.
    Status(status::Arguments),
    /// Why a task waits, what became of its attempts; how a pool's group and nodes are doing.
    Inspect(inspect::Arguments),
    /// Copy the state of a running cluster and the content of its files into a folder.
    Backup(backup::BackupArguments),
    /// Make a data folder from a backup.
    Restore(backup::RestoreArguments),
    /// Make a damaged coordinator, or the last one left, a cluster of one.
    Recover(recover::Arguments),
    /// Print a completion script for a shell.
    Completion { shell: clap_complete::Shell },
    /// The process that owns task processes; started by workers.
    #[command(hide = true)]
    Keeper {
        #[arg(long)]
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Two TLS libraries may be linked one day; say which one is meant before anything asks.
    let _ = rustls::crypto::ring::default_provider().install_default();
    start_logging(&arguments);
    let outcome = match arguments.command {
        Command::Up(up) => up::main(up),
        Command::Demo(demo) => demo::main(demo),
        Command::Status(status) => status::main(status),
        Command::Backup(backup) => backup::backup(backup),
        Command::Restore(restore) => backup::restore(restore),
        Command::Recover(recover) => recover::main(recover),
        Command::Inspect(inspect) => inspect::main(inspect),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "lote", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Keeper { dir } => {
            lote_worker::keeper::run(&dir).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("lote: {error:#}");
        ExitCode::FAILURE
    })
}

fn start_logging(arguments: &Arguments) {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_new(&arguments.log).unwrap_or_else(|_| EnvFilter::new("warn"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second initialisation can only happen in tests; the first one stands.
    let _ = if arguments.log_json { builder.json().try_init() } else { builder.compact().try_init() };
}

/// A multi-thread runtime under an actix system: with actix's own, every spawned task would share one thread.
fn block_on<F: Future>(work: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("lote").build()?;
    let system = actix_rt::System::with_tokio_rt(move || runtime);
    Ok(system.block_on(work))
}
