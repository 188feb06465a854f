//! A private Postgres server, and standbys of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use nix::sys::signal::Signal;
use tokio::process::Command;

use super::{Process, Scratch, free_port};

mod access;
mod backup;
mod cluster;
mod faults;
mod programs;

/// The number of attempts to start on a port that no other process takes first.
const STARTS: u32 = 5;

const SETTINGS: [(&str, &str); 11] = [
    ("listen_addresses", "127.0.0.1"),
    ("fsync", "off"),
    ("shared_buffers", "16MB"),
    ("wal_level", "replica"),
    // As with segments of the usual size, by which `initdb` chooses these.
    ("min_wal_size", "80MB"),
    ("max_wal_size", "1GB"),
    ("max_wal_senders", "10"),
    ("hot_standby", "on"),
    ("max_prepared_transactions", "0"),
    ("log_min_messages", "warning"),
    // A standby must lag only if a test pauses it, not because replay conflicts with reads.
    ("max_standby_streaming_delay", "-1"),
];

/// A private Postgres server for a test: on a free port of 127.0.0.1, with its data in a temporary folder, stopped when
/// dropped. The superuser is `postgres` and has no password.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use tidegate_testing::Postgres;
///
/// let primary = Postgres::start().await?;
/// let standby = primary.standby().await?;
/// primary.psql("create table t (id int primary key)").await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    settings: Vec<String>,
    port: u16,
    process: Option<Process>,
    is_paused: AtomicBool,
    scratch: Scratch,
}

impl Postgres {
    /// Starts a server with an empty database.
    ///
    /// # Errors
    ///
    /// If Postgres is not installed (the error says what to install) or does not start (the error includes its log).
    pub async fn start() -> io::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts a server with additional settings, such as `("max_prepared_transactions", "4")`.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_with(settings: &[(&str, &str)]) -> io::Result<Self> {
        // For tests of nodes that read the write-ahead log.
        let is_logical = std::env::var("TIDEGATE_TEST_SOURCE").as_deref() == Ok("wal");
        let logical = is_logical.then_some(("wal_level", "logical"));
        let settings = SETTINGS.iter().copied().chain(logical).chain(settings.iter().copied());
        let settings = settings.map(|(name, value)| format!("{name}={value}")).collect();
        let mut server = Self::unborn(programs::folder()?, settings)?;
        cluster::create(&server.bin, &server.data()).await?;
        server.launch().await?;
        Ok(server)
    }

    /// Starts a streaming standby of this server from a base backup. It is ready for reads.
    ///
    /// # Errors
    ///
    /// If the backup fails or the standby does not start.
    pub async fn standby(&self) -> io::Result<Self> {
        self.standby_named("walreceiver").await
    }

    /// The same, with a name that `synchronous_standby_names` can refer to.
    ///
    /// # Errors
    ///
    /// As [`standby`](Self::standby).
    pub async fn standby_named(&self, name: &str) -> io::Result<Self> {
        let mut server = Self::unborn(self.bin.clone(), self.settings.clone())?;
        let program = self.bin.join("pg_basebackup");
        if program.is_file() {
            let data = text(&server.data());
            let options = ["-R", "--checkpoint=fast", "--no-sync", "-X", "stream", "-D", &data];
            let url = format!("{}?application_name={name}", self.url());
            Process::run(&program, [&options[..], &["-d", &url]].concat()).await?;
        } else {
            self.copy_to(&server.data(), name).await?;
        }
        server.launch().await?;
        Ok(server)
    }

