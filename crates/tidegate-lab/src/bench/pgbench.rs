//! Postgres' own load generator.

use std::time::Duration;

use tidegate_testing::{Postgres, Scratch};
use tokio::process::Command;

use super::processor::server_time;
use crate::Failure;

/// A load.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    /// The database.
    pub(crate) url: &'a str,
    /// The transaction, as a script of pgbench.
    pub(crate) script: &'a str,
    pub(crate) clients: u32,
    pub(crate) seconds: u32,
    /// Transactions per second at most; otherwise, each client begins one when its last has ended.
    pub(crate) rate: Option<f64>,
}

/// Waits until its connections have ended.
const GONE: &str = "do $$ begin while exists (select from pg_stat_activity where application_name = 'pgbench') loop \
    perform pg_sleep(0.001), pg_stat_clear_snapshot(); end loop; end $$";

/// What the load did.
#[derive(Debug)]
pub(crate) struct Done {
    /// Transactions per second.
    pub(crate) rate: f64,
    /// The processor time of all server processes per transaction, in microseconds; `None` where the system does not report
    /// it.
    pub(crate) processor: Option<f64>,
    /// The durations of the transactions in microseconds, sorted. With a rate, each counts from the time at which it was due,
    /// so that waiting for an earlier one counts as well.
    pub(crate) latencies: Vec<u32>,
}

impl Load<'_> {
    /// Puts the load on the server, and then waits for `followed`, whose processor time counts as well.
    pub(crate) async fn run(
        &self,
        server: &Postgres,
        followed: impl Future<Output = Result<(), Failure>>,
    ) -> Result<Done, Failure> {
        let scratch = Scratch::new()?;
        let script = scratch.path().join("transaction.sql");
        std::fs::write(&script, self.script)?;
        let program = server.program("pgbench");
        let mut command = Command::new(&program);
        command.args(["-n", "-M", "prepared", "-j", "1", "-l", "--random-seed", "1"]);
        command.arg("--log-prefix").arg(scratch.path().join("log"));
        command.args(["-c", &self.clients.to_string(), "-T", &self.seconds.max(1).to_string()]);
        if let Some(rate) = self.rate {
            command.args(["-R", &format!("{rate:.1}")]);
        }
        command.arg("-f").arg(&script).arg(self.url).kill_on_drop(true);
        let before = server_time(server).await;
        let output = command.output().await;
        server.psql(GONE).await?;
        followed.await?;
        let after = server_time(server).await;
        let used = after.zip(before).map(|(after, before)| after.saturating_sub(before));
        let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let Some(rate) = rate(&said).filter(|_| output.status.success()) else {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("pgbench has failed: {}", why.trim()).into());
        };
        let latencies = latencies(&scratch)?;
        let count = u32::try_from(latencies.len().max(1))?;
        let micros = |used: Duration| used.as_secs_f64() * 1e6 / f64::from(count);
        Ok(Done { rate, processor: used.map(micros), latencies })
    }
}

/// Transactions per second, from its report.
fn rate(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split(' ').next()?.parse().ok()
}

/// From its logs. Each line has a client, the number of its transaction, and the latency.
fn latencies(scratch: &Scratch) -> Result<Vec<u32>, Failure> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(scratch.path())? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            found.push(
                latency(line).ok_or_else(|| format!("not a line of a log of pgbench: {line}"))?,
            );
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn latency(line: &str) -> Option<u32> {
    line.split(' ').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_parsed_from_pgbench_output() {
        let said = "latency average = 1.2 ms\ntps = 812.402 (without initial connection time)\n";
        assert_eq!(rate(said), Some(812.402));
        assert_eq!(rate("pgbench: error"), None);
    }

    #[test]
    fn the_latency_is_the_third_field_of_a_line() {
        assert_eq!(latency("0 199 2241 0 1175850568 995598"), Some(2241));
        assert_eq!(latency("0 184 12387 0 1175850569 608 5"), Some(12387));
        assert_eq!(latency("1 2"), None);
    }
}
