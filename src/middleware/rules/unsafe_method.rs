//! What a write invalidates (RFC 9111, section 4.4).

use http::header::HOST;
use http::{HeaderMap, Method, Response, Uri};
use percent_encoding::percent_decode_str;

use super::groups::invalidated;

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

/// The target of a request: host and path, without the query. Which query parameters count depends on the policies of
/// routes, so a write invalidates all responses under its path.
#[derive(Clone, Debug)]
pub(crate) struct InvalidationTarget {
    host: String,
    uri: Uri,
    is_host_apart: bool,
}

impl InvalidationTarget {
    /// The target of a request. `is_host_apart` says whether responses depend on the host.
    pub(crate) fn new(uri: &Uri, headers: &HeaderMap, is_host_apart: bool) -> Self {
        let named = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = uri.authority().map_or(named, |authority| authority.as_str());
        // A default port is equivalent to none (RFC 9110, section 4.2.3).
        let host = host.strip_suffix(":80").or(host.strip_suffix(":443")).unwrap_or(host);
        Self { host: host.to_ascii_lowercase(), uri: uri.clone(), is_host_apart }
    }

    /// The same path, whatever the host.
    pub(crate) fn anywhere(self) -> Self {
        Self { is_host_apart: false, ..self }
    }

    /// The name of the tag that responses from here carry, and that a write invalidates. Section 4.4 also allows a cache to
    /// invalidate the URIs in `Location` and `Content-Location`; but then a client that can influence these fields could
    /// invalidate any page.
    ///
    /// All spellings of a path have the same tag, since routers decode parameters: a write to `/users/4` also changes
    /// `/users/%34`.
    pub(crate) fn tag(&self, namespace: &str) -> String {
        let path: Vec<u8> = percent_decode_str(self.uri.path()).collect();
        format!("uri:{}", self.hash(namespace, &path))
    }

    /// The name of the tag that responses of a cache group carry. Groups of different origins are different, even if their
    /// names are the same (RFC 9875, section 2.1). The scheme does not count, since HTTP/1.1 does not send it.
    pub(crate) fn group_tag(&self, namespace: &str, group: &str) -> String {
        format!("group:{}", self.hash(namespace, group.as_bytes()))
    }

    fn hash(&self, namespace: &str, name: &[u8]) -> blake3::Hash {
        let host = if self.is_host_apart { self.host.as_str() } else { "" };
        let mut hasher = blake3::Hasher::new();
        for part in [namespace.as_bytes(), host.as_bytes(), name] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn target(uri: &str) -> InvalidationTarget {
        let headers = HeaderMap::from_iter([(HOST, "Example.org".parse().unwrap())]);
        InvalidationTarget::new(&uri.parse().unwrap(), &headers, true)
    }

    #[test]
    fn only_a_write_that_went_well_changes_anything() {
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
    fn the_host_and_the_path_count() {
        assert_eq!(target("/a?x").tag(""), target("http://example.ORG/a?y").tag(""));
        let elsewhere = target("http://elsewhere.org/a");
        for other in [elsewhere.tag(""), target("/b?x").tag(""), target("/a?x").tag("n")] {
            assert_ne!(target("/a?x").tag(""), other);
        }
    }
}
