//! The future of a response.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use http::Response;
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;

use super::body::Body;
use super::response::passed;
use crate::cache::Record;
use crate::outcome::BypassReason;

pin_project! {
    /// The future of a response from [`CacheService`](super::CacheService).
    pub struct ResponseFuture<F, B, E>
    where
        B: HttpBody,
    {
        #[pin]
        kind: FutureKind<F, B, E>,
        // Whether the service was called outside any scope, so that no scope has noted the response's dependencies.
        unnoted: bool,
    }
}

pin_project! {
    #[project = KindProj]
    enum FutureKind<F, B, E>
    where
        B: HttpBody,
    {
        /// The response is ready.
        Ready { response: Option<Response<Body<B>>> },
        /// The handler's future, uncached.
        Passed { #[pin] inner: TaskLocalFuture<Record, F>, reason: BypassReason, record: Record },
        /// Everything that has to wait.
        Work { work: BoxFuture<'static, Result<Response<Body<B>>, E>> },
    }
}

impl<F, B: HttpBody, E> ResponseFuture<F, B, E> {
    pub(crate) fn ready(response: Response<Body<B>>) -> Self {
        Self { kind: FutureKind::Ready { response: Some(response) }, unnoted: Record::is_in_none() }
    }

    pub(crate) fn bypassed(
        inner: TaskLocalFuture<Record, F>,
        reason: BypassReason,
        record: Record,
    ) -> Self {
        Self { kind: FutureKind::Passed { inner, reason, record }, unnoted: Record::is_in_none() }
    }

    pub(crate) fn pending(work: BoxFuture<'static, Result<Response<Body<B>>, E>>) -> Self {
        Self { kind: FutureKind::Work { work }, unnoted: false }
    }

    /// Work whose scope was opened when the service was called.
    pub(crate) fn begun(self) -> Self {
        Self { unnoted: Record::is_in_none(), ..self }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody<Data = bytes::Bytes>,
{
    type Output = Result<Response<Body<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if std::mem::take(this.unnoted) {
            Record::note_unknown_part();
        }
        match this.kind.project() {
            KindProj::Ready { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending, // polled after it was ready
            },
            KindProj::Passed { inner, reason, record } => {
                let response = ready!(inner.poll(cx))?;
                Poll::Ready(Ok(passed(response, *reason, record.clone())))
            }
            KindProj::Work { work } => work.as_mut().poll(cx),
        }
    }
}

impl<F, B: HttpBody, E> std::fmt::Debug for ResponseFuture<F, B, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
