//! What a write makes invalid (RFC 9111, section 4.4).

use http::header::HOST;
use http::{HeaderMap, Method, Response, Uri};
use percent_encoding::percent_decode_str;

use super::groups::invalidated;

/// Whether this answer to this method may have changed what its URI stands for.
fn invalidates<B>(method: &Method, response: &Response<B>) -> bool {
    let status = response.status();
    !is_safe(method) && (status.is_success() || status.is_redirection())
}

/// Whether a method changes nothing. Those that are not known may (section 4.4); beyond those of RFC 9110, the registry of
/// methods has these as safe.
pub(crate) fn is_safe(method: &Method) -> bool {
    method.is_safe() || ["PRI", "PROPFIND", "QUERY", "REPORT", "SEARCH"].contains(&method.as_str())
}

/// What a response to a write makes invalid.
#[derive(Clone, Debug)]
pub(crate) struct InvalidatedByWrite {
    target: InvalidationTarget,
    /// Headers decide under the policy of its route, so that it makes what is stored under its path invalid.
    is_by_path: bool,
}

impl InvalidatedByWrite {
    pub(crate) fn new(target: InvalidationTarget, is_by_path: bool) -> Self {
        Self { target, is_by_path }
    }

    /// The tags of its path, where it went well, and of the cache groups that it names. These count whatever the status.
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

/// Where a request went: host and path. Not the query, whose parts may count or not by the policy of
/// the route: a write makes all answers under its path invalid.
#[derive(Clone, Debug)]
pub(crate) struct InvalidationTarget {
    host: String,
    uri: Uri,
    is_host_apart: bool,
}

impl InvalidationTarget {
    /// Where a request goes, and whether answers of other hosts are others.
    pub(crate) fn new(uri: &Uri, headers: &HeaderMap, is_host_apart: bool) -> Self {
        let named = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = uri.authority().map_or(named, |authority| authority.as_str());
        // A default port is none (RFC 9110, section 4.2.3).
        let host = host.strip_suffix(":80").or(host.strip_suffix(":443")).unwrap_or(host);
        Self { host: host.to_ascii_lowercase(), uri: uri.clone(), is_host_apart }
    }

    /// The same path, whatever the host.
    pub(crate) fn anywhere(self) -> Self {
        Self { is_host_apart: false, ..self }
    }

    /// The name of the tag that responses from here carry, and that a write makes invalid. Section 4.4 allows as much of the
    /// places that `Location` and `Content-Location` name; but then anybody whom a handler lets choose these empties any page.
    ///
    /// Spellings of one path have one tag: routers decode parameters, so `/users/%34` may be what a write to `/users/4` changed.
    pub(crate) fn tag(&self, namespace: &str) -> String {
        let path: Vec<u8> = percent_decode_str(self.uri.path()).collect();
        format!("uri:{}", self.hash(namespace, &path))
    }

    /// The name of the tag that responses of a cache group carry: groups of two origins are two, whatever they are called
    /// (RFC 9875, section 2.1). The scheme does not count, since HTTP/1.1 does not send it.
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
