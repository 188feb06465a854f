//! A server under test, with the proxy in front of it where there is one.

use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::backends::Backends;
use super::pin;
use super::proxies::Proxy;
use crate::Failure;
use crate::variant::Variant;

#[derive(Debug)]
pub(super) struct Server {
    process: Child,
    origin: SocketAddr,
    proxy: Option<Proxy>,
}

impl Server {
    /// Starts it, and waits until it answers.
    pub(super) async fn start(
        variant: Variant,
        backends: &Backends,
        pinned: bool,
    ) -> Result<Self, Failure> {
        let (program, mut arguments) = pin::server(&std::env::current_exe()?, pinned);
        arguments.extend(["serve".into(), variant.name().into()]);
        arguments.extend(backends.arguments().into_iter().map(Into::into));
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let output = process.stdout.take().ok_or("the server has no output")?;
        let line = BufReader::new(output).lines().next_line().await?;
        let origin = line.ok_or("the server ended before it served")?.parse()?;
        let proxy = Proxy::start(variant, origin, pinned).await?;
        Ok(Self { process, origin, proxy })
    }

    /// Whom the load asks.
    pub(super) fn address(&self) -> SocketAddr {
        self.proxy.as_ref().map_or(self.origin, Proxy::address)
    }

    /// Whoever knows how often a handler ran.
    pub(super) fn origin(&self) -> SocketAddr {
        self.origin
    }

    /// The processes that all others of it descend from.
    pub(super) fn processes(&self) -> Result<Vec<u32>, Failure> {
        let mut all = vec![self.process.id().ok_or("the server has ended")?];
        if let Some(proxy) = &self.proxy {
            all.push(proxy.id()?);
        }
        Ok(all)
    }

    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        if let Some(proxy) = self.proxy {
            proxy.stop().await?;
        }
        if let Some(id) = self.process.id() {
            kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGTERM)?;
        }
        self.process.wait().await?;
        Ok(())
    }
}
