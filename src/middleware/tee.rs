//! A body that is buffered while it streams to the client.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::buffer::{BodyBuffer, BufferOutcome};
use super::timed_buffer::{SLOWEST, TimedBuffer};
use crate::cache::{Record, Uncacheable, spawn};

/// A body on its way to the client and into the cache.
pub(crate) struct TeeBody<B: HttpBody> {
    /// `None` once another task reads the rest.
    body: Option<Pin<Box<B>>>,
    /// The scope of the reads that the body makes.
    record: Record,
    buffer: TimedBuffer,
    /// Frames that were read and not yet sent.
    ahead: VecDeque<Result<Frame<Bytes>, B::Error>>,
    ended: bool,
    /// Reads the rest for the cache if the client disconnects.
    finish: Option<fn(Self, Box<BodyBuffer>)>,
}

/// The result of one poll of a buffered body.
struct TeeStep<E> {
    frame: Option<Result<Frame<Bytes>, E>>,
    /// How buffering ended, if it did.
    end: Option<BufferOutcome>,
}

impl<B> TeeBody<B>
where
    B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
{
    /// Buffers a body. If the client disconnects, the rest is read for the buffer's `finish` time.
    pub(crate) fn new(body: B, buffer: Box<BodyBuffer>) -> Self {
        let finish =
            (!buffer.finish.is_zero()).then_some(Self::finish as fn(Self, Box<BodyBuffer>));
        let record = buffer.record().clone();
        let (body, buffer) = (Some(Box::pin(body)), TimedBuffer::new(buffer));
        Self { body, record, buffer, ahead: VecDeque::new(), ended: false, finish }
    }

    /// Reads the rest for the cache in the background, since the client needs no body. It has not disconnected, so the
    /// policy's `finish` does not apply.
    pub(crate) fn read_on(mut self) {
        self.finish = None;
        if let Some(buffer) = self.buffer.take() {
            self.read_within(SLOWEST, buffer);
        }
    }

    fn finish(self, buffer: Box<BodyBuffer>) {
        let limit = buffer.finish;
        self.read_within(limit, buffer);
    }

    fn read_within(mut self, limit: Duration, buffer: Box<BodyBuffer>) {
        self.buffer.put_back(buffer);
        let rest = async move {
            let read = poll_fn(|cx| {
                while self.buffer.is_some() {
                    match self.poll_body(cx) {
                        Poll::Ready(TeeStep { frame: Some(Ok(_)), end: None }) => {}
                        Poll::Ready(_) => break,
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Poll::Ready(())
            });
            drop(tokio::time::timeout(limit, read).await);
        };
        spawn(rest);
    }
}

impl<B: HttpBody<Data = Bytes>> TeeBody<B> {
    /// Reads what is there without waiting. What is read is still sent to the client.
    pub(crate) fn read_ahead(&mut self, cx: &mut Context<'_>) -> Option<BufferOutcome> {
        while let Poll::Ready(step) = self.poll_body(cx) {
            let last = step.frame.is_none();
            self.ahead.extend(step.frame);
            if step.end.is_some() || last || !self.buffer.is_some() {
                return step.end;
            }
        }
        None
    }

    /// Starts streaming, since not all of the body was available at once: to the client, or else to the cache alone.
    pub(crate) fn begin_streaming(&mut self, to_client: bool) {
        let is_measured = self.size_hint().exact().is_some();
        self.buffer.streams(is_measured, to_client);
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.ahead.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => self.poll_body(cx).map(|step| step.frame),
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<TeeStep<B::Error>> {
        let Some(body) = self.body.as_mut().filter(|_| !self.ended) else {
            return Poll::Ready(TeeStep { frame: None, end: None });
        };
        let polled = |body: &mut Pin<Box<B>>, cx: &mut Context<'_>| {
            self.record.sync_scope(|| body.as_mut().poll_frame(cx))
        };
        let Some(mut buffer) = self.buffer.take() else {
            return polled(body, cx).map(|frame| TeeStep { frame, end: None });
        };
        let Poll::Ready(frame) = polled(body, cx) else {
            self.buffer.put_back(buffer);
            return Poll::Pending;
        };
        let end = match &frame {
            None => Some(buffer.end()),
            // An incomplete body is not stored. A waiting request takes over.
            Some(Err(_)) => {
                self.record.refuse(&Uncacheable::new("incomplete", "the body ended with an error"));
                None
            }
            Some(Ok(frame)) => match buffer.take(frame) {
                // The client may recognize this frame as the last one too, and must then find the response in the cache.
                Ok(()) if body.is_end_stream() || buffer.is_whole() => Some(buffer.end()),
                Ok(()) => {
                    self.buffer.put_back(buffer);
                    None
                }
                Err(uncacheable) => Some(BufferOutcome::NotKept(buffer.refuse(uncacheable))),
            },
        };
        self.ended = frame.is_none() || body.is_end_stream();
        Poll::Ready(TeeStep { frame, end })
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.ended && self.ahead.is_empty()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let frames = self.ahead.iter().filter_map(|frame| frame.as_ref().ok());
        let read: u64 = frames.filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let body = self.body.as_ref().filter(|_| !self.ended);
        let rest = body.map_or(SizeHint::with_exact(0), HttpBody::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B: HttpBody> Drop for TeeBody<B> {
    fn drop(&mut self) {
        let (Some(finish), Some(buffer)) = (self.finish.take(), self.buffer.take()) else {
            return;
        };
        let held = self.buffer.hand_over();
        let (body, record, ended) = (self.body.take(), self.record.clone(), self.ended);
        let ahead = VecDeque::new();
        finish(Self { body, record, buffer: held, ahead, ended, finish: None }, buffer);
    }
}
