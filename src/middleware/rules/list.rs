//! Fields that are lists (RFC 9110, section 5.6.1).

use http::header::AsHeaderName;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The value of a structured field over all its lines (RFC 9651, section 4.2); `None` if there is none.
pub(crate) fn structured(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    if !headers.contains_key(name) {
        return None;
    }
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    Some(lines.join(&b", "[..]))
}

/// The non-empty members of a field, over all its lines. A comma within a quoted string does not separate members.
pub(crate) fn members(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter();
    lines.flat_map(|line| split(line.as_bytes()))
}

/// The members of one line.
pub(crate) fn split(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quotes = Quotes::default();
    line.split(move |byte| !quotes.within(*byte) && *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// Whether each quoted string on a line of directives is a value: it begins after an equals sign and ends its member
/// (RFC 9111, section 5.2). If one is not, caches differ in what they consider quoted.
pub(crate) fn is_well_quoted(line: &[u8]) -> bool {
    split(line).all(|member| {
        let Some(at) = member.iter().position(|byte| *byte == b'"') else { return true };
        let (name, quoted) = member.split_at(at);
        let mut quotes = Quotes::default();
        let end = quoted.iter().position(|byte| quotes.within(*byte) && !quotes.open);
        name.ends_with(b"=") && end == Some(quoted.len() - 1)
    })
}

/// Whether a byte may be in a token (RFC 9110, section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Where quoted strings begin and end (RFC 9110, section 5.6.4).
#[derive(Clone, Copy, Default)]
struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    /// Whether this byte, the next one, is in a quoted string.
    fn within(&mut self, byte: u8) -> bool {
        let was_open = self.open;
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.open => self.escaped = true,
            b'"' => self.open = !self.open,
            _ => {}
        }
        was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_members_are_split_at_unquoted_commas() {
        let split = |line: &'static str| -> Vec<_> {
            split(line.as_bytes()).map(|member| std::str::from_utf8(member).unwrap()).collect()
        };
        assert_eq!(split("a, b ,,c"), ["a", "b", "c"]);
        assert_eq!(split(r#"a="x, y", b"#), [r#"a="x, y""#, "b"]);
        assert_eq!(split(r#"a="x\", y", b"#), [r#"a="x\", y""#, "b"]);
        assert_eq!(split(r#"a="open, b"#), [r#"a="open, b"#]);
        assert!(split(" , ,").is_empty());
    }

    #[test]
    fn a_quoted_string_must_be_the_whole_value() {
        for line in ["", "a, b=c", r#"a="x, y" , b"#, r#"a="x\", y""#, r#"a="", b="c""#] {
            assert!(is_well_quoted(line.as_bytes()), "{line}");
        }
        for line in [
            r#"a="x, y"#,
            r#"a="x\", y"#,
            r#"a"x, y"z, b"#,
            r#""x, y""#,
            r#"a= "x, y""#,
            r#"a="x, y"z"#,
            r#"a="x" "y, z""#,
        ] {
            assert!(!is_well_quoted(line.as_bytes()), "{line}");
        }
    }
}
