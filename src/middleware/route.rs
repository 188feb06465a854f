//! The parameters of a matched route.

use std::borrow::Cow;

use axum::extract::{MatchedPath, OriginalUri};
use http::{Request, Uri};
use percent_encoding::percent_decode_str;

use crate::cache::{Policy, PolicyTag};

/// The URI as the client sent it. A nested router sees one without its prefix, which two routers
/// could have in common.
pub(crate) fn uri<B>(request: &Request<B>) -> &Uri {
    request.extensions().get::<OriginalUri>().map_or(request.uri(), |original| &original.0)
}

/// The route's pattern, such as `/users/{id}`, if a router matched one.
pub(crate) fn pattern<B>(request: &Request<B>) -> Option<&str> {
    request.extensions().get::<MatchedPath>().map(MatchedPath::as_str)
}

/// The tags that a policy names for a request; `None` if a parameter of the path is missing.
pub(crate) fn tags<B>(request: &Request<B>, policy: &Policy) -> Option<Vec<PolicyTag>> {
    let (uri, pattern) = (uri(request), pattern(request));
    policy.tags_with(|name| parameter(pattern?, uri.path(), name))
}

/// The value of a parameter of a route, decoded as axum does it.
pub(crate) fn parameter<'a>(pattern: &str, path: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut segments = path.trim_start_matches('/').split('/');
    for wanted in pattern.trim_start_matches('/').split('/') {
        let Some((before, wanted, after)) = split(wanted) else {
            segments.next()?;
            continue;
        };
        if let Some(rest) = wanted.strip_prefix('*') {
            let at = segments.next().map_or(path.len(), |first| offset(path, first));
            return (rest == name).then(|| decode(&path[at..]))?;
        }
        let segment = segments.next()?;
        if wanted == name {
            return decode(segment.strip_prefix(before)?.strip_suffix(after)?);
        }
    }
    None
}

/// The pattern that a path is of: of several, the one that says most about it, as axum has it.
pub(crate) fn matching<'p>(patterns: impl Iterator<Item = &'p str>, path: &str) -> Option<&'p str> {
    // Where two differ first, text goes before a parameter, and that before a wildcard.
    let rank = |segment: &str| match split(segment) {
        None => 0,
        Some((_, name, _)) => {
            if name.starts_with('*') {
                2
            } else {
                1
            }
        }
    };
    let ranks = |pattern: &&str| pattern.split('/').map(rank).collect::<Vec<u8>>();
    patterns.filter(|pattern| matches(pattern, path)).min_by_key(ranks)
}

fn matches(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    for wanted in pattern.split('/') {
        let Some(segment) = segments.next() else { return false };
        let fits = match split(wanted) {
            None => segment == wanted,
            Some((_, name, _)) if name.starts_with('*') => return !segment.is_empty(),
            Some((before, _, after)) => {
                let middle = segment.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                middle.is_some_and(|value| !value.is_empty())
            }
        };
        if !fits {
            return false;
        }
    }
    segments.next().is_none()
}

/// A segment's text before its parameter, the parameter, and the text after.
fn split(segment: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = segment.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

fn decode(value: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(value).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_from_their_place() {
        let get = |pattern, path, name| parameter(pattern, path, name).map(Cow::into_owned);
        assert_eq!(get("/users/{id}", "/users/42", "id").as_deref(), Some("42"));
        assert_eq!(get("/a/{x}/b/{y}", "/a/1/b/2", "y").as_deref(), Some("2"));
        assert_eq!(get("/users/{id}", "/users/a%2Fb", "id").as_deref(), Some("a/b"));
        assert_eq!(get("/files/{*path}", "/files/a/b/c", "path").as_deref(), Some("a/b/c"));
        assert_eq!(get("/v{major}/x", "/v2/x", "major").as_deref(), Some("2"));
        assert_eq!(get("/users/{id}", "/users/42", "name"), None);
        assert_eq!(get("/users/{id}", "/users", "id"), None);
        assert_eq!(get("/users/{id}", "/users/%ff", "id"), None);
    }

    #[test]
    fn the_pattern_of_a_path_is_the_one_that_says_most_of_it() {
        let patterns = ["/a/{x}", "/a/b", "/a/{x}/c", "/{*rest}", "/v{major}/x", "/"];
        let of = |path| matching(patterns.into_iter(), path);
        assert_eq!(of("/a/b"), Some("/a/b"));
        assert_eq!(of("/a/z"), Some("/a/{x}"));
        assert_eq!(of("/a/z/c"), Some("/a/{x}/c"));
        assert_eq!(of("/a/z/d"), Some("/{*rest}"));
        assert_eq!(of("/v2/x"), Some("/v{major}/x"));
        assert_eq!(of("/v/x"), Some("/{*rest}"));
        assert_eq!(of("/"), Some("/"));
        assert_eq!(matching(["/a/{x}"].into_iter(), "/a/"), None);
        assert_eq!(matching(["/a"].into_iter(), "/a/"), None);
    }
}
