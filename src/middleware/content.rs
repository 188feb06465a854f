//! The content of requests by QUERY (RFC 10008), which belongs to the key (section 2.7), and of POST requests that only
//! read.
//!
//! It is read before the lookup, up to a limit, and the handler receives it unchanged. The layer is generic over the type
//! of request bodies, and most types can't be constructed from bytes. So this works only for axum's body type, which is
//! checked at run time; other types need no trait bound.

use std::any::{Any, TypeId};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::timeout;

use super::budget::BudgetShare;

/// How long to wait for the content. A slower client would hold memory for as long as it likes.
const SLOWEST: Duration = Duration::from_secs(30);

/// Whether the content of bodies of this type can be read and then passed on.
pub(crate) fn can_be_read<A: 'static>() -> bool {
    static WARNED: Once = Once::new();
    let can = TypeId::of::<A>() == TypeId::of::<Body>();
    if !can {
        WARNED.call_once(|| {
            tracing::warn!(
                "QUERY and POST requests bypass the cache, since the service's request body is not axum::body::Body: \
                 convert it in a layer around the CacheLayer, as in \
                 `.map_request(|request: Request<_>| request.map(axum::body::Body::new))`"
            );
        });
    }
    can
}

/// A request without content, twice, if a body of this type can be constructed.
pub(crate) fn twice<A: 'static>(request: Request<A>) -> (Request<A>, Option<Request<A>>) {
    let mut empty = Some(Body::empty());
    let empty = (&mut empty as &mut dyn Any).downcast_mut::<Option<A>>().and_then(Option::take);
    let (parts, body) = request.into_parts();
    let again = empty.map(|empty| Request::from_parts(parts.clone(), empty));
    (Request::from_parts(parts, body), again)
}

/// Reads a request's content, up to `limit` bytes. `None` if it is larger, can't be read, has trailers, or does not fit
/// into the byte budget. In any case the request keeps its whole body.
pub(crate) async fn read<A: 'static>(
    request: &mut Request<A>,
    limit: usize,
    share: BudgetShare,
) -> Option<Bytes> {
    let body = as_axum(request.body_mut())?;
    if body.size_hint().lower() > limit as u64 {
        return None;
    }
    let mut reading = Reading::new(std::mem::take(body), limit, share);
    let is_whole = timeout(SLOWEST, reading.run()).await.unwrap_or(false);
    let read = reading.read.split().freeze();
    *body = match is_whole {
        true => Body::from(read.clone()),
        false => reading.into_body(read.clone()),
    };
    is_whole.then_some(read)
}

fn as_axum<A: 'static>(body: &mut A) -> Option<&mut Body> {
    (body as &mut dyn Any).downcast_mut()
}

type Read = Result<Frame<Bytes>, axum::Error>;

/// A body that is being read. The bytes are collected in one buffer, since each frame may be a single byte.
struct Reading {
    rest: Body,
    read: BytesMut,
    /// The frame that ended the reading, which is passed on.
    last: Option<Read>,
    limit: usize,
    share: BudgetShare,
}

impl Reading {
    fn new(rest: Body, limit: usize, share: BudgetShare) -> Self {
        Self { rest, read: BytesMut::new(), last: None, limit, share }
    }

    /// Reads the body; returns whether it came to its end.
    async fn run(&mut self) -> bool {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut self.rest).poll_frame(cx)).await {
            self.last = self.keep(frame);
            if self.last.is_some() {
                return false;
            }
        }
        true
    }

    /// Adds a frame's data to the buffer, or returns the frame if it does not fit or is no data.
    fn keep(&mut self, frame: Read) -> Option<Read> {
        let data = frame.as_ref().ok().and_then(Frame::data_ref);
        let data = data.filter(|data| data.len() <= self.limit - self.read.len());
        match data.filter(|data| self.share.take(data.len())) {
            Some(data) => {
                self.read.extend_from_slice(data);
                None
            }
            None => Some(frame),
        }
    }

    /// The original body, which begins with what has been read.
    fn into_body(self, read: Bytes) -> Body {
        let read = (!read.is_empty()).then(|| Ok(Frame::data(read)));
        Body::new(Resumed { read: read.into_iter().chain(self.last).collect(), rest: self.rest })
    }
}

/// A body whose beginning has been read already.
struct Resumed {
    read: VecDeque<Read>,
    rest: Body,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Read>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let frames = self.read.iter().filter_map(|frame| frame.as_ref().ok());
        let read: u64 = frames.filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}
