//! Discovers replicas that are added and removed at runtime.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::database::Database;

/// A replica that takes longer to respond is tried again at the next interval.
const PATIENCE: Duration = Duration::from_secs(5);

/// The background task of [`Database::discover_replicas`]. Dropping this stops the task; the replicas in use remain.
#[must_use = "dropping it stops the discovery of replicas"]
#[derive(Debug)]
pub struct Discovery(JoinHandle<()>);

impl Drop for Discovery {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Database {
    /// Calls `find` at once and then at each interval, and makes the replicas in use match the URLs that it returns: it
    /// adds new ones, and removes all others, including those configured at the start. Reads in progress on a removed
    /// replica complete normally.
    ///
    /// If `find` fails, nothing changes. If a replica can't be used yet, such as one that is still being restored, it is
    /// not added. Both are logged and tried again. For `find`, query `DescribeDBInstances` for the primary's read replicas
    /// on RDS, or a headless service on Kubernetes.
    ///
    /// ```no_run
    /// # async fn names_of_replicas() -> std::io::Result<Vec<String>> { Ok(Vec::new()) }
    /// # fn example(db: tidegate::Database) {
    /// use std::time::Duration;
    ///
    /// let discovery = db.discover_replicas(Duration::from_secs(15), || async {
    ///     let hosts = names_of_replicas().await?;
    ///     Ok::<_, std::io::Error>(hosts.iter().map(|host| format!("postgres://app@{host}/shop")).collect())
    /// });
    /// # drop(discovery); }
    /// ```
    pub fn discover_replicas<F, R, E>(&self, every: Duration, mut find: F) -> Discovery
    where
        F: FnMut() -> R + Send + 'static,
        R: Future<Output = Result<Vec<String>, E>> + Send,
        E: fmt::Display + Send,
    {
        let db = self.clone();
        Discovery(tokio::spawn(async move {
            let mut ticks = interval(every.max(Duration::from_millis(10)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if db.is_closed() {
                    return;
                }
                match find().await {
                    Ok(urls) => db.reconcile(urls.into_iter().collect()).await,
                    Err(error) => tracing::warn!(%error, "the discovery of replicas failed"),
                }
            }
        }))
    }

    /// Adds and removes replicas until those in use are the ones with these URLs, as far as these can be used.
    async fn reconcile(&self, wanted: BTreeSet<String>) {
        let known = self.replica_urls();
        for (name, _) in known.iter().filter(|(_, url)| !wanted.contains(url)) {
            tracing::info!(replica = %name, "removed a replica");
            self.remove_replica(name);
        }
        let is_new = |url: &&String| known.iter().all(|(_, known)| known != *url);
        for url in wanted.iter().filter(is_new) {
            match timeout(PATIENCE, self.add_replica(url)).await {
                Ok(Ok(name)) => tracing::info!(replica = %name, "added a replica"),
                Ok(Err(error)) => tracing::warn!(%error, "a replica can't be used yet"),
                Err(_) => tracing::warn!("a replica did not respond within {PATIENCE:?}"),
            }
        }
    }
}
