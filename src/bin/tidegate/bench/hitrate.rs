use std::process::ExitCode;

use crate::Failure;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {}

pub(crate) async fn run(_options: Options, _output: Output) -> Result<ExitCode, Failure> {
    Err("not yet".into())
}
