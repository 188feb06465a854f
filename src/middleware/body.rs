//! Response bodies: from the cache, passed through, or passed through and stored at the same time.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::comparison::Comparison;
use super::tee::TeeBody;
use crate::cache::Record;

pin_project! {
    /// The body of a response from [`CacheService`](super::CacheService).
    pub struct Body<B>
    where
        B: HttpBody,
    {
        #[pin]
        kind: BodyKind<B>,
    }
}

/// What reading a body gives.
type BodyStep<B> = Result<Frame<Bytes>, <B as HttpBody>::Error>;

pin_project! {
    #[project = KindProj]
    enum BodyKind<B>
    where
        B: HttpBody,
    {
        Stored { bytes: Option<Bytes>, trailers: Option<HeaderMap> },
        Within { record: Record, #[pin] body: B },
        Begun { record: Record, first: Option<BodyStep<B>>, body: Pin<Box<B>> },
        Tee { tee: TeeBody<B> },
        Compared { #[pin] body: B, comparison: Option<Comparison> },
    }
}

/// Empty: what layers such as a timeout respond with in place of the service.
impl<B: HttpBody> Default for Body<B> {
    fn default() -> Self {
        Self::stored(Bytes::new(), None)
    }
}

impl<B: HttpBody> Body<B> {
    pub(crate) fn stored(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self { kind: BodyKind::Stored { bytes, trailers } }
    }

    /// The handler's body, which is polled within its scope, since it may still read.
    pub(crate) fn within(record: Record, body: B) -> Self {
        Self { kind: BodyKind::Within { record, body } }
    }

    /// Reads the handler's body if it is at hand as a whole, which most are; if not, it is passed on as it is.
    pub(crate) fn read_whole(
        record: Record,
        body: B,
        cx: &mut Context<'_>,
    ) -> Result<Bytes, Box<Self>>
    where
        B: HttpBody<Data = Bytes>,
    {
        let mut body = Box::pin(body);
        let first = match record.sync_scope(|| body.as_mut().poll_frame(cx)) {
            Poll::Ready(None) => return Ok(Bytes::new()),
            Poll::Ready(Some(Ok(frame))) if body.is_end_stream() => match frame.into_data() {
                Ok(bytes) => return Ok(bytes),
                Err(trailers) => Some(Ok(trailers)),
            },
            Poll::Ready(step) => step,
            Poll::Pending => None,
        };
        Err(Box::new(Self { kind: BodyKind::Begun { record, first, body } }))
    }

    /// The handler's body, compared with the stored one while it is sent.
    pub(crate) fn compared(body: B, comparison: Comparison) -> Self {
        Self { kind: BodyKind::Compared { body, comparison: Some(comparison) } }
    }

    pub(crate) fn tee(tee: TeeBody<B>) -> Self {
        Self { kind: BodyKind::Tee { tee } }
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for Body<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Stored { bytes, trailers } => {
                let data = bytes.take().map(Frame::data);
                Poll::Ready(data.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            KindProj::Within { record, body } => record.sync_scope(|| body.poll_frame(cx)),
            KindProj::Begun { record, first, body } => match first.take() {
                Some(step) => Poll::Ready(Some(step)),
                None => record.sync_scope(|| body.as_mut().poll_frame(cx)),
            },
            KindProj::Tee { tee } => tee.poll_frame(cx),
            KindProj::Compared { mut body, comparison } => {
                let mut poll = || body.as_mut().poll_frame(cx);
                let polled = match comparison {
                    Some(comparison) => comparison.record.clone().sync_scope(poll),
                    None => poll(),
                };
                if let Poll::Ready(frame) = &polled {
                    compare(comparison, frame.as_ref(), body.is_end_stream());
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Stored { bytes, trailers } => bytes.is_none() && trailers.is_none(),
            BodyKind::Within { body, .. } | BodyKind::Compared { body, .. } => body.is_end_stream(),
            BodyKind::Begun { first, body, .. } => first.is_none() && body.is_end_stream(),
            BodyKind::Tee { tee } => tee.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Stored { bytes, trailers } => {
                let length = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                let mut hint = SizeHint::with_exact(length);
                if trailers.is_some() {
                    // A length that is known up front leaves no room for trailers in HTTP/1.1.
                    hint = SizeHint::new();
                    hint.set_lower(length);
                }
                hint
            }
            BodyKind::Within { body, .. } | BodyKind::Compared { body, .. } => body.size_hint(),
            BodyKind::Begun { first, body, .. } => {
                let read = first.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len);
                let read = read.sum::<usize>() as u64;
                let rest = body.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(read));
                if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
                    hint.set_upper(upper);
                }
                hint
            }
            BodyKind::Tee { tee } => tee.size_hint(),
        }
    }
}

/// Passes a frame to the comparison, and ends it at the last frame. An incomplete body is not judged.
fn compare<E>(
    comparison: &mut Option<Comparison>,
    frame: Option<&Result<Frame<Bytes>, E>>,
    is_last: bool,
) {
    let Some(mut compared) = comparison.take() else { return };
    match frame {
        Some(Err(_)) => return,
        Some(Ok(frame)) => frame.data_ref().into_iter().for_each(|part| compared.take(part)),
        None => {}
    }
    if frame.is_none() || is_last {
        compared.end();
    } else {
        *comparison = Some(compared);
    }
}

impl<B: HttpBody> fmt::Debug for Body<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            BodyKind::Stored { .. } => "Body(stored)",
            BodyKind::Within { .. } | BodyKind::Begun { .. } => "Body(passed)",
            BodyKind::Tee { .. } => "Body(captured)",
            BodyKind::Compared { .. } => "Body(compared)",
        })
    }
}
