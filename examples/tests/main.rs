//! Each example does what it says, as its own program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod proxy;
mod servers;

use std::path::PathBuf;

/// An example's program, built along with the tests.
fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(program.is_file(), "build {} first, as scripts/test does", program.display());
    program
}
