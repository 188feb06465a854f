//! Postgres' own load generator.

use tidegate_testing::Postgres;
use tokio::process::Command;

use crate::Failure;

/// Runs it with these options on the database of a URL; returns the transactions a second that it counted.
pub(crate) async fn pgbench(
    server: &Postgres,
    url: &str,
    options: &[&str],
) -> Result<f64, Failure> {
    let program = server.program("pgbench");
    let output = Command::new(&program)
        .args(["-n", "-M", "prepared", "-j", "1"])
        .args(options)
        .arg(url)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    rate(&said).ok_or_else(|| {
        let why = String::from_utf8_lossy(&output.stderr);
        format!("pgbench did not say how fast it was: {}", why.trim()).into()
    })
}

fn rate(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split(' ').next()?.parse().ok()
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
}
