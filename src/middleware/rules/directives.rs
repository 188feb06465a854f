//! `Cache-Control` (RFC 9111, section 5.2).

use std::time::Duration;

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::list::{is_well_quoted, members};

/// The directives of a `Cache-Control`. A malformed directive is interpreted as the most restrictive one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a directive of its own")]
pub(crate) struct Directives {
    pub(crate) no_store: bool,
    pub(crate) no_cache: Option<DirectiveFields>,
    pub(crate) private: Option<DirectiveFields>,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) s_maxage: Option<Duration>,
    pub(crate) min_fresh: Option<Duration>,
    /// Without a value, the maximum.
    pub(crate) max_stale: Option<Duration>,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
}

/// What `no-cache` and `private` apply to (RFC 9111, sections 5.2.2.4 and 5.2.2.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DirectiveFields {
    /// The whole response.
    All,
    /// Only these fields.
    Only(Vec<HeaderName>),
}

/// RFC 9111, section 1.2.2: larger values count as this.
const LARGEST: u64 = 1 << 31;

impl Directives {
    /// Parses all `Cache-Control` lines of a message.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let mut known = Self::default();
        members(headers, CACHE_CONTROL).for_each(|member| known.add(member));
        let lines = headers.get_all(CACHE_CONTROL).into_iter().map(HeaderValue::as_bytes);
        lines.filter(|line| !is_well_quoted(line)).for_each(|line| known.forbid(line));
        known
    }

    /// A quoted string that does not end, or is not a value, may hide a restrictive directive: applies all of those on the
    /// line, quoted or not.
    fn forbid(&mut self, line: &[u8]) {
        let mut hidden = Self::default();
        line.split(|byte| *byte == b',').for_each(|member| hidden.add(member.trim_ascii()));
        self.no_store |= hidden.no_store;
        self.must_revalidate |= hidden.must_revalidate;
        self.proxy_revalidate |= hidden.proxy_revalidate;
        if hidden.no_cache.is_some() {
            self.no_cache = Some(DirectiveFields::All);
        }
        if hidden.private.is_some() {
            self.private = Some(DirectiveFields::All);
        }
    }

    fn add(&mut self, member: &[u8]) {
        let (name, value) = match member.iter().position(|byte| *byte == b'=') {
            Some(at) => (&member[..at], Some(&member[at + 1..])),
            None => (member, None),
        };
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        // White space around the equals sign is invalid: recognize the name, but ignore the number.
        let number = value.filter(|_| name == name.trim_end());
        match name.trim_end() {
            "no-store" => self.no_store = true,
            "no-cache" => DirectiveFields::add(&mut self.no_cache, value),
            "private" => DirectiveFields::add(&mut self.private, value),
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => lifetime(&mut self.max_age, number),
            "s-maxage" => lifetime(&mut self.s_maxage, number),
            "min-fresh" => {
                let said = seconds(number).unwrap_or(Duration::MAX);
                self.min_fresh = self.min_fresh.max(Some(said));
            }
            "max-stale" if value.is_none() => {
                self.max_stale.get_or_insert(Duration::MAX);
            }
            "max-stale" => window(&mut self.max_stale, number),
            "stale-while-revalidate" => window(&mut self.stale_while_revalidate, number),
            "stale-if-error" => window(&mut self.stale_if_error, number),
            _ => {} // RFC 9111, section 5.2.3: what is not known is ignored.
        }
    }

    /// Whether the whole response is private.
    pub(crate) fn is_private(&self) -> bool {
        self.private == Some(DirectiveFields::All)
    }

    /// Whether all or a part of the response is for one client or one request.
    pub(crate) fn forbids_sharing(&self) -> bool {
        self.no_store || self.private.is_some() || self.no_cache.is_some()
    }

    /// Whether the whole response must be revalidated each time.
    pub(crate) fn is_no_cache(&self) -> bool {
        self.no_cache == Some(DirectiveFields::All)
    }

    /// The fields that may not be stored, in a response that otherwise may.
    pub(crate) fn withheld(&self) -> impl Iterator<Item = &HeaderName> {
        [&self.no_cache, &self.private].into_iter().flatten().flat_map(|fields| match fields {
            DirectiveFields::All => [].iter(),
            DirectiveFields::Only(names) => names.iter(),
        })
    }
}

impl DirectiveFields {
    /// Adds one directive. A malformed list applies to the whole response.
    fn add(known: &mut Option<Self>, value: Option<&[u8]>) {
        let names = value.map_or(Some(Self::All), Self::named).unwrap_or(Self::All);
        *known = Some(match (known.take(), names) {
            (Some(Self::Only(mut known)), Self::Only(more)) => {
                known.extend(more);
                Self::Only(known)
            }
            (None, names) => names,
            _ => Self::All,
        });
    }

    fn named(value: &[u8]) -> Option<Self> {
        let list = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        let names = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let names = names.filter(|name| !name.is_empty()).map(HeaderName::from_bytes);
        names.collect::<Result<Vec<_>, _>>().ok().filter(|names| !names.is_empty()).map(Self::Only)
    }
}

/// Adds a lifetime. RFC 9111, section 4.2.1: a malformed one, or two different ones, make the response stale.
fn lifetime(known: &mut Option<Duration>, value: Option<&[u8]>) {
    let said = seconds(value).unwrap_or_default();
    let same = known.is_none_or(|known| known == said);
    *known = Some(if same { said } else { Duration::ZERO });
}

