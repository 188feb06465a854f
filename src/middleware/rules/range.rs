//! Range requests for a stored response (RFC 9110, section 14; RFC 9111, section 3.4).

use http::header::RANGE;
use http::{HeaderMap, HeaderValue};

/// The part of a body to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangePart {
    /// All of it.
    Whole,
    /// From the first index up to and excluding the second.
    Bytes(usize, usize),
    /// Not satisfiable: the range begins past the end.
    None,
}

/// The requested part of a body of `length` bytes. A request for several ranges gets the whole body (RFC 9110, section
/// 14.2, allows it), since many small ranges are a way to overload a server.
pub(crate) fn part(request: &HeaderMap, length: usize) -> RangePart {
    let mut lines = request.get_all(RANGE).into_iter();
    match (lines.next().map(HeaderValue::as_bytes), lines.next()) {
        (Some(line), None) => read(line, length).unwrap_or(RangePart::Whole),
        _ => RangePart::Whole,
    }
}

/// Parses a `bytes` range; `None` if it is malformed and thus ignored.
fn read(line: &[u8], length: usize) -> Option<RangePart> {
    let line = std::str::from_utf8(line).ok()?;
    let (unit, spec) = line.split_once('=')?;
    let (first, last) = spec.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    Some(match (number(first)?, number(last)?) {
        (None, None) => return None,
        (None, Some(0)) => RangePart::None,
        (None, Some(count)) if length > 0 => RangePart::Bytes(length.saturating_sub(count), length),
        (Some(first), Some(last)) if last < first => return None,
        (Some(first), last) if first < length => {
            RangePart::Bytes(first, last.map_or(length, |last| last.saturating_add(1).min(length)))
        }
        _ => RangePart::None,
    })
}

/// `Some(None)` if there is no number, `None` if there is something else.
#[expect(clippy::option_option, reason = "absent and malformed are two things")]
fn number(digits: &str) -> Option<Option<usize>> {
    match digits {
        "" => Some(None),
        _ if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(Some(digits.parse().unwrap_or(usize::MAX)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str], length: usize) -> RangePart {
        let lines = lines.iter().map(|line| (RANGE, line.parse().unwrap()));
        part(&lines.collect(), length)
    }

    #[test]
    fn a_single_byte_range_is_parsed() {
        for (line, part) in [
            ("bytes=0-1", RangePart::Bytes(0, 2)),
            ("bytes=1-", RangePart::Bytes(1, 10)),
            ("bytes=-3", RangePart::Bytes(7, 10)),
            ("bytes=-30", RangePart::Bytes(0, 10)),
            ("bytes=9-99999999999999999999999", RangePart::Bytes(9, 10)),
            ("Bytes = 2-2", RangePart::Bytes(2, 3)),
            ("bytes=10-", RangePart::None),
            ("bytes=-0", RangePart::None),
            ("bytes=99999999999999999999999-", RangePart::None),
        ] {
            assert_eq!(of(&[line], 10), part, "{line}");
        }
        assert_eq!(of(&["bytes=-5"], 0), RangePart::None);
    }

    #[test]
    fn any_other_range_field_yields_the_whole_body() {
        for line in
            ["bytes=0-1,3-4", "bytes=5-1", "bytes=-", "bytes=a-b", "lines=1-2", "bytes", "bytes=1"]
        {
            assert_eq!(of(&[line], 10), RangePart::Whole, "{line}");
        }
        assert_eq!(of(&["bytes=0-1", "bytes=2-3"], 10), RangePart::Whole);
        assert_eq!(of(&[], 10), RangePart::Whole);
    }
}
