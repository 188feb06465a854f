//! Many requests in the body of one, and their responses: most of what a check costs is otherwise HTTP between the
//! checker and its nodes.
//!
//! A node passes each request by itself to the whole service, so each response has an age, an epoch and a moment of its own.
//!
//! ```text
//! request   count, then for each: path, session token       (u16; each text: u16 length, bytes)
//! response  for each: status, headers (`HEADERS`), body     (u16; each: u16 length, bytes; body: u32 length, bytes)
//! ```

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};

use super::client::Answer;
use super::node::{AGE, ASKED, EPOCH};

/// The path of a node that takes batches.
pub(crate) const PATH: &str = "/batch";
/// The requests that a batch may have.
pub(crate) const MOST: usize = 256;
/// The headers that the checker uses. One that a response does not have is empty.
const HEADERS: [&str; 5] = ["cache-status", "tidegate-position", AGE, ASKED, EPOCH];

/// One request of a batch, by `GET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) path: String,
    /// The token of a session; empty for none.
    pub(crate) token: String,
}

pub(crate) fn write_asks<'a>(asks: impl ExactSizeIterator<Item = &'a Ask>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(64 * asks.len());
    bytes.put_u16(u16::try_from(asks.len()).unwrap_or(u16::MAX));
    for ask in asks {
        put_short(&mut bytes, ask.path.as_bytes());
        put_short(&mut bytes, ask.token.as_bytes());
    }
    bytes.freeze()
}

/// The requests of a batch; `None` if it has another form, or too many.
pub(crate) fn read_asks(mut bytes: Bytes) -> Option<Vec<Ask>> {
    let count = usize::from(bytes.try_get_u16().ok()?);
    let mut asks = Vec::with_capacity(count.min(MOST));
    for _ in 0..count {
        let (path, token) = (take_short(&mut bytes)?, take_short(&mut bytes)?);
        asks.push(Ask { path: text(&path)?, token: text(&token)? });
    }
    (bytes.is_empty() && count <= MOST).then_some(asks)
}

pub(crate) fn write_answer(
    bytes: &mut BytesMut,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) {
    bytes.put_u16(status.as_u16());
    for name in HEADERS {
        put_short(bytes, headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default());
    }
    bytes.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    bytes.put_slice(body);
}

/// The responses to so many requests; `None` if they have another form.
pub(crate) fn read_answers(mut bytes: Bytes, count: usize) -> Option<Vec<Answer>> {
    let answers = (0..count).map(|_| read_answer(&mut bytes)).collect::<Option<_>>()?;
    bytes.is_empty().then_some(answers)
}

fn read_answer(bytes: &mut Bytes) -> Option<Answer> {
    let status = StatusCode::from_u16(bytes.try_get_u16().ok()?).ok()?;
    let mut headers = HeaderMap::with_capacity(HEADERS.len());
    for name in HEADERS {
        let value = take_short(bytes)?;
        if !value.is_empty() {
            let value = HeaderValue::from_maybe_shared(value).ok()?;
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let length = bytes.try_get_u32();
    let body = text(&take(bytes, length.map(|length| usize::try_from(length).ok()))?)?;
    Some(Answer { status, headers, body })
}

fn put_short(bytes: &mut BytesMut, text: &[u8]) {
    // Paths, tokens and headers are far shorter.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    bytes.put_u16(length);
    bytes.put_slice(&text[..usize::from(length)]);
}

fn take_short(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u16();
    take(bytes, length.map(|length| Some(usize::from(length))))
}

fn take(bytes: &mut Bytes, length: Result<Option<usize>, TryGetError>) -> Option<Bytes> {
    let length = length.ok()??;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &str, token: &str) -> Ask {
        Ask { path: path.into(), token: token.into() }
    }

    #[test]
    fn encoded_requests_decode_unchanged_and_truncated_ones_are_refused() {
        let asks = vec![ask("/rows/7", ""), ask("/pages/3", "a token")];
        let written = write_asks(asks.iter());
        assert_eq!(read_asks(written.clone()), Some(asks));
        for end in 0..written.len() {
            assert_eq!(read_asks(written.slice(..end)), None, "cut at {end}");
        }
        assert_eq!(read_asks(write_asks(vec![ask("/", ""); MOST + 1].iter())), None);
    }

    #[test]
    fn encoded_responses_decode_unchanged_and_truncated_ones_are_refused() {
        let mut headers = HeaderMap::new();
        headers.insert("cache-status", HeaderValue::from_static("tidegate; hit"));
        headers.insert(AGE, HeaderValue::from_static("12"));
        headers.insert("date", HeaderValue::from_static("not used"));
        let mut written = BytesMut::new();
        write_answer(&mut written, StatusCode::OK, &headers, b"? row 7\n7 1 2\n");
        write_answer(&mut written, StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new(), b"");
        let written = written.freeze();
        let answers = read_answers(written.clone(), 2).unwrap();
        assert_eq!(answers[0].body, "? row 7\n7 1 2\n");
        assert_eq!(answers[0].header("cache-status"), Some("tidegate; hit"));
        assert_eq!((answers[0].header(AGE), answers[0].header("date")), (Some("12"), None));
        assert_eq!(answers[1].status, StatusCode::SERVICE_UNAVAILABLE);
        for end in 0..written.len() {
            assert!(read_answers(written.slice(..end), 2).is_none(), "cut at {end}");
        }
        assert!(read_answers(written, 1).is_none(), "one too many");
    }
}
