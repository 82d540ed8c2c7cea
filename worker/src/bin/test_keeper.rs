//! The keeper alone, as this crate's tests start it: `lote-test-keeper --dir D`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let [_, flag, directory] = arguments.as_slice() else {
        eprintln!("usage: lote-test-keeper --dir D");
        return ExitCode::from(2);
    };
    if flag != "--dir" {
        eprintln!("unknown option `{}`", flag.display());
        return ExitCode::from(2);
    }
    match lote_worker::keeper::run(Path::new(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lote keeper: {error}");
            ExitCode::FAILURE
        }
    }
}
