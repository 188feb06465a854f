//! What a write invalidates (RFC 9111, section 4.4).

use http::{Method, Response};

use super::groups::invalidated;
use super::target::InvalidationTarget;

/// Whether a request with this method and response may have changed the resource.
fn invalidates<B>(method: &Method, response: &Response<B>) -> bool {
    let status = response.status();
    !is_safe(method) && (status.is_success() || status.is_redirection())
}

/// Whether a method is safe. Unknown methods are not (section 4.4). Besides those of RFC 9110, the registry of methods
/// lists these as safe.
pub(crate) fn is_safe(method: &Method) -> bool {
    method.is_safe() || ["PRI", "PROPFIND", "QUERY", "REPORT", "SEARCH"].contains(&method.as_str())
}

/// What a write invalidates, depending on its response.
#[derive(Clone, Debug)]
pub(crate) struct InvalidatedByWrite {
    target: InvalidationTarget,
    /// Whether its route has `Policy::standard`, so that it invalidates the responses that are stored under its path.
    is_by_path: bool,
}

impl InvalidatedByWrite {
    pub(crate) fn new(target: InvalidationTarget, is_by_path: bool) -> Self {
        Self { target, is_by_path }
    }

    /// The tag of its path, if it succeeded, and the tags of the cache groups that its response names, whatever the status.
    pub(crate) fn tags<B>(
        &self,
        method: &Method,
        response: &Response<B>,
        namespace: &str,
    ) -> Vec<String> {
        if is_safe(method) {
            // RFC 9875, section 3.
            return Vec::new();
        }
        let of_groups = invalidated(response.headers(), &self.target, namespace);
        let of_path =
            (self.is_by_path && invalidates(method, response)).then(|| self.target.tag(namespace));
        of_groups.into_iter().chain(of_path).collect()
    }
}

#[cfg(test)]
mod tests {
    use http::header::HOST;
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn target(uri: &str) -> InvalidationTarget {
        let headers = HeaderMap::from_iter([(HOST, "Example.org".parse().unwrap())]);
        InvalidationTarget::new(&uri.parse().unwrap(), &headers, true)
    }

    #[test]
    fn only_a_successful_unsafe_request_invalidates() {
        let by = |method: Method, status: u16| {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            invalidates(&method, &response)
        };
        assert!(by(Method::POST, 200) && by(Method::DELETE, 204) && by(Method::PUT, 303));
        let named = |name: &str| Method::from_bytes(name.as_bytes()).unwrap();
        assert!(by(named("M-SEARCH"), 200), "what is not known may write");
        for safe in ["PROPFIND", "QUERY", "REPORT", "SEARCH"] {
            assert!(!by(named(safe), 200), "{safe}");
        }
        assert!(!by(Method::POST, 500) && !by(Method::PUT, 412) && !by(Method::GET, 200));
    }

    #[test]
    fn the_tag_of_a_target_depends_on_host_and_path_but_not_on_the_query() {
        assert_eq!(target("/a?x").tag(""), target("http://example.ORG/a?y").tag(""));
        let elsewhere = target("http://elsewhere.org/a");
        for other in [elsewhere.tag(""), target("/b?x").tag(""), target("/a?x").tag("n")] {
            assert_ne!(target("/a?x").tag(""), other);
        }
    }
}
