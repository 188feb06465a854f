//! A private PgBouncer.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::{fs, io};

use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use super::process::find;
use super::{Process, Scratch, eventually, free_port};

/// A PgBouncer in front of servers, killed when dropped. Clients select a server by the name of the database, and connect
/// as its superuser.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    mode: String,
    servers: Vec<(String, SocketAddr)>,
    keeps_apart: bool,
    process: Option<Process>,
    scratch: Scratch,
}

impl PgBouncer {
    /// Starts PgBouncer in front of these servers, each under a name of a database. The mode is `session` or
    /// `transaction`.
    ///
    /// # Errors
    ///
    /// If `pgbouncer` is missing or does not start.
    pub async fn start(mode: &str, servers: &[(&str, SocketAddr)]) -> io::Result<Self> {
        let servers = servers.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect();
        let (port, scratch) = (free_port()?, Scratch::new()?);
        let (mode, keeps_apart) = (mode.to_owned(), Self::keeps_statements_apart().await?);
        let mut proxy = Self { port, mode, servers, keeps_apart, process: None, scratch };
        proxy.configure()?;
        let program = program()?;
        let (settings, log) = (proxy.settings(), proxy.scratch.path().join("log"));
        proxy.process = Some(Process::spawn(&program, [settings.as_os_str()], &log)?);
        eventually("PgBouncer listens", async || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok()
        })
        .await?;
        Ok(proxy)
    }

    /// Whether the installed version supports prepared statements in transaction mode: 1.21 or later.
    ///
    /// # Errors
    ///
    /// If `pgbouncer` is missing.
    pub async fn keeps_statements_apart() -> io::Result<bool> {
        let said = tokio::process::Command::new(program()?).arg("--version").output().await?.stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        let version = said.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
        Ok((parts.next(), parts.next()) >= (Some(1), Some(21)))
    }

    /// The URL at which clients reach a server.
    pub fn url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    /// Points a name to another server, as after a failover, or adds a name.
    ///
    /// # Errors
    ///
    /// If the settings can't be written.
    pub fn lead(&mut self, name: &str, to: SocketAddr) -> io::Result<()> {
        self.servers.retain(|(known, _)| known != name);
        self.servers.push((name.to_owned(), to));
        self.configure()?;
        self.process.as_ref().map_or(Ok(()), |process| process.signal(Signal::SIGHUP))
    }

    fn settings(&self) -> PathBuf {
        self.scratch.path().join("pgbouncer.ini")
    }

    fn configure(&self) -> io::Result<()> {
        let server = |(name, at): &(String, SocketAddr)| {
            format!("{name} = host={} port={} dbname=postgres user=postgres\n", at.ip(), at.port())
        };
        let servers: String = self.servers.iter().map(server).collect();
        let text = format!(
            "[databases]\n{servers}[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = {}\nmax_client_conn = 1000\n\
             default_pool_size = 40\nserver_login_retry = 1\nserver_fast_close = 1\n\
             ignore_startup_parameters = extra_float_digits, IntervalStyle, options\n",
            self.port, self.mode
        );
        let prepared = if self.keeps_apart { "max_prepared_statements = 200\n" } else { "" };
        fs::write(self.settings(), text + prepared)
    }
}

fn program() -> io::Result<PathBuf> {
    let install = "apt-get install pgbouncer, or brew install pgbouncer";
    find("pgbouncer", &[PathBuf::from("/usr/sbin")], install)
}
