//! `tidegate-lab` as a program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod check;

use tokio::process::Command;

fn lab() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tidegate-lab"))
}
