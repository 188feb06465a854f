//! Tags that a response names: cache groups (RFC 9875), and the fields in which origins name tags for a CDN.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, List, ListEntry, Parser};

use super::list::structured;
use super::target::InvalidationTarget;
use crate::cache::{Policy, PolicyTag, Record, Uncacheable};

/// Groups that a response belongs to (RFC 9875, section 2).
const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");

/// Groups that a write invalidates (RFC 9875, section 3).
const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// The maximum number of tags of a response; one with more is not stored, since an ignored tag would mean a missed
/// invalidation. RFC 9875, section 2, requires at least 32.
const NAMES: usize = 256;

/// The tags that a response names: groups under `Policy::standard`, other fields if the policy names them.
pub(crate) fn tags(
    headers: &HeaderMap,
    policy: &Policy,
    target: Option<&InvalidationTarget>,
    namespace: &str,
) -> Result<Vec<PolicyTag>, Uncacheable> {
    let groups = target.map(|target| {
        let groups = groups(headers, &CACHE_GROUPS).into_iter();
        groups.map(|group| PolicyTag::new(target.group_tag(namespace, &group)))
    });
    let mut tags: Vec<_> = groups.into_iter().flatten().collect();
    for field in &policy.tag_fields {
        for line in headers.get_all(field) {
            let line = line.to_str().map_err(|_unreadable| unreadable(field))?;
            tags.extend(names(field, line).map(PolicyTag::new));
        }
    }
    match tags.len() > NAMES {
        true => Err(Uncacheable::new("tags", format!("the response names more than {NAMES} tags"))),
        false => Ok(tags),
    }
}

/// If a response that bypasses the cache names tags, tells the scopes around it that its dependencies are unknown.
pub(crate) fn note_unread(record: &Record, headers: &HeaderMap, policy: &Policy) {
    let in_groups = policy.is_standard && headers.contains_key(CACHE_GROUPS);
    if in_groups || policy.tag_fields.iter().any(|field| headers.contains_key(field)) {
        record.note_unread_tags();
    }
}

/// The names of the tags that a response to a write invalidates: its groups, both for this host and for routes whose keys
/// do not include the host.
pub(crate) fn invalidated(
    headers: &HeaderMap,
    target: &InvalidationTarget,
    namespace: &str,
) -> Vec<String> {
    // Whatever the route of the write says of hosts.
    let targets = [target.clone().at_its_host(), target.clone().anywhere()];
    let of_group = |group: String| targets.each_ref().map(|at| at.group_tag(namespace, &group));
    groups(headers, &CACHE_GROUP_INVALIDATION).into_iter().flat_map(of_group).collect()
}

/// Parses a List of Strings (RFC 9651, section 3.1) and ignores parameters. Anything else is ignored.
fn groups(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let Some(field) = structured(headers, name) else { return Vec::new() };
    let Ok(members) = Parser::new(&field).parse::<List>() else { return Vec::new() };
    let groups = members.iter().map(|member| match member {
        ListEntry::Item(item) => match &item.bare_item {
            BareItem::String(group) => Some(group.as_str().to_owned()),
            _ => None,
        },
        ListEntry::InnerList(_) => None,
    });
    groups.collect::<Option<_>>().unwrap_or_default()
}

/// The names on a line: `Cache-Tag` separates them with commas, `Surrogate-Key` with spaces.
fn names<'l>(field: &str, line: &'l str) -> impl Iterator<Item = &'l str> {
    let has_commas = field.ends_with("cache-tag");
    let is_between =
        move |letter: char| if has_commas { letter == ',' } else { letter.is_ascii_whitespace() };
    line.split(is_between).map(str::trim).filter(|name| !name.is_empty())
}

fn unreadable(field: &str) -> Uncacheable {
    Uncacheable::new("tags", format!("the response has a field {field} that can't be read"))
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Uri};

    use super::*;
    use crate::entry::Tag;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let lines = lines.iter();
        lines
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .collect()
    }

    fn of(host: &str) -> InvalidationTarget {
        let host = headers(&[("host", host)]);
        InvalidationTarget::new(&Uri::from_static("/"), &host, true)
    }

    #[test]
    fn cache_groups_are_a_list_of_strings_with_parameters_ignored() {
        let of = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("cache-groups", *line)).collect();
            groups(&headers(&lines), &CACHE_GROUPS)
        };
        assert_eq!(of(&[r#""a", "B c";x=1"#, r#""d""#]), ["a", "B c", "d"]);
        for none in ["", "a", r#""a", b"#, r#"("a")"#, r#""a"#, "1", r#""a";;"#] {
            assert!(of(&[none]).is_empty(), "{none}");
        }
    }

    #[test]
    fn a_cache_group_belongs_to_its_origin() {
        let tag = |host: &str, group: &str| of(host).group_tag("", group);
        assert_eq!(tag("A.example:80", "g"), tag("a.example", "g"));
        for other in [tag("b.example", "g"), tag("a.example:8080", "g"), tag("a.example", "G")] {
            assert_ne!(tag("a.example", "g"), other);
        }
        assert_ne!(of("a").group_tag("n", "g"), tag("a", "g"));
        assert_ne!(of("a").tag(""), tag("a", "/"), "a path is no group");
    }

    #[test]
    fn tags_are_read_from_the_fields_that_the_policy_names() {
        let lines =
            [("surrogate-key", " users:id=42  b "), ("cache-tag", "c d,,e ,"), ("xkey", "f")];
        let tags = |policy: &Policy| -> Vec<Tag> {
            let tags = tags(&headers(&lines), policy, Some(&of("a")), "").unwrap();
            tags.iter().map(PolicyTag::tag).collect()
        };
        assert!(tags(&Policy::standard()).is_empty());
        let both = Policy::standard().tag_fields(["Surrogate-Key", "cache-tag"]);
        let named = |names: &[&str]| names.iter().map(|name| Tag::named(name)).collect::<Vec<_>>();
        assert_eq!(tags(&both), named(&["users:id=42", "b", "c d", "e"]));
    }

    #[test]
    fn a_response_with_too_many_or_unreadable_tags_is_not_stored() {
        let policy = Policy::standard().tag_fields(["surrogate-key"]);
        let stored = |line: &str| {
            tags(&headers(&[("surrogate-key", line)]), &policy, None, "").map(|tags| tags.len())
        };
        assert_eq!(stored(&"a ".repeat(256)).ok(), Some(256));
        assert_eq!(stored(&"a ".repeat(257)).map_err(|uncacheable| uncacheable.token), Err("tags"));
        assert_eq!(stored("\u{e9}").map_err(|uncacheable| uncacheable.token), Err("tags"));
    }
}
