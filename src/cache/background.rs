//! Work that continues without the request that began it.

use futures_util::FutureExt;
use tokio::sync::oneshot;

/// Runs work in the background. Without a runtime the process is ending, and the work is dropped.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(work);
    }
}

/// Runs work to completion. If the request is cancelled while it awaits the work, the work continues in the background.
pub(crate) async fn to_the_end(work: impl Future<Output = ()> + Send + 'static) {
    let mut work = Box::pin(work);
    if (&mut work).now_or_never().is_some() {
        return;
    }
    let (done, end) = oneshot::channel::<()>();
    spawn(async move {
        work.await;
        drop(done);
    });
    // Nothing is sent: the channel closes when the work is done.
    drop(end.await);
}
