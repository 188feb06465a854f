//! Patterns of routes, in the syntax of axum 0.8.

/// Why a pattern can match no request, if it can't. The rules are those of axum and its router, matchit.
pub(crate) fn fault(pattern: &str) -> Option<String> {
    if pattern.is_empty() {
        return Some("it is empty: the pattern of the root is `/`".into());
    }
    if !pattern.starts_with('/') {
        return Some("a pattern is a path, without method and host, and begins with `/`".into());
    }
    if pattern.contains('?') {
        return Some("a pattern has no query: see Policy::query".into());
    }
    let mut segments = pattern.split('/').peekable();
    while let Some(segment) = segments.next() {
        let fault = segment_fault(segment, segments.peek().is_none());
        if fault.is_some() {
            return fault;
        }
    }
    None
}

fn segment_fault(segment: &str, is_last: bool) -> Option<String> {
    if let Some(name) = segment.strip_prefix(':') {
        return Some(format!("axum 0.8 writes the parameter `{segment}` as `{{{name}}}`"));
    }
    if let Some(name) = segment.strip_prefix('*') {
        let name = if name.is_empty() { "path" } else { name };
        return Some(format!("axum 0.8 writes the wildcard `{segment}` as `{{*{name}}}`"));
    }
    // Doubled braces are text.
    let segment = segment.replace("{{", "-").replace("}}", "-");
    let unbalanced = || Some(format!("`{segment}` has an unmatched brace"));
    let Some((before, rest)) = segment.split_once('{') else {
        return if segment.contains('}') { unbalanced() } else { None };
    };
    let Some((name, after)) = rest.split_once('}') else { return unbalanced() };
    if before.contains('}') || name.contains('{') {
        return unbalanced();
    }
    if !after.is_empty() {
        return Some(format!("`{segment}` has text or another parameter after `{{{name}}}`"));
    }
    parameter_fault(name, is_last)
}

fn parameter_fault(name: &str, is_last: bool) -> Option<String> {
    let wildcard = name.strip_prefix('*');
    match wildcard.unwrap_or(name) {
        "" => Some(format!("`{{{name}}}` has no name")),
        plain if plain.contains('*') => {
            Some(format!("`{{{name}}}` has a `*` that is not at the beginning"))
        }
        _ if wildcard.is_some() && !is_last => {
            Some(format!("the wildcard `{{{name}}}` is not at the end"))
        }
        _ => None,
    }
}

// loom and shuttle have no services.
#[cfg(all(test, not(tidegate_loom), not(tidegate_shuttle)))]
mod tests {
    use std::panic::catch_unwind;

    use axum::Router;
    use axum::routing::get;

    use super::*;

    #[test]
    fn exactly_those_patterns_are_legal_that_axum_accepts() {
        let legal = [
            "/",
            "//",
            "/a",
            "/a/",
            "/a/{id}",
            "/a/{id}/",
            "/{a}/{b}",
            "/v{major}/x",
            "/{*path}",
            "/a/{*path}",
            "/{id}/{id}",
            "/{{id}}",
            "/{{",
            "/a}}",
            "/{id}}}",
            "/a:b",
            "/a*",
            "/a b",
            "/f-{*path}",
            "/{a}/{*b}",
        ];
        let illegal = [
            ("", "empty"),
            ("users", "begins with `/`"),
            ("GET /users", "begins with `/`"),
            ("/users/:id", "`{id}`"),
            ("/:id/x", "`{id}`"),
            ("/files/*path", "`{*path}`"),
            ("/files/*", "`{*path}`"),
            ("/{", "brace"),
            ("/}", "brace"),
            ("/{id", "brace"),
            ("/id}", "brace"),
            ("/{a/b}", "brace"),
            ("/}{id}", "brace"),
            ("/{}", "no name"),
            ("/{*}", "no name"),
            ("/a/{}/b", "no name"),
            ("/{*path}/a", "not at the end"),
            ("/{*path}/", "not at the end"),
            ("/{a*b}", "`*`"),
            ("/{**a}", "`*`"),
            ("/{a}{b}", "after `{a}`"),
            ("/{a}.json", "after `{a}`"),
            ("/{{{", "brace"),
        ];
        for pattern in legal {
            assert_eq!(fault(pattern), None, "{pattern}");
            assert!(is_accepted(pattern), "{pattern}");
        }
        for (pattern, expected) in illegal {
            let fault = fault(pattern).unwrap_or_else(|| panic!("{pattern} is legal"));
            assert!(fault.contains(expected), "{pattern}: {fault}");
            assert!(!is_accepted(pattern), "{pattern}");
        }
        // A router accepts this, but no path has a question mark.
        assert!(fault("/users?page={page}").is_some());
    }

    /// Whether axum's router accepts a pattern. Otherwise it panics.
    fn is_accepted(pattern: &str) -> bool {
        catch_unwind(|| Router::<()>::new().route(pattern, get(|| async {}))).is_ok()
    }
}
