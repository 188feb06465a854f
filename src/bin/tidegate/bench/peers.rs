//! Measures the cache beside others. That is a program of its own: what it is measured beside would burden
//! everybody who builds this one.

use std::ffi::OsString;
use std::process::ExitCode;

use tokio::process::Command;

use crate::Failure;

/// What is asked of the other program.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Options of `tidegate-peers run`; `-- --help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

pub(crate) async fn run(options: Options) -> Result<ExitCode, Failure> {
    let program = std::env::current_exe()?.with_file_name("tidegate-peers");
    if !program.is_file() {
        let program = program.display();
        return Err(
            format!("{program} is missing: `scripts/peers` in the repository builds it").into()
        );
    }
    let status = Command::new(program).arg("run").args(options.options).status().await?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
