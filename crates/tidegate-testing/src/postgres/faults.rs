//! Faults of a server: it lags, hangs, crashes, or a standby is promoted.

use std::sync::atomic::Ordering;
use std::{fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{ATTEMPTS, Postgres, breathe, text};
use crate::Process;

impl Postgres {
    /// Promotes a standby to the primary of a new timeline. Returns once it accepts writes.
    ///
    /// # Errors
    ///
    /// If it is no standby.
    pub async fn promote(&self) -> io::Result<()> {
        self.psql("select pg_promote(true, 60)").await.map(drop)
    }

    /// Makes a standby follow another primary, as after a promotion. It must not have replayed past the point of promotion.
    ///
    /// # Errors
    ///
    /// If it is no standby.
    pub async fn follow(&self, primary: &Self) -> io::Result<()> {
        let at = format!("host=127.0.0.1 port={} user=postgres", primary.port());
        self.psql(&format!("alter system set primary_conninfo = '{at}'")).await?;
        self.psql("select pg_reload_conf()").await.map(drop)
    }

    /// Pauses replay on a standby, which lags from here on.
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

    /// Crashes the server: kills all its processes at once. It stays down until [`restart`](Self::restart).
    ///
    /// # Errors
    ///
    /// If the end of its processes can't be waited for.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.end(Signal::SIGQUIT).await
    }

    /// Suspends every process of the server: connections stay open, and it does not respond.
    ///
    /// # Errors
    ///
    /// If the server is down, or `ps` is missing.
    pub fn pause(&self) -> io::Result<()> {
        self.is_paused.store(true, Ordering::Relaxed);
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
        self.process()?.signal(Signal::SIGCONT)?;
        self.is_paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Shuts the server down cleanly, if it is up, and starts it again on the same port.
    ///
    /// # Errors
    ///
    /// If it does not start. The error includes its log.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.end(Signal::SIGINT).await?;
        self.run().await
    }

    /// Shuts the server down cleanly and starts it again with `oid` as the next object identifier, as on a server that has
    /// created that many objects. Call it before creating objects that should have such an identifier.
    ///
    /// # Errors
    ///
    /// If `pg_resetwal` is not installed, or the server does not start. The error includes its log.
    pub async fn restart_at_oid(&mut self, oid: u32) -> io::Result<()> {
        self.end(Signal::SIGINT).await?;
        let (program, oid) = (self.program("pg_resetwal"), oid.to_string());
        Process::run(&program, ["-o", &oid, &text(&self.data())]).await?;
        self.run().await
    }

    fn process(&self) -> io::Result<&Process> {
        self.process.as_ref().ok_or_else(|| io::Error::other("the server is down"))
    }

    /// Signals the postmaster's children one by one, since each leads its own process group.
    fn signal_children(&self, signal: Signal) -> io::Result<()> {
        let postmaster = self.postmaster()?;
        let mut list = std::process::Command::new("ps");
        let listing = list.args(["-A", "-o", "ppid=", "-o", "pid="]).output()?;
        for line in String::from_utf8_lossy(&listing.stdout).lines() {
            let mut ids = line.split_whitespace().filter_map(|id| id.parse().ok());
            if let (Some(parent), Some(child)) = (ids.next(), ids.next())
                && parent == postmaster
            {
                // A child that has ended meanwhile needs no signal.
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