/// Adds a time during which a stale response may be served. The shortest one counts.
fn window(known: &mut Option<Duration>, value: Option<&[u8]>) {
    let said = seconds(value).unwrap_or_default();
    *known = Some(known.map_or(said, |known| known.min(said)));
}

/// A number of seconds, as a token or quoted (RFC 9111, section 5.2).
fn seconds(value: Option<&[u8]>) -> Option<Duration> {
    let value = value?;
    let value =
        value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    delta_seconds(value)
}

/// A non-negative number of seconds (RFC 9111, section 1.2.2).
pub(crate) fn delta_seconds(digits: &[u8]) -> Option<Duration> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = std::str::from_utf8(digits).ok()?;
    Some(Duration::from_secs(digits.parse().unwrap_or(LARGEST).min(LARGEST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Directives {
        let lines = lines.iter().map(|line| (CACHE_CONTROL, HeaderValue::from_str(line).unwrap()));
        Directives::from_headers(&lines.collect())
    }

    fn max_age(line: &str) -> Option<u64> {
        of(&[line]).max_age.map(|age| age.as_secs())
    }

    #[test]
    fn directives_are_parsed_across_lines_and_in_any_case() {
        let found = of(&["Public, MAX-age=5", "s-maxage=\"7\", stale-while-revalidate=9"]);
        assert!(found.public && !found.no_store);
        assert_eq!(found.max_age, Some(Duration::from_secs(5)));
        assert_eq!(found.s_maxage, Some(Duration::from_secs(7)));
        assert_eq!(found.stale_while_revalidate, Some(Duration::from_secs(9)));
    }

    #[test]
    fn an_invalid_max_age_counts_as_zero() {
        for (line, expected) in [
            ("max-age=3600", Some(3600)),
            ("max-age=003600", Some(3600)),
            ("max-age=99999999999999999999999", Some(LARGEST)),
            ("max-age=-1", Some(0)),
            ("max-age=1.5", Some(0)),
            ("max-age='60'", Some(0)),
            ("max-age=60a", Some(0)),
            ("max-age", Some(0)),
            ("max-age= 60", Some(0)),
            ("max-age =60", Some(0)),
            ("max-age=60, max-age=60", Some(60)),
            ("max-age=60, max-age=1", Some(0)),
            ("x=\"a, max-age=60\"", None),
            ("x=\"a, max-age=60", None),
            ("x-max-age=60", None),
        ] {
            assert_eq!(max_age(line), expected, "{line}");
        }
    }

    #[test]
    fn no_store_no_cache_and_private_count_in_any_spelling() {
        for line in ["no-store", "No-Store", "no-store=x", "no-store =\"y\"", "a, ,no-store"] {
            assert!(of(&[line]).no_store, "{line}");
        }
        for line in ["no-cache", "no-cache=x", "no-cache=\"", "no-cache=\"a b\"", "no-cache=\"\""] {
            assert!(of(&[line]).is_no_cache(), "{line}");
        }
        assert!(of(&["no-cache=\"a\", no-cache"]).is_no_cache());
        let hidden = of(&["max-age=60, x=\"oops, private, no-store"]);
        assert!(hidden.is_private() && hidden.no_store, "a quotation that does not end");
        let hidden = of(&["x\"y, no-store, private, z\"w"]);
        assert!(hidden.is_private() && hidden.no_store, "a quotation that is no value");
        assert!(!of(&["max-age=60, x=\"ok, private\""]).is_private());
        assert!(of(&["private, private=\"a\""]).is_private());
    }

    #[test]
    fn no_cache_and_private_can_withhold_single_fields() {
        let found = of(&["no-cache=\"A, b\"", "private=\"c\", no-cache=\"d\""]);
        assert!(!found.is_no_cache() && !found.is_private());
        let withheld: Vec<_> = found.withheld().map(HeaderName::as_str).collect();
        assert_eq!(withheld, ["a", "b", "d", "c"]);
    }

    #[test]
    fn client_directives_are_parsed_and_invalid_ones_take_the_strictest_value() {
        let found = of(&["max-stale, min-fresh=3, only-if-cached"]);
        assert_eq!(found.max_stale, Some(Duration::MAX));
        assert_eq!(found.min_fresh, Some(Duration::from_secs(3)));
        assert!(found.only_if_cached);
        assert_eq!(of(&["max-stale=x"]).max_stale, Some(Duration::ZERO));
        assert_eq!(of(&["min-fresh=x"]).min_fresh, Some(Duration::MAX));
    }

    #[test]
    fn the_strictest_of_two_values_of_a_directive_counts() {
        for line in ["min-fresh=60, min-fresh=5", "min-fresh=5, min-fresh=60"] {
            assert_eq!(of(&[line]).min_fresh, Some(Duration::from_secs(60)), "{line}");
        }
        for line in ["max-stale=5, max-stale", "max-stale, max-stale=5", "max-stale=5, max-stale=9"]
        {
            assert_eq!(of(&[line]).max_stale, Some(Duration::from_secs(5)), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                Directives::from_headers(&HeaderMap::from_iter([(CACHE_CONTROL, value)]));
            }
        }
    }
}
