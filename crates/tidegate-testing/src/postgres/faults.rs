//! What goes wrong with a server: it lags, hangs, crashes, or another takes over.

use std::{fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{ATTEMPTS, Postgres, breathe, text};
use crate::Process;

impl Postgres {
    /// Makes a standby the primary of a new timeline. Returns once it takes writes.
    ///
    /// # Errors
    ///
    /// If it is no standby.
    pub async fn promote(&self) -> io::Result<()> {
        self.psql("select pg_promote(true, 60)").await.map(drop)
    }

    /// Makes a standby follow another primary, as after a promotion. It must not be further than that one was.
    ///
    /// # Errors
    ///
    /// If it is no standby.
    pub async fn follow(&self, primary: &Self) -> io::Result<()> {
        let at = format!("host=127.0.0.1 port={} user=postgres", primary.port());
        self.psql(&format!("alter system set primary_conninfo = '{at}'")).await?;
        self.psql("select pg_reload_conf()").await.map(drop)
    }

    /// Stops a standby from applying what it receives: it lags from here.
    ///
    /// # Errors
    ///
    /// If it is no standby.
    pub async fn pause_replay(&self) -> io::Result<()> {
        self.psql("select pg_wal_replay_pause()").await?;
        for _ in 0..ATTEMPTS {
            if self.psql("select pg_get_wal_replay_pause_state()").await? == "paused" {
                return Ok(());
            }
            breathe().await;
        }
        Err(io::Error::other("the standby does not pause"))
    }

    /// Lets a standby catch up again.
    ///
    /// # Errors
    ///
    /// If it is no standby.
    pub async fn resume_replay(&self) -> io::Result<()> {
        self.psql("select pg_wal_replay_resume()").await.map(drop)
    }

    /// A crash: every process of the server ends without a word. It stays down until
    /// [`restart`](Self::restart).
    ///
    /// # Errors
    ///
    /// If its end can't be waited for.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.end(Signal::SIGQUIT).await
    }

    /// Freezes every process of the server, so that connections stay open and nothing answers.
    ///
    /// # Errors
    ///
    /// If the server is down, or `ps` is missing.
    pub fn pause(&self) -> io::Result<()> {
        // First the postmaster, which then starts no more children.
        self.process()?.signal(Signal::SIGSTOP)?;
        self.signal_children(Signal::SIGSTOP)
    }

    /// Ends a [`pause`](Self::pause).
    ///
    /// # Errors
    ///
    /// As [`pause`](Self::pause).
    pub fn resume(&self) -> io::Result<()> {
        self.signal_children(Signal::SIGCONT)?;
        self.process()?.signal(Signal::SIGCONT)
    }

    /// Stops the server in order, if it is up, and starts it again on the same port.
    ///
    /// # Errors
    ///
    /// If it does not start, with its log.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.end(Signal::SIGINT).await?;
        self.run().await
    }

    /// Stops the server in order and starts it again with `oid` as the next object identifier, as on a server that has
    /// made that many objects. Run it before the objects that are to have such an oid are created.
    ///
    /// # Errors
    ///
    /// If `pg_resetwal` is not installed, or the server does not start, with its log.
    pub async fn restart_at_oid(&mut self, oid: u32) -> io::Result<()> {
        self.end(Signal::SIGINT).await?;
        let (program, oid) = (self.program("pg_resetwal"), oid.to_string());
        Process::run(&program, ["-o", &oid, &text(&self.data())]).await?;
        self.run().await
    }

    fn process(&self) -> io::Result<&Process> {
        self.process.as_ref().ok_or_else(|| io::Error::other("the server is down"))
    }

    /// Each child of the postmaster leads a process group of its own, so they are told one by one.
    fn signal_children(&self, signal: Signal) -> io::Result<()> {
        let postmaster = self.postmaster()?;
        let mut list = std::process::Command::new("ps");
        let listing = list.args(["-A", "-o", "ppid=", "-o", "pid="]).output()?;
        for line in String::from_utf8_lossy(&listing.stdout).lines() {
            let mut ids = line.split_whitespace().filter_map(|id| id.parse().ok());
            if let (Some(parent), Some(child)) = (ids.next(), ids.next())
                && parent == postmaster
            {
                // One that ended meanwhile needs no signal.
                let _ = kill(Pid::from_raw(child), signal);
            }
        }
        Ok(())
    }

    fn postmaster(&self) -> io::Result<i32> {
        let file = fs::read_to_string(self.data().join("postmaster.pid"))?;
        let id = file.lines().next().and_then(|line| line.trim().parse().ok());
        id.ok_or_else(|| io::Error::other("postmaster.pid holds no process id"))
    }
}
