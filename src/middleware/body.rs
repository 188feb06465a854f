//! The body of an answer: stored, passed on, or passed on and kept at once.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::cache::{Filled, Lead, Unfit};

pin_project! {
    /// The body of an answer from [`CacheService`](super::CacheService).
    pub struct Body<B>
    where
        B: HttpBody,
    {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B>
    where
        B: HttpBody,
    {
        Stored { bytes: Option<Bytes> },
        Passed { #[pin] body: B },
        Captured { captured: Captured<B> },
    }
}

impl<B: HttpBody> Body<B> {
    pub(crate) fn stored(bytes: Bytes) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self { kind: Kind::Stored { bytes } }
    }

    pub(crate) fn passed(body: B) -> Self {
        Self { kind: Kind::Passed { body } }
    }

    pub(crate) fn captured(captured: Captured<B>) -> Self {
        Self { kind: Kind::Captured { captured } }
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
            KindProj::Stored { bytes } => Poll::Ready(bytes.take().map(|all| Ok(Frame::data(all)))),
            KindProj::Passed { body } => body.poll_frame(cx),
            KindProj::Captured { captured } => match captured.ahead.pop_front() {
                Some(frame) => Poll::Ready(Some(frame)),
                None => captured.poll_body(cx).map(|step| step.frame),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Stored { bytes } => bytes.is_none(),
            Kind::Passed { body } => body.is_end_stream(),
            // Until its end has been polled, a captured body is not stored.
            Kind::Captured { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Stored { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Passed { body } => body.size_hint(),
            Kind::Captured { captured } => captured.size_hint(),
        }
    }
}

impl<B: HttpBody> fmt::Debug for Body<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Stored { .. } => "Body(stored)",
            Kind::Passed { .. } => "Body(passed)",
            Kind::Captured { .. } => "Body(captured)",
        })
    }
}

/// A body on its way to the client and into the cache.
pub(crate) struct Captured<B: HttpBody> {
    body: Pin<Box<B>>,
    capture: Option<Capture>,
    /// Read, and not yet sent.
    ahead: VecDeque<Result<Frame<Bytes>, B::Error>>,
    ended: bool,
}

/// One look at a body that is being captured.
struct Step<E> {
    frame: Option<Result<Frame<Bytes>, E>>,
    /// What became of the capture, if this was its end.
    end: Option<End>,
}

/// How a capture ended.
pub(crate) enum End {
    /// The body is whole.
    Whole(Filled, Bytes),
    /// It can't be kept, and goes on.
    NotKept(Unfit),
}

impl<B: HttpBody<Data = Bytes>> Captured<B> {
    pub(crate) fn new(body: B, capture: Capture) -> Self {
        let ahead = VecDeque::new();
        Self { body: Box::pin(body), capture: Some(capture), ahead, ended: false }
    }

    /// Reads what is there without waiting. What is read is still sent to the client.
    pub(crate) fn read_ahead(&mut self, cx: &mut Context<'_>) -> Option<End> {
        while let Poll::Ready(step) = self.poll_body(cx) {
            let last = step.frame.is_none();
            self.ahead.extend(step.frame);
            if step.end.is_some() || last || self.capture.is_none() {
                return step.end;
            }
        }
        None
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Step<B::Error>> {
        if self.ended {
            return Poll::Ready(Step { frame: None, end: None });
        }
        let Some(mut capture) = self.capture.take() else {
            return self.body.as_mut().poll_frame(cx).map(|frame| Step { frame, end: None });
        };
        let record = capture.lead.record().clone();
        let Poll::Ready(frame) = record.sync_scope(|| self.body.as_mut().poll_frame(cx)) else {
            self.capture = Some(capture);
            return Poll::Pending;
        };
        let end = match &frame {
            None => {
                self.ended = true;
                let (filled, bytes) = capture.finish();
                Some(End::Whole(filled, bytes))
            }
            // Half an answer is none: the next who waits makes a whole one.
            Some(Err(_)) => None,
            Some(Ok(frame)) => match capture.take(frame) {
                Ok(()) => {
                    self.capture = Some(capture);
                    None
                }
                Err(unfit) => Some(End::NotKept(capture.lead.pass(unfit))),
            },
        };
        Poll::Ready(Step { frame, end })
    }

    fn size_hint(&self) -> SizeHint {
        let frames = self.ahead.iter().filter_map(|frame| frame.as_ref().ok());
        let read: u64 = frames.filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

/// A body being kept, up to its limit.
#[derive(Debug)]
pub(crate) struct Capture {
    lead: Box<Lead>,
    head: Bytes,
    negative: bool,
    limit: usize,
    taken: Vec<Bytes>,
    length: usize,
}

impl Capture {
    pub(crate) fn new(lead: Box<Lead>, head: Bytes, negative: bool, limit: usize) -> Self {
        Self { lead, head, negative, limit, taken: Vec::new(), length: 0 }
    }

    /// Keeps a frame, or says why the body can't be kept.
    fn take(&mut self, frame: &Frame<Bytes>) -> Result<(), Unfit> {
        let Some(data) = frame.data_ref() else {
            return Err(Unfit::new("trailers", "answers with trailers are not stored"));
        };
        self.length = self.length.saturating_add(data.len());
        if self.length > self.limit {
            let why =
                format!("the body is larger than {} bytes; see Policy::body_limit", self.limit);
            self.taken = Vec::new();
            return Err(Unfit::new("too-large", why));
        }
        self.taken.push(data.clone());
        Ok(())
    }

    /// The body is whole: stores it.
    fn finish(self) -> (Filled, Bytes) {
        let body = joined(self.taken, self.length);
        (self.lead.fill(self.negative, self.head, body.clone()), body)
    }
}

fn joined(mut parts: Vec<Bytes>, length: usize) -> Bytes {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let whole = BytesMut::with_capacity(length);
    let whole = parts.into_iter().fold(whole, |mut whole, part| {
        whole.extend_from_slice(&part);
        whole
    });
    whole.freeze()
}
