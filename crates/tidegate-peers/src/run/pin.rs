//! Which core each process has: the server under test the first, all else the second.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

const SERVER: &str = "0";
const REST: &str = "1";

/// Puts this process, and whatever it starts without saying otherwise, on the second core; whether that could be done.
pub(super) async fn this_process() -> bool {
    let id = std::process::id().to_string();
    let mut command = Command::new("taskset");
    command.args(["-a", "-c", "-p", REST, &id]).stdout(Stdio::null()).stderr(Stdio::null());
    let is_pinned = command.status().await.is_ok_and(|status| status.success());
    if !is_pinned {
        eprintln!("taskset or a second core is missing: server and load share all cores");
    }
    is_pinned
}

/// The command that runs a program on the first core.
pub(super) fn server(program: &Path, pinned: bool) -> (OsString, Vec<OsString>) {
    match pinned {
        true => ("taskset".into(), vec!["-c".into(), SERVER.into(), program.into()]),
        false => (program.into(), Vec::new()),
    }
}
