//! Child processes, scratch folders and ports.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The users that servers run as if this process runs as root. The first that exists is used.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// A free port of the loopback interface. Another process may take it before it is used, so the caller should retry with
/// another port.
///
/// # Errors
///
/// If the system has no port left.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A server's private folder, removed when dropped.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// Creates the folder. It belongs to the user that servers run as, and only that user can read it.
    ///
    /// # Errors
    ///
    /// If the folder can't be created.
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidegate-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700))?;
        if let Some(user) = unprivileged()? {
            chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(Self(folder))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A server process, killed by its id when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
}

impl Process {
    /// Starts `program`, as an unprivileged user if this process runs as root. Its output goes to `log`.
    ///
    /// # Errors
    ///
    /// If the program is not there or can't be started.
    pub fn spawn<I>(program: &Path, args: I, log: &Path) -> io::Result<Self>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        let output = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = command(program, args)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).kill_on_drop(true);
        let child = command.spawn().map_err(|error| named(program, &error))?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { child, pid: id.ok_or_else(|| io::Error::other("the process ended at once"))? })
    }

    /// Runs `program` to its end.
    ///
    /// # Errors
    ///
    /// If it can't be started or fails. The error includes its output.
    pub async fn run<I>(program: &Path, args: I) -> io::Result<()>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        let output = command(program, args)?.stdin(Stdio::null()).output().await;
        let output = output.map_err(|error| named(program, &error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{} failed: {}", program.display(), said.trim())))
    }

    /// Sends a signal: SIGSTOP and SIGCONT for a server that hangs, SIGKILL for one that dies.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(self.pid, signal)?)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The process id.
    pub(crate) fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends `signal` and waits for the end, for at most ten seconds.
    #[expect(clippy::disallowed_methods, reason = "a destructor can't await the end")]
    pub(crate) fn stop_blocking(mut self, signal: Signal) {
        // If it has ended already, that is fine.
        let _ = kill(self.pid, signal);
        for _ in 0..5_000 {
            if !self.is_running() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends `signal` and waits for the end.
    ///
    /// # Errors
    ///
    /// If it can't be waited for.
    pub async fn stop(mut self, signal: Signal) -> io::Result<()> {
        // If it has ended already, that is fine.
        let _ = kill(self.pid, signal);
        self.child.wait().await.map(drop)
    }
}

/// Finds a program on the path or in `folders`.
///
/// # Errors
///
/// If it is not found. The error says what to install.
pub(crate) fn find(program: &str, folders: &[PathBuf], install: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders
        .iter()
        .cloned()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{program} is missing: {install}"))
        })
}

pub(super) fn command<I>(program: &Path, args: I) -> io::Result<Command>
where
    I: IntoIterator<Item: AsRef<OsStr>>,
{
    let mut command = Command::new(program);
    command.args(args).current_dir("/").env("LC_ALL", "C");
    if let Some(user) = unprivileged()? {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

/// Gives a file to the user that servers run as.
pub(crate) fn give_to_servers(path: &Path) -> io::Result<()> {
    match unprivileged()? {
        Some(user) => chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())),
        None => Ok(()),
    }
}

/// The user that servers run as; `None` if that is the current user.
fn unprivileged() -> io::Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let found = UNPRIVILEGED.iter().find_map(|name| User::from_name(name).ok().flatten());
    found.map(Some).ok_or_else(|| {
        io::Error::other(
            "this process runs as root, and there is no user `postgres` or `nobody` to run servers as",
        )
    })
}

/// The number of the user that servers run as.
pub(crate) fn server_user() -> io::Result<u32> {
    Ok(unprivileged()?.map_or(geteuid(), |user| user.uid).as_raw())
}

fn named(program: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", program.display()))
}
