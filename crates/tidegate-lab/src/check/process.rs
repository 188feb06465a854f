//! A node's process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Failure;

/// A running node.
pub(crate) struct NodeProcess {
    child: Child,
    pub(crate) address: String,
}

impl NodeProcess {
    /// Starts this very program as a node.
    pub(crate) async fn start(
        environment: &[(&'static str, String)],
        log: &Path,
    ) -> Result<Self, Failure> {
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("check-node")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("a node has no output")?;
        let mut lines = BufReader::new(output).lines();
        let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await??;
        let address = line.ok_or("a node ended before it served")?;
        Ok(Self { child, address })
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let id = self.child.id().ok_or("the node is gone")?;
        Ok(kill(Pid::from_raw(i32::try_from(id)?), signal)?)
    }

    pub(crate) async fn kill(mut self) -> Result<(), Failure> {
        Ok(self.child.kill().await?)
    }
}