    /// The URL of the database `postgres`, for the superuser.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The URL of another database.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on 127.0.0.1, which stays the same across restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The id of the server's main process; `None` while it is stopped.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().and_then(|process| u32::try_from(process.id()).ok())
    }

    /// The address, for a proxy in front of it.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The path of a program such as `pgbench`: from the server's installation or, if the program is missing there, from
    /// another one.
    pub fn program(&self, name: &str) -> PathBuf {
        programs::beside(&self.bin, name)
    }

    /// Creates an empty database and returns its URL.
    ///
    /// # Errors
    ///
    /// If it exists already.
    pub async fn create_database(&self, name: &str) -> io::Result<String> {
        self.psql(&format!("create database \"{}\"", name.replace('"', "\"\""))).await?;
        Ok(self.url_of(name))
    }

    /// Runs SQL with `psql`, in one session that stops at the first error.
    ///
    /// Returns what it printed: rows as lines, columns separated by `|`.
    ///
    /// # Errors
    ///
    /// If a statement fails. The error includes the server's message.
    pub async fn psql(&self, sql: &str) -> io::Result<String> {
        self.psql_at(&self.url(), sql).await
    }

    /// As [`psql`](Self::psql), with another role or database in the URL.
    ///
    /// # Errors
    ///
    /// As [`psql`](Self::psql).
    pub async fn psql_at(&self, url: &str, sql: &str) -> io::Result<String> {
        use tokio::io::AsyncWriteExt;
        let mut child = Command::new(self.program("psql"))
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut input = child.stdin.take();
        let feed = async move {
            // Ignore a write error: psql has stopped at an SQL error, which its output shows.
            if let Some(input) = &mut input {
                let _ = input.write_all(sql.as_bytes()).await;
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        let output = output?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    fn unborn(bin: PathBuf, settings: Vec<String>) -> io::Result<Self> {
        let (port, scratch) = (free_port()?, Scratch::new()?);
        Ok(Self { bin, settings, port, process: None, is_paused: AtomicBool::default(), scratch })
    }

    async fn launch(&mut self) -> io::Result<()> {
        let mut result = self.run().await;
        for _ in 1..STARTS {
            if result.is_ok() || !self.log().contains("Address already in use") {
                break;
            }
            self.port = free_port()?;
            result = self.run().await;
        }
        result
    }

    /// Starts the server on its port and waits until it takes connections.
    async fn run(&mut self) -> io::Result<()> {
        let (port, data, sockets) = (self.port.to_string(), self.data(), self.scratch.path());
        let mut arguments = vec!["-D".to_owned(), text(&data), "-p".to_owned(), port.clone()];
        let sockets = format!("unix_socket_directories={}", sockets.display());
        for setting in self.settings.iter().chain([&sockets]) {
            arguments.extend(["-c".to_owned(), setting.clone()]);
        }
        let program = self.bin.join("postgres");
        self.process = Some(Process::spawn(&program, arguments, &self.log_path())?);
        self.wait().await
    }

    async fn wait(&mut self) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            if !self.process.as_mut().is_some_and(Process::is_running) {
                break;
            }
            if self.is_ready() {
                return Ok(());
            }
            breathe().await;
        }
        self.process = None;
        Err(io::Error::other(format!("the server did not start:\n{}", self.log())))
    }

    /// Whether the server takes connections, by the file that `pg_ctl` reads too: a probe as `pg_isready` costs as much as
    /// ten looks at it. A crash leaves an old file, with another process in its first line.
    fn is_ready(&self) -> bool {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines();
        let process = self.process.as_ref().map(|process| process.id().to_string());
        lines.next() == process.as_deref() && lines.nth(6).map(str::trim) == Some("ready")
    }

    async fn end(&mut self, signal: Signal) -> io::Result<()> {
        match self.process.take() {
            Some(process) => process.stop(signal).await,
            None => Ok(()),
        }
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

impl Drop for Postgres {
    /// Stops the server in immediate mode. SIGKILL would leave backends and a shared memory segment behind.
    fn drop(&mut self) {
        if self.is_paused.load(Ordering::Relaxed) && self.resume().is_err() {
            return;
        }
        if let Some(process) = self.process.take() {
            process.stop_blocking(Signal::SIGQUIT);
        }
    }
}

/// The number of polls: half a minute or more, at 10 ms or more each.
const ATTEMPTS: u32 = 3000;

async fn breathe() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
