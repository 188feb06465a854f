//! Replicas that come and go with load.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::database::Database;

/// A replica that takes longer to answer is tried again at the next look.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the replicas in use as they are found; made by [`Database::discover_replicas`]. It ends when this is
/// dropped, and the replicas stay as they are.
#[must_use = "replicas are looked for only while this is kept"]
#[derive(Debug)]
pub struct Discovery(JoinHandle<()>);

impl Drop for Discovery {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Database {
    /// Looks for replicas at once and then at each interval: those whose URLs `find` gives are taken into use,
    /// those that it no longer gives are taken out, with reads under way on them ending in peace. All that are
    /// in use count, those that were given at the start included.
    ///
    /// An error of `find` changes nothing, and neither does a replica that can't be used yet, as one that is
    /// still being restored: each is logged and tried again. On RDS, ask `DescribeDBInstances` for the read
    /// replicas of the primary; on Kubernetes, a headless service.
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
            let mut turns = interval(every.max(Duration::from_millis(10)));
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                turns.tick().await;
                match find().await {
                    Ok(urls) => db.reconcile(urls.into_iter().collect()).await,
                    Err(error) => tracing::warn!(%error, "replicas could not be looked for"),
                }
            }
        }))
    }

    /// Makes the replicas in use those with these URLs, as far as they can be used.
    async fn reconcile(&self, wanted: BTreeSet<String>) {
        let known = self.replica_urls();
        for (name, _) in known.iter().filter(|(_, url)| !wanted.contains(url)) {
            tracing::info!(replica = %name, "a replica is taken out of use");
            self.remove_replica(name);
        }
        let is_new = |url: &&String| known.iter().all(|(_, known)| known != *url);
        for url in wanted.iter().filter(is_new) {
            match timeout(PATIENCE, self.add_replica(url)).await {
                Ok(Ok(name)) => tracing::info!(replica = %name, "a replica is taken into use"),
                Ok(Err(error)) => tracing::warn!(%error, "a replica can't be used yet"),
                Err(_) => tracing::warn!("a replica does not answer within {PATIENCE:?}"),
            }
        }
    }
}
