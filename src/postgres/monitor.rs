//! Asking a replica, again and again, how far it is.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{ConnectOptions, PgConnection};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::log::identity;
use super::server::Server;

/// A replica that takes longer than this to say how far it is counts as down.
const PATIENCE: Duration = Duration::from_secs(1);

/// The task that asks; it ends when this is dropped.
pub(crate) struct Monitor(JoinHandle<()>);

impl Monitor {
    pub(crate) fn spawn(server: &Arc<Server>, every: Duration) -> Self {
        Self(tokio::spawn(watch(server.clone(), every)))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(server: Arc<Server>, every: Duration) {
    const SLOWEST: Duration = Duration::from_secs(1);
    let mut pause = every;
    loop {
        if let Ok(Ok(mut conn)) = timeout(PATIENCE, server.options.connect()).await {
            pause = every;
            follow(&server, &mut conn, every).await;
        }
        server.lose();
        sleep(pause).await;
        pause = (pause * 2).min(SLOWEST);
    }
}

/// Asks until there is no answer.
async fn follow(server: &Server, conn: &mut PgConnection, every: Duration) {
    while let Ok(Ok(identity)) = timeout(PATIENCE, identity(&mut *conn)).await {
        server.observe(&identity);
        sleep(every).await;
    }
    tracing::warn!(server = %server.label(), "a replica does not answer");
}
