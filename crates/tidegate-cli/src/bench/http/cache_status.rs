//! Parses `Cache-Status` (RFC 9211) without allocating.

use std::ops::ControlFlow;

/// Why a cache forwarded a request towards the origin (section 2.2).
const REASONS: [&str; 8] =
    ["bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"];

const OTHER: usize = REASONS.len();

/// What a response says about the caches that it passed through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Cached {
    /// One of them served it.
    Hit,
    /// All of them forwarded the request; the reason of the one nearest to the client.
    Forwarded(Reason),
    /// No cache says anything.
    #[default]
    Unsaid,
}

/// A reason, as a number for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reason(usize);

impl Reason {
    /// How many there are.
    pub(super) const COUNT: usize = 2 * (OTHER + 1);

    pub(super) fn index(self) -> usize {
        self.0
    }

    /// By its number.
    pub(super) fn name(index: usize) -> String {
        let reason = REASONS.get(index / 2).unwrap_or(&"other");
        if index.is_multiple_of(2) { (*reason).to_owned() } else { format!("{reason}, collapsed") }
    }
}

/// The parser's state within one list member.
#[derive(Default)]
struct Member {
    /// Whether the first piece, the cache's name, has been read.
    is_named: bool,
    is_hit: bool,
    forwarded: Option<usize>,
    is_collapsed: bool,
}

impl Cached {
    /// Adds one field line; several lines form one list.
    pub(super) fn and(self, line: &[u8]) -> Self {
        let mut found = self;
        let mut member = Member::default();
        let mut rest = line;
        while !rest.is_empty() {
            let (piece, end, after) = piece(rest);
            member.read(piece);
            if end != Some(b';') {
                found = member.settle(found);
                member = Member::default();
            }
            rest = after;
        }
        found
    }
}

impl Member {
    fn read(&mut self, piece: &[u8]) {
        match piece {
            _ if !self.is_named => self.is_named = true,
            b"hit" | b"hit=?1" => self.is_hit = true,
            b"collapsed" | b"collapsed=?1" => self.is_collapsed = true,
            _ => self.forwarded = piece.strip_prefix(b"fwd=").map(reason).or(self.forwarded),
        }
    }

    /// Later members are nearer to the client. A hit in any cache is a hit.
    fn settle(self, so_far: Cached) -> Cached {
        match (so_far, self.forwarded) {
            (Cached::Hit, _) => Cached::Hit,
            _ if self.is_hit => Cached::Hit,
            (_, Some(reason)) => {
                Cached::Forwarded(Reason(2 * reason + usize::from(self.is_collapsed)))
            }
            (so_far, None) => so_far,
        }
    }
}

fn reason(value: &[u8]) -> usize {
    let name = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
    REASONS.iter().position(|reason| reason.as_bytes() == name).unwrap_or(OTHER)
}

/// What is before the next `;` or `,` outside of quotes, which of them it is, and what is after it.
fn piece(text: &[u8]) -> (&[u8], Option<u8>, &[u8]) {
    let mut is_quoted = false;
    let mut is_escaped = false;
    let found = text.iter().try_fold(0, |at, byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b';' | b',' if !is_quoted => return ControlFlow::Break(at),
            _ => {}
        }
        ControlFlow::Continue(at + 1)
    });
    match found {
        ControlFlow::Break(at) => (text[..at].trim_ascii(), Some(text[at]), &text[at + 1..]),
        ControlFlow::Continue(_) => (text.trim_ascii(), None, &[]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> Cached {
        Cached::default().and(line.as_bytes())
    }

    fn forwarded(name: &str) -> Cached {
        let index = (0..Reason::COUNT).find(|index| Reason::name(*index) == name);
        Cached::Forwarded(Reason(index.unwrap()))
    }

    #[test]
    fn cache_status_values_are_parsed_as_in_rfc_9211() {
        for (line, expected) in [
            ("ExampleCache; hit", Cached::Hit),
            ("ExampleCache; hit; ttl=30; detail=memory", Cached::Hit),
            ("ExampleCache; fwd=uri-miss", forwarded("uri-miss")),
            ("ExampleCache; fwd=stale; fwd-status=304", forwarded("stale")),
            ("ExampleCache; fwd=miss; collapsed", forwarded("miss, collapsed")),
            ("OriginCache; hit; ttl=1100, \"CDN Company Here\"; hit; ttl=545", Cached::Hit),
            ("OriginCache; hit; ttl=30, Near; fwd=uri-miss", Cached::Hit),
            ("A; fwd=bypass, B; fwd=vary-miss", forwarded("vary-miss")),
            ("A; fwd=something", forwarded("other")),
            ("\"a; hit, b; hit\"; fwd=partial", forwarded("partial")),
            ("a; detail=\"\\\"; hit\"; fwd=method", forwarded("method")),
            ("hit; fwd=request, hit", forwarded("request")),
            ("hit", Cached::Unsaid),
            ("", Cached::Unsaid),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
    }

    #[test]
    fn several_cache_status_lines_are_one_list() {
        let near = read("Origin; hit").and(b"Near; fwd=miss");
        assert_eq!(near, Cached::Hit);
        assert_eq!(read("Origin; fwd=miss").and(b"Near; hit"), Cached::Hit);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Cached::default().and(&line);
        }
    }
}
