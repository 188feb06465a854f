//! The parameters of a matched route.

use std::borrow::Cow;

use axum::extract::{MatchedPath, NestedPath, OriginalUri};
use http::{Request, Uri};
use percent_encoding::percent_decode_str;

use super::routers::PathParameters;
use crate::cache::{Policy, PolicyTag};

/// The URI as the client sent it. A nested router strips its prefix, and without it the paths of two routers could be the
/// same.
pub(crate) fn uri<B>(request: &Request<B>) -> &Uri {
    request.extensions().get::<OriginalUri>().map_or(request.uri(), |original| &original.0)
}

/// The route's pattern, such as `/users/{id}`, if a router matched one.
pub(crate) fn pattern<B>(request: &Request<B>) -> Option<&str> {
    request.extensions().get::<MatchedPath>().map(MatchedPath::as_str)
}

/// Whether routers may know something of the path that neither the client's URI nor the present one shows. They do if a
/// layer has rewritten the path, and a router has stripped a part of it since. `is_rewritten` says whether the two differ.
pub(crate) fn has_hidden_parts<B>(request: &Request<B>, is_rewritten: bool) -> bool {
    let (original, present) = (uri(request), request.uri());
    let is_stripped_only = match request.extensions().get::<NestedPath>() {
        None => !is_rewritten,
        Some(prefix) => {
            let prefix = prefix.as_str().trim_end_matches('/');
            let rest = original.path().strip_prefix(prefix).filter(|_| !prefix.contains('{'));
            rest.is_some_and(|rest| {
                rest == present.path() || rest.is_empty() && present.path() == "/"
            })
        }
    };
    !is_stripped_only || pattern(request).is_some_and(|known| !matches(known, original.path()))
}

/// Whether a path shows these parameters, which axum found for a pattern. The pattern of the root of a nested service ends
/// with a slash that the path need not have.
pub(crate) fn shows_all<'p>(
    pattern: &str,
    path: &str,
    mut parameters: impl Iterator<Item = (&'p str, &'p str)>,
) -> bool {
    let root = pattern.strip_suffix('/').unwrap_or(pattern);
    (matches(pattern, path) || matches(root, path))
        && parameters.all(|(name, value)| parameter(pattern, path, name).as_deref() == Some(value))
}

/// The tags that a policy names for a request, with the parameters that the handler gets; `None` if one of these is missing.
pub(crate) fn tags<B>(request: &mut Request<B>, policy: &Policy) -> Option<Vec<PolicyTag>> {
    let has_parameters = policy.parameters().next().is_some();
    let parameters = has_parameters.then(|| PathParameters::from_request(request)).flatten();
    policy.tags_with(|name| parameters.as_ref()?.get(name).map(Cow::Borrowed))
}

/// The names of a pattern's parameters, in their order.
pub(crate) fn names(pattern: &str) -> impl Iterator<Item = &str> {
    let names = pattern.split('/').filter_map(split).map(|(_, name, _)| name);
    names.map(|name| name.strip_prefix('*').unwrap_or(name))
}

/// The decoded value of a route's parameter, for a path that no router has matched. It is the value that axum would pass
/// to the handler: an empty segment counts, so the wildcard of `/{*path}` is `/a` in `//a`. `None` if two parameters have
/// this name.
pub(crate) fn parameter<'a>(pattern: &str, path: &'a str, name: &str) -> Option<Cow<'a, str>> {
    if names(pattern).filter(|known| *known == name).count() > 1 {
        return None;
    }
    let mut rest = path.strip_prefix('/');
    for wanted in pattern.strip_prefix('/')?.split('/') {
        let here = rest?;
        let (segment, next) = split_segment(here);
        rest = next;
        let Some((before, wanted, after)) = split(wanted) else { continue };
        if let Some(wildcard) = wanted.strip_prefix('*') {
            return (wildcard == name).then(|| decode(here))?;
        }
        if wanted == name {
            return decode(segment.strip_prefix(before)?.strip_suffix(after)?);
        }
    }
    None
}

/// The pattern that matches a path; of several, the most specific one, as in axum.
#[cfg(feature = "admin")]
pub(crate) fn matching<'p>(patterns: impl Iterator<Item = &'p str>, path: &str) -> Option<&'p str> {
    // At the first difference, text is preferred to a parameter, and a parameter to a wildcard.
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

