//! Waiting for a condition.

use std::io;
use std::time::Duration;

/// Polls until `check` is true, for 30 seconds at most.
///
/// # Errors
///
/// If `check` is still false after 30 seconds. The message contains `what`.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    const LIMIT: Duration = Duration::from_secs(30);
    let wait = async {
        while !check().await {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("timed out: {what}"));
    tokio::time::timeout(LIMIT, wait).await.map_err(late)
}
