//! One Redis server.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::{fs, io};

use nix::sys::signal::Signal;
use redis::{Client, Cmd, FromRedisValue, cmd};

use crate::process::find;
use crate::{Process, Scratch, eventually, free_port};

/// A Redis server, killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    options: Vec<String>,
    process: Option<Process>,
    scratch: Scratch,
}

impl RedisServer {
    /// Starts a server.
    ///
    /// # Errors
    ///
    /// If `redis-server` is missing or does not start.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts a server with further arguments, such as `["--maxmemory", "8mb"]`.
    ///
    /// # Errors
    ///
    /// If `redis-server` is missing or does not start.
    pub async fn start_with(options: &[&str]) -> io::Result<Self> {
        // Another process may take the port first.
        const ATTEMPTS: u32 = 5;
        let mut result = Self::attempt(options).await;
        for _ in 1..ATTEMPTS {
            match result {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    result = Self::attempt(options).await;
                }
                done => return done,
            }
        }
        result
    }

    async fn attempt(options: &[&str]) -> io::Result<Self> {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let (port, scratch) = (low_port()?, Scratch::new()?);
        let mut server = Self { port, options, process: None, scratch };
        server.restart().await?;
        Ok(server)
    }

    /// Starts the server again on the same port, empty.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.kill().await?;
        let program = find("redis-server", &[], "install redis-server (apt-get install redis)")?;
        let port = self.port.to_string();
        let folder = self.scratch.path().display().to_string();
        let config = self.empty_config()?;
        let fixed = [&config, "--port", &port, "--bind", "127.0.0.1", "--dir", &folder];
        let fixed = fixed.into_iter().chain(["--save", "", "--appendonly", "no"]);
        let options = fixed.chain(self.options.iter().map(String::as_str));
        let log = self.scratch.path().join("log");
        let mut process = Process::spawn(&program, options, &log)?;
        let up = format!("Redis on port {port} is up; see {}", log.display());
        eventually(&up, async || !process.is_running() || self.answers().await).await?;
        if !process.is_running() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(io::Error::other(format!("redis-server ended at once: {said}")));
        }
        self.process = Some(process);
        Ok(())
    }

    /// A sentinel needs a configuration file that it can write to, and does not run as root.
    fn empty_config(&self) -> io::Result<String> {
        let path = self.scratch.path().join("redis.conf");
        fs::write(&path, "")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        Ok(path.display().to_string())
    }

    async fn answers(&self) -> bool {
        match self.run::<String>(&cmd("PING")).await {
            Ok(_) => true,
            Err(error) => error.to_string().contains("NOAUTH"),
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Runs a command on a connection of its own.
    ///
    /// # Errors
    ///
    /// If the server can't be reached or answers with an error.
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> io::Result<T> {
        let connection = Client::open(self.url()).map_err(io::Error::other)?;
        let connection = connection.get_multiplexed_async_connection().await;
        command
            .query_async(&mut connection.map_err(io::Error::other)?)
            .await
            .map_err(io::Error::other)
    }

    /// Suspends the server: connections stay open, and it does not respond.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Resumes a suspended server.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Kills the server, so that it closes nothing properly.
    ///
    /// # Errors
    ///
    /// If the process's end can't be waited for.
    pub async fn kill(&mut self) -> io::Result<()> {
        match self.process.take() {
            Some(process) => process.stop(Signal::SIGKILL).await,
            None => Ok(()),
        }
    }

    /// Whether the server runs: it has not been killed since its last start.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the server was killed");
        self.process.as_ref().ok_or_else(gone)?.signal(signal)
    }
}

/// A free port below 55000, since a cluster node also uses the port 10000 above its own.
fn low_port() -> io::Result<u16> {
    for _ in 0..1000 {
        let port = free_port()?;
        if port < 55_000 {
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "no port below 55000 is free"))
}
