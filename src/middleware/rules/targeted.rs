//! `Cache-Control` for specific caches (RFC 9213).

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::directives::{DirectiveFields, Directives};
use super::list::structured;

/// The targeted fields for this cache, the most specific first (RFC 9213, section 2.2).
const TARGETS: [HeaderName; 2] = [
    HeaderName::from_static("tidegate-cache-control"),
    HeaderName::from_static("cdn-cache-control"),
];

/// The directives of a response for this cache.
#[derive(Debug, Default)]
pub(crate) struct ResponseControl {
    pub(crate) directives: Directives,
    /// Whether they are from a targeted field, so that `Cache-Control` and `Expires` do not count.
    pub(crate) is_targeted: bool,
}

impl ResponseControl {
    /// Parses the first valid targeted field, or else `Cache-Control`.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        // All fields that count end like this, and most responses have none of them.
        if !headers.keys().any(|name| name.as_str().ends_with("cache-control")) {
            return Self::default();
        }
        match TARGETS.iter().find_map(|name| targeted(headers, name)) {
            Some(directives) => Self { directives, is_targeted: true },
            None => Self { directives: Directives::from_headers(headers), is_targeted: false },
        }
    }
}

/// RFC 9213, section 2.1: a Dictionary (Structured Fields). An invalid or empty one is ignored.
fn targeted(headers: &HeaderMap, name: &HeaderName) -> Option<Directives> {
    let field = structured(headers, name)?;
    let members = Parser::new(&field).parse::<Dictionary>().ok()?;
    let mut directives = Directives::default();
    for (name, member) in &members {
        match member {
            ListEntry::Item(item) => set(&mut directives, name.as_str(), Some(&item.bare_item)),
            // No directive has a list: it counts only if it is a restrictive one.
            ListEntry::InnerList(_) => set(&mut directives, name.as_str(), None),
        }
    }
    (!members.is_empty()).then_some(directives)
}

/// Sets a directive. If its value has the wrong type, a permissive directive is ignored, but a restrictive one counts.
fn set(directives: &mut Directives, name: &str, value: Option<&BareItem>) {
    let seconds = match value {
        Some(BareItem::Integer(seconds)) => u64::try_from(i64::from(*seconds)).ok(),
        _ => None,
    };
    let seconds = seconds.map(Duration::from_secs);
    let is_set = !matches!(value, Some(BareItem::Boolean(false)));
    match name {
        "no-store" => directives.no_store = is_set,
        "no-cache" if is_set => directives.no_cache = Some(DirectiveFields::All),
        "private" if is_set => directives.private = Some(DirectiveFields::All),
        "must-revalidate" => directives.must_revalidate = is_set,
        "proxy-revalidate" => directives.proxy_revalidate = is_set,
        "must-understand" => directives.must_understand = is_set,
        "public" => directives.public = value == Some(&BareItem::Boolean(true)),
        "max-age" => directives.max_age = seconds,
        "s-maxage" => directives.s_maxage = seconds,
        "stale-while-revalidate" => directives.stale_while_revalidate = seconds,
        "stale-if-error" => directives.stale_if_error = seconds,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[(&'static str, &str)]) -> ResponseControl {
        let lines = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        ResponseControl::from_headers(&lines.collect())
    }

    fn age(lines: &[(&'static str, &str)]) -> (Option<u64>, bool) {
        let control = of(lines);
        (control.directives.max_age.map(|age| age.as_secs()), control.is_targeted)
    }

    #[test]
    fn only_the_most_specific_cache_control_field_counts() {
        let general = ("cache-control", "max-age=1");
        let cdn = ("cdn-cache-control", "max-age=2");
        let ours = ("tidegate-cache-control", "max-age=3");
        assert_eq!(age(&[general, cdn, ours]), (Some(3), true));
        assert_eq!(age(&[general, cdn]), (Some(2), true));
        assert_eq!(age(&[general]), (Some(1), false));
        let control = of(&[("cache-control", "no-store"), cdn]);
        assert!(!control.directives.no_store);
    }

    #[test]
    fn a_targeted_field_that_is_no_dictionary_is_ignored() {
        let general = ("cache-control", "max-age=1");
        for broken in ["max-age=2, &&&", "MaX-aGe=2", "max-age= 2", ""] {
            assert_eq!(
                age(&[general, ("cdn-cache-control", broken)]),
                (Some(1), false),
                "{broken}"
            );
        }
        assert_eq!(age(&[("cdn-cache-control", "max-age=\"2\"")]), (None, true));
        assert_eq!(age(&[("cdn-cache-control", "max-age=-2")]), (None, true));
    }

    #[test]
    fn no_store_with_any_value_but_false_prevents_storing() {
        for forbidding in ["no-store", "no-store=1", "max-age=5, no-store=\"x\"", "no-store=()"] {
            assert!(of(&[("cdn-cache-control", forbidding)]).directives.no_store, "{forbidding}");
        }
        assert!(!of(&[("cdn-cache-control", "no-store=?0, a")]).directives.no_store);
    }
}
