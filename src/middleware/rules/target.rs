//! What a write invalidates, or a response belongs to: a path or a cache group of a host.

use http::header::HOST;
use http::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;

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

    /// The same path, for responses that depend on the host.
    pub(crate) fn at_its_host(self) -> Self {
        Self { is_host_apart: true, ..self }
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
