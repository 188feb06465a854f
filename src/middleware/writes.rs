//! What follows from a request that wrote: the invalidation of what it affects, and a session token.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::timeout;

use super::settings::LayerSettings;
use crate::cache::to_the_end;

/// How long a response waits for the invalidation that its write causes, and for the position of its token.
const PATIENCE: Duration = Duration::from_secs(3);

/// Invalidates the tags of a write, even if the client disconnects meanwhile. The response waits for at most
/// [`PATIENCE`], and a failure is only logged: the handler's write is committed.
pub(super) async fn invalidate(routes: &LayerSettings, tags: Vec<String>) {
    let cache = routes.cache.clone();
    let has_log = cache.log().is_some();
    let work = to_the_end(async move {
        if let Err(error) = cache.invalidate(tags).await {
            tracing::warn!(%error, "could not invalidate the stored responses that a write affects: they stay until \
                                    their TTL ends");
        }
    });
    match has_log {
        true => drop(timeout(PATIENCE, work).await),
        // There is nothing to wait for.
        false => work.await,
    }
}

/// If the request wrote, adds a token with a position past its writes. Boxed, since most requests do not write.
pub(super) async fn give_token(routes: &LayerSettings, wrote: bool, headers: &mut HeaderMap) {
    if wrote {
        Box::pin(write_token(routes, headers)).await;
    }
}

async fn write_token(routes: &LayerSettings, headers: &mut HeaderMap) {
    let (Some(sessions), Some(log)) = (&routes.sessions, routes.cache.log()) else { return };
    match timeout(PATIENCE, log.position()).await {
        Ok(Ok(at)) => sessions.write(headers, at),
        Ok(Err(error)) => tracing::warn!(%error, "could not issue a session token for a write"),
        Err(_) => tracing::warn!(
            within = ?PATIENCE,
            "could not issue a session token for a write: no connection to the primary was free, or it did not respond"
        ),
    }
}
