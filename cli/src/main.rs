//! `lote`: the one binary. `lote up` is a whole cluster on this machine, `lote demo` shows it at work; `lote init`,
//! `lote coordinator` and `lote worker` make one of several machines.

mod announce;
mod app;
mod backup;
mod client;
mod cluster;
mod coordinator;
mod demo;
mod duration;
mod folder;
mod init;
mod inspect;
mod member_settings;
mod members;
mod output;
mod recover;
mod settings;
mod sim;
mod status;
mod stop;
mod storage;
mod up;
mod upgrade;
mod worker;

use clap::{CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::{EnvFilter, fmt};

/// Batch computing on your own machines, with the Azure Batch interface.
#[derive(Debug, Parser)]
#[command(name = "lote", version, propagate_version = true)]
struct Arguments {
    /// Log filter, e.g. `info` or `lote_coordinator=debug`. openraft is silent unless it is named.
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
    /// Make the data folder of a cluster's first coordinator.
    Init(init::Arguments),
    /// Run a coordinator of a cluster until SIGTERM or Ctrl-C.
    Coordinator(member_settings::CoordinatorArguments),
    /// Run a worker host: SIGTERM leaves its tasks to the keeper, Ctrl-C ends them.
    Worker(member_settings::WorkerArguments),
    /// Application packages for pools and tasks.
    #[command(subcommand)]
    App(app::App),
    /// Join tokens.
    #[command(subcommand)]
    Token(members::Token),
    /// Members of the cluster.
    #[command(subcommand)]
    Host(members::Host),
    /// Show the state of a running cluster.
    Status(status::Arguments),
    /// Stored content: what there is, whether it is whole, and the work on it.
    #[command(subcommand)]
    Storage(storage::Storage),
    /// The cluster version: hold it before an upgrade of the coordinators, release it after.
    #[command(subcommand)]
    Upgrade(upgrade::Upgrade),
    /// Why a task waits, what became of its attempts; how a pool's group and nodes are doing.
    Inspect(inspect::Arguments),
    /// Copy the state of a running cluster and the content of its files into a folder.
    Backup(backup::BackupArguments),
    /// Make a data folder from a backup.
    Restore(backup::RestoreArguments),
    /// Make a damaged coordinator, or the last one left, a cluster of one.
    Recover(recover::Arguments),
    /// The simulator: the same cores that run a cluster, in a world of virtual time, faults and seeds.
    #[command(subcommand)]
    Sim(sim::Sim),
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
        Command::Init(init) => init::main(init),
        Command::Coordinator(coordinator) => coordinator::main(coordinator),
        Command::Worker(worker) => worker::main(worker),
        Command::App(app) => app::main(app),
        Command::Token(token) => members::token(token),
        Command::Host(host) => members::host(host),
        Command::Status(status) => status::main(status),
        Command::Storage(storage) => storage::main(storage),
        Command::Upgrade(upgrade) => upgrade::main(upgrade),
        Command::Backup(backup) => backup::backup(backup),
        Command::Restore(restore) => backup::restore(restore),
        Command::Recover(recover) => recover::main(recover),
        Command::Inspect(inspect) => inspect::main(inspect),
        Command::Sim(sim) => sim::main(sim),
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

/// What openraft would say is said by Lote: it reports every attempt to reach a member that is gone as an error, more
/// than once a second, and what is fatal to it ends the coordinator with its reason.
const QUIET: &str = "openraft=off";

/// `asked` for everything but openraft, unless it speaks of openraft itself.
fn log_filter(asked: &str) -> EnvFilter {
    let is_readable = !asked.is_empty() && EnvFilter::try_new(asked).is_ok();
    let asked = if is_readable { asked } else { "warn" };
    let is_named = asked.split(',').any(|directive| directive.trim_start().starts_with("openraft"));
    let filter = if is_named { asked.to_owned() } else { format!("{asked},{QUIET}") };
    EnvFilter::new(filter)
}

fn start_logging(arguments: &Arguments) {
    // On a full disk a line is lost; that it is must not be printed, which would panic for the same reason.
    let builder = fmt()
        .with_env_filter(log_filter(&arguments.log))
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    // A second initialisation can only happen in tests; the first one stands.
    let _ = if arguments.log_json { builder.json().try_init() } else { builder.compact().try_init() };
}

/// A multi-thread runtime under an actix system: with actix's own, every spawned task would share one thread.
fn block_on<F: Future>(work: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("lote").build()?;
    let system = actix_rt::System::with_tokio_rt(move || runtime);
    Ok(system.block_on(work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openraft_speaks_only_when_it_is_asked() {
        for (asked, expected) in [
            ("warn", &["openraft=off", "warn"][..]),
            ("debug,lote_worker=info", &["openraft=off", "lote_worker=info", "debug"]),
            ("info,openraft::core=debug", &["openraft::core=debug", "info"]),
            ("warn,openraft=error", &["openraft=error", "warn"]),
            ("", &["openraft=off", "warn"]),
            ("no=such=filter", &["openraft=off", "warn"]),
        ] {
            let filter = log_filter(asked).to_string();
            let sorted = |directives: &mut dyn Iterator<Item = &str>| {
                directives.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
            };
            // Directives of the same weight come in no order of ours.
            assert_eq!(sorted(&mut filter.split(',')), sorted(&mut expected.iter().copied()), "{asked}");
        }
    }
}
