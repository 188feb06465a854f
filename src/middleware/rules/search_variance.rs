//! Which parameters of a query a response does not depend on (`No-Vary-Search`, draft-ietf-httpbis-no-vary-search-04).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode;
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::list::structured;

const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// A parameter's name and value, decoded.
type Pair<'q> = (Cow<'q, [u8]>, Cow<'q, [u8]>);

/// The rule of a response for the query. The default rule, that everything counts in its order, has no such value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SearchVariance {
    /// Whether the order of parameters with different names counts.
    pub(crate) is_ordered: bool,
    pub(crate) counting: CountedParams,
}

/// Which parameters count, by their decoded names; sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CountedParams {
    AllBut(Vec<Vec<u8>>),
    Only(Vec<Vec<u8>>),
}

impl SearchVariance {
    /// Parses the rule of a response. `None` if it is the default, malformed or unknown: then everything counts.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let field = structured(headers, &NO_VARY_SEARCH)?;
        let members = Parser::new(&field).parse::<Dictionary>().ok()?;
        let said = VarianceMembers::from_members(&members)?;
        let counting = match (said.params, said.except) {
            (Params::All, except) => CountedParams::Only(except.unwrap_or_default()),
            // `except` requires `params` without a list.
            (_, Some(_)) => return None,
            (Params::These(names), None) => CountedParams::AllBut(names),
            (Params::None, None) => CountedParams::AllBut(Vec::new()),
        };
        let variance = Self { is_ordered: !said.has_key_order, counting };
        (variance != Self { is_ordered: true, counting: CountedParams::AllBut(Vec::new()) })
            .then_some(variance)
    }

    /// No parameter counts.
    pub(crate) fn none() -> Self {
        Self { is_ordered: true, counting: CountedParams::Only(Vec::new()) }
    }

    /// Whether no parameter counts.
    pub(crate) fn counts_none(&self) -> bool {
        matches!(&self.counting, CountedParams::Only(names) if names.is_empty())
    }

    /// The parameters of a query that count, decoded as a form is.
    pub(crate) fn pairs<'q>(&self, query: &'q str) -> Vec<Pair<'q>> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        let mut pairs: Vec<_> = pairs.filter(|(name, _)| self.counts(name)).collect();
        if !self.is_ordered {
            pairs.sort_by(|(a, _), (b, _)| stem(a).cmp(stem(b)));
        }
        pairs
    }

    /// Whether a parameter counts, by its decoded name. With `except`, the names that some parsers read as a listed one
    /// count too: in another letter case, or as a part of it.
    pub(crate) fn counts(&self, name: &[u8]) -> bool {
        match &self.counting {
            CountedParams::AllBut(names) => !names.iter().any(|known| known == name),
            CountedParams::Only(names) => names
                .iter()
                .any(|known| known == name || stem(known).eq_ignore_ascii_case(stem(name))),
        }
    }
}

/// `page[]`, `page[size]` and `page.size` are parts of `page` to some parsers.
fn stem(name: &[u8]) -> &[u8] {
    name.split(|byte| b"[.".contains(byte)).next().unwrap_or_default()
}

/// The known members of the field.
struct VarianceMembers {
    has_key_order: bool,
    params: Params,
    except: Option<Vec<Vec<u8>>>,
}

enum Params {
    None,
    All,
    These(Vec<Vec<u8>>),
}

impl VarianceMembers {
    fn from_members(members: &Dictionary) -> Option<Self> {
        let mut said = Self { has_key_order: false, params: Params::None, except: None };
        for (name, member) in members {
            match (name.as_str(), flag(member), names(member)) {
                ("key-order", Some(is_set), _) => said.has_key_order = is_set,
                ("params", Some(true), _) => said.params = Params::All,
                ("params", Some(false), _) => said.params = Params::None,
                ("params", _, Some(names)) => said.params = Params::These(names),
                ("except", _, Some(names)) => said.except = Some(names),
                _ => return None,
            }
        }
        Some(said)
    }
}

fn flag(member: &ListEntry) -> Option<bool> {
    match member {
        ListEntry::Item(item) => match item.bare_item {
            BareItem::Boolean(is_set) => Some(is_set),
            _ => None,
        },
        ListEntry::InnerList(_) => None,
    }
}

/// The names of a list of Strings, decoded and sorted.
fn names(member: &ListEntry) -> Option<Vec<Vec<u8>>> {
    let ListEntry::InnerList(list) = member else { return None };
    let names = list.items.iter().map(|item| match &item.bare_item {
        BareItem::String(name) => Some(decoded(name.as_str()).into_owned()),
        _ => None,
    });
    let mut names = names.collect::<Option<Vec<_>>>()?;
    names.sort();
    names.dedup();
    Some(names)
}

/// Decodes form-encoded text: `+` is a space, and a malformed escape stands for itself.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    match text.contains('+') {
        true => percent_decode(text.replace('+', " ").as_bytes()).collect::<Vec<u8>>().into(),
        false => percent_decode(text.as_bytes()).into(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(field: &str) -> Option<SearchVariance> {
        let value = HeaderValue::from_str(field).unwrap();
        SearchVariance::from_headers(&HeaderMap::from_iter([(NO_VARY_SEARCH, value)]))
    }

    fn is_same(field: &str, one: &str, other: &str) -> bool {
        let variance = of(field).unwrap();
        variance.pairs(one) == variance.pairs(other)
    }

    #[test]
    fn parameters_excluded_by_no_vary_search_are_ignored() {
        let but = r#"params=("utm" "a b")"#;
        assert!(is_same(but, "id=1&utm=2", "utm=3&id=1&a+b=4&a%20b=5&%75tm=6"));
        assert!(!is_same(but, "id=1", "id=2") && !is_same(but, "a=1&b=2", "b=2&a=1"));
        assert!(!is_same(but, "id=1", "id=1&id=1") && !is_same(but, "id", "ID"));
        assert!(is_same(r#"params, except=("id")"#, "id=1&x=2", "y&id=%31"));
        assert!(!is_same(r#"params, except=("id")"#, "id=1", "x=1"));
        assert!(is_same("params", "id=1", "") && is_same("params=?1", "a", "b=c&d"));
        assert!(!is_same(r#"params, except=("id")"#, "id[a]=1", "id[b]=1"));
    }

    #[test]
    fn key_order_ignores_the_order_of_names_but_not_of_values() {
        assert!(is_same("key-order", "a=1&b=2&a=3", "b=2&a=1&a=3"));
        assert!(!is_same("key-order", "a=1&a=3", "a=3&a=1"));
        assert!(is_same(r#"key-order, params=("u")"#, "a=1&b=2", "u&b=2&a=1"));
        assert!(!is_same("key-order", "a[]=1&a[x]=2", "a[x]=2&a[]=1"));
    }

    #[test]
    fn an_unsupported_no_vary_search_field_is_ignored() {
        for field in [
            "",
            "key-order=?0",
            "params=?0",
            "params=()",
            "key-order=1",
            "params=\"a\"",
            "params=(a)",
            "params=(\"a\" 1)",
            "except=(\"a\")",
            "params=(\"a\"), except=(\"b\")",
            "params, except",
            "params, other",
            "params, &&",
        ] {
            assert_eq!(of(field), None, "{field}");
        }
    }
}
