//! Parses HTTP/1 responses, as far as they are counted.

use super::body::{BadChunk, Body};
use super::cache_status::Cached;

/// Fields that a head may have.
const FIELDS: usize = 64;

/// The parts of a response's head that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) cached: Cached,
    /// Whether another request may follow on the connection.
    pub(super) is_persistent: bool,
}

/// The bytes are not an HTTP/1 response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotHttp;

/// The parser's state within one response.
#[derive(Debug, Default)]
pub(super) struct Reading {
    head: Option<Begun>,
}

impl Reading {
    /// Whether a part of the response has arrived. `waiting` is the number of bytes that are not parsed yet.
    pub(super) fn has_begun(&self, waiting: usize) -> bool {
        self.head.is_some() || waiting > 0
    }

    /// Parses `bytes` and returns how many it consumed. The caller passes the others again, followed by more.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<usize, NotHttp> {
        let mut done = 0;
        while self.head.is_none() {
            let Some((length, found)) = head(&bytes[done..])? else { return Ok(done) };
            done += length;
            // A final response follows an interim one (RFC 9110, section 15.2).
            self.head = (found.0.status >= 200).then_some(found);
        }
        match &mut self.head {
            Some((_, body)) => Ok(done + body.take(&bytes[done..])?),
            None => Ok(done),
        }
    }

    /// The head, once the whole response has been read.
    pub(super) fn finished(&self) -> Option<Head> {
        self.head.and_then(|(head, body)| body.is_over().then_some(head))
    }

    /// The head, if the body ends where the server closes the connection.
    pub(super) fn closed(&self) -> Option<Head> {
        self.head.and_then(|(head, body)| (body == Body::UntilClose).then_some(head))
    }
}

/// A head and what body follows it.
type Begun = (Head, Body);

/// The length and content of the head; `None` if it is incomplete.
fn head(bytes: &[u8]) -> Result<Option<(usize, Begun)>, NotHttp> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = parsed.parse(bytes).map_err(|_| NotHttp)? else {
        return Ok(None);
    };
    let status = parsed.code.unwrap_or_default();
    let is_persistent = parsed.version == Some(1);
    let mut head = Head { status, cached: Cached::default(), is_persistent };
    let mut body = Body::UntilClose;
    for field in parsed.headers.iter() {
        read_field(&mut head, &mut body, field)?;
    }
    if matches!(status, 100..200 | 204 | 304) {
        body = Body::Length(0);
    }
    head.is_persistent &= body != Body::UntilClose;
    Ok(Some((length, (head, body))))
}

fn read_field(
    head: &mut Head,
    body: &mut Body,
    field: &httparse::Header<'_>,
) -> Result<(), NotHttp> {
    let is = |name: &str| field.name.eq_ignore_ascii_case(name);
    match field.name.len() {
        14 if is("content-length") && *body != Body::CHUNKED => {
            *body = Body::Length(number(field.value).ok_or(NotHttp)?);
        }
        17 if is("transfer-encoding") => *body = transferred(field.value),
        12 if is("cache-status") => head.cached = head.cached.and(field.value),
        10 if is("connection") => head.is_persistent &= !has_token(field.value, b"close"),
        _ => {}
    }
    Ok(())
}

fn transferred(value: &[u8]) -> Body {
    if has_token(value, b"chunked") { Body::CHUNKED } else { Body::UntilClose }
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|found| found.trim_ascii().eq_ignore_ascii_case(token))
}

fn number(value: &[u8]) -> Option<u64> {
    str::from_utf8(value).ok()?.trim().parse().ok()
}

impl From<BadChunk> for NotHttp {
    fn from(_: BadChunk) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is found if the text comes in these pieces: the head, and how many bytes are left over.
    fn in_pieces(pieces: &[&[u8]]) -> Result<(Option<Head>, usize), NotHttp> {
        let mut reading = Reading::default();
        let mut waiting = Vec::new();
        for piece in pieces {
            waiting.extend_from_slice(piece);
            let done = reading.read(&waiting)?;
            waiting.drain(..done);
        }
        Ok((reading.finished(), waiting.len()))
    }

    fn whole(text: &str) -> Head {
        let (head, left) = in_pieces(&[text.as_bytes()]).unwrap();
        assert_eq!(left, 0, "{text}");
        head.unwrap()
    }

    const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 5\r\n\
                          Cache-Status: tidegate; hit; ttl=3\r\n\r\nhello";
    const CHUNKED: &str = "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: gzip, chunked\r\n\r\n\
                           5;ext=1\r\nhello\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
    const BARE: &str =
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 900\r\nconnection: close\r\n\r\n";
    const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[test]
    fn responses_of_each_framing_are_parsed() {
        let head = whole(LENGTH);
        assert_eq!((head.status, head.cached, head.is_persistent), (200, Cached::Hit, true));
        assert_eq!(whole(CHUNKED).status, 404);
        let head = whole(BARE);
        assert_eq!((head.status, head.is_persistent), (304, false));
        assert_eq!(whole(INTERIM).status, 200);
    }

    #[test]
    fn a_response_parses_the_same_wherever_it_is_split() {
        for text in [LENGTH, CHUNKED, BARE, INTERIM] {
            let expected = in_pieces(&[text.as_bytes()]).unwrap();
            for at in 0..=text.len() {
                let (front, back) = text.as_bytes().split_at(at);
                assert_eq!(in_pieces(&[front, back]).unwrap(), expected, "{text} at {at}");
                assert!(at == text.len() || in_pieces(&[front]).unwrap().0.is_none());
            }
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(in_pieces(&bytes).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_body_without_a_length_ends_with_the_connection() {
        for head in ["HTTP/1.1 200 OK\r\n\r\nsome", "HTTP/1.0 200 OK\r\n\r\n"] {
            let mut reading = Reading::default();
            assert_eq!(reading.read(head.as_bytes()), Ok(head.len()));
            assert_eq!(reading.finished(), None);
            assert!(!reading.closed().unwrap().is_persistent);
        }
        let mut reading = Reading::default();
        reading.read(&LENGTH.as_bytes()[..LENGTH.len() - 1]).unwrap();
        assert!(reading.has_begun(0) && reading.closed().is_none(), "cut in the middle");
    }

    #[test]
    fn bytes_that_are_not_http_are_an_error() {
        for text in [
            "SSH-2.0-OpenSSH_9\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        ] {
            assert_eq!(in_pieces(&[text.as_bytes()]), Err(NotHttp), "{text}");
        }
    }

    fn chunked(chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for chunk in chunks {
            text.extend(format!("{:x}\r\n", chunk.len()).bytes());
            text.extend(chunk);
            text.extend(b"\r\n");
        }
        text.extend(b"0\r\n\r\n");
        text
    }

    proptest! {
        #[test]
        fn chunked_bodies_parse_whatever_the_chunk_and_piece_sizes(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            sizes in prop::collection::vec(1_usize..30, 1..200),
        ) {
            let text = chunked(&chunks);
            let mut rest = text.as_slice();
            let mut pieces = Vec::new();
            for size in sizes {
                let (front, back) = rest.split_at(size.min(rest.len()));
                pieces.push(front);
                rest = back;
            }
            pieces.push(rest);
            // The start of the next response, which is not consumed.
            pieces.push(b"HTTP");
            let (head, left) = in_pieces(&pieces).unwrap();
            prop_assert_eq!(head.unwrap().status, 200);
            prop_assert_eq!(left, 4);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = in_pieces(&[&bytes]);
        }
    }
}