/// Whether axum matches a path by a pattern. Each hit matches its path, so this reads both once.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.as_bytes(), path.as_bytes());
    if pattern.first() != Some(&b'/') || path.first() != Some(&b'/') {
        return false;
    }
    let mut last = b'/';
    loop {
        // Up to the next parameter, both have the same text.
        while let ([wanted, of_pattern @ ..], [here, of_path @ ..]) = (pattern, path)
            && wanted == here
            && *wanted != b'{'
        {
            (last, pattern, path) = (*wanted, of_pattern, of_path);
        }
        let [b'{', rest @ ..] = pattern else { return pattern.is_empty() && path.is_empty() };
        let Some(end) = rest.iter().position(|byte| *byte == b'}') else { return false };
        let (name, rest) = (&rest[..end], &rest[end + 1..]);
        if name.first() == Some(&b'*') {
            return !path.is_empty();
        }
        let ((value, others), (after, rest)) = (until_slash(path), until_slash(rest));
        let Some(value) = value.strip_suffix(after) else { return false };
        // A parameter that is a whole segment is empty anywhere but at the end.
        let is_whole = last == b'/' && after.is_empty();
        if value.is_empty() && (others.is_empty() || !is_whole) {
            return false;
        }
        (pattern, path) = (rest, others);
    }
}

/// A text up to its first slash, and the rest with the slash.
fn until_slash(text: &[u8]) -> (&[u8], &[u8]) {
    let at = text.iter().position(|byte| *byte == b'/');
    text.split_at(at.unwrap_or(text.len()))
}

/// A segment's text before its parameter, the parameter, and the text after.
fn split(segment: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = split_once(segment, b'{')?;
    let (name, after) = split_once(rest, b'}')?;
    Some((before, name, after))
}

fn decode(value: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(value).decode_utf8().ok()
}

/// The first segment of a path, and the rest if there is one.
fn split_segment(path: &str) -> (&str, Option<&str>) {
    split_once(path, b'/').map_or((path, None), |(segment, rest)| (segment, Some(rest)))
}

/// As `str::split_once`, which takes longer for segments of a few bytes.
fn split_once(text: &str, separator: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|byte| byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

// loom and shuttle have no services.
#[cfg(all(test, not(tidegate_loom), not(tidegate_shuttle)))]
mod tests {
    use std::collections::HashMap;
    use std::future::ready;

    use axum::extract::Path;
    use axum::extract::rejection::PathRejection;
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn parameters_are_extracted_by_their_place_in_the_pattern() {
        let get = |pattern, path, name| parameter(pattern, path, name).map(Cow::into_owned);
        assert_eq!(get("/users/{id}", "/users/42", "id").as_deref(), Some("42"));
        assert_eq!(get("/a/{x}/b/{y}", "/a/1/b/2", "y").as_deref(), Some("2"));
        assert_eq!(get("/users/{id}", "/users/a%2Fb", "id").as_deref(), Some("a/b"));
        assert_eq!(get("/files/{*path}", "/files/a/b/c", "path").as_deref(), Some("a/b/c"));
        assert_eq!(get("/v{major}/x", "/v2/x", "major").as_deref(), Some("2"));
        assert_eq!(get("/users/{id}", "/users/42", "name"), None);
        assert_eq!(get("/users/{id}", "/users", "id"), None);
        assert_eq!(get("/users/{id}", "/users/%ff", "id"), None);
        assert_eq!(get("/a/{id}/b/{id}", "/a/1/b/2", "id"), None, "nothing says which");
    }

    #[tokio::test]
    async fn parameters_equal_those_that_axum_gives_the_handler() {
        let patterns = ["/{*path}", "/a/{id}", "/a/{id}/b", "/a/{id}/{*path}", "/files/{*path}"];
        let paths = [
            "/a",
            "//a",
            "///a//",
            "/a/",
            "/a//",
            "/a//b",
            "/a///b",
            "/a/1",
            "/a/1/",
            "/a/1/b",
            "/a/1//b",
            "/a/%2F",
            "/a/%20/b",
            "/a/%ff",
            "/a/%2f/%2F//",
            "/files//",
            "/files//a",
            "/files/%2e%2e/a",
            "/files",
            "/",
        ];
        for pattern in patterns {
            for path in paths {
                let Some(got) = of_axum(pattern, path).await else {
                    assert!(!matches(pattern, path), "{pattern} {path}");
                    continue;
                };
                assert!(matches(pattern, path), "{pattern} {path}");
                for name in ["id", "path"] {
                    let theirs = got.as_ref().ok().and_then(|got| got.get(name));
                    let ours = parameter(pattern, path, name).filter(|_| got.is_ok());
                    assert_eq!(ours.as_deref(), theirs.map(String::as_str), "{pattern} {path}");
                }
            }
        }
    }

    type Parameters = HashMap<String, String>;

    /// The parameters of a path that axum matches, if it can decode them.
    async fn of_axum(pattern: &str, path: &str) -> Option<Result<Parameters, ()>> {
        let handler = |found: Result<Path<Parameters>, PathRejection>| {
            ready(axum::Extension(found.map(|Path(found)| found).map_err(drop)))
        };
        let router = axum::Router::new().route(pattern, axum::routing::get(handler));
        let request = Request::get(path).body(axum::body::Body::empty()).ok()?;
        let mut response = router.oneshot(request).await.ok()?;
        response.extensions_mut().remove()
    }

    #[cfg(feature = "admin")]
    #[test]
    fn the_most_specific_pattern_matches_a_path() {
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
