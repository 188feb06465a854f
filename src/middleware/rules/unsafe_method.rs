//! What a write makes invalid (RFC 9111, section 4.4).

use http::header::{CONTENT_LOCATION, HOST, LOCATION};
use http::{HeaderMap, Method, Response, Uri};

/// Whether this answer to this method may have changed what its URI stands for.
pub(crate) fn invalidates<B>(method: &Method, response: &Response<B>) -> bool {
    let status = response.status();
    !method.is_safe() && (status.is_success() || status.is_redirection())
}

/// Where a request went: host and path. Not the query, whose parts may count or not by the policy of
/// the route: a write makes all answers under its path invalid.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    host: String,
    uri: Uri,
    is_host_apart: bool,
}

impl Target {
    /// Where a request goes, and whether answers of other hosts are others.
    pub(crate) fn of(uri: &Uri, headers: &HeaderMap, is_host_apart: bool) -> Self {
        let named = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = uri.authority().map_or(named, |authority| authority.as_str());
        Self { host: host.to_ascii_lowercase(), uri: uri.clone(), is_host_apart }
    }

    /// The name of the tag that answers from here carry.
    pub(crate) fn tag(&self, namespace: &str) -> String {
        self.tag_of(namespace, self.uri.path())
    }

    /// The tags of all that an answer to a write makes invalid: its URI, and those of the same host
    /// that it names.
    pub(crate) fn tags(&self, namespace: &str, answer: &HeaderMap) -> Vec<String> {
        let named = [LOCATION, CONTENT_LOCATION].into_iter().filter_map(|name| answer.get(name));
        let named = named.filter_map(|place| self.resolve(place.to_str().ok()?));
        let named = named.map(|path| self.tag_of(namespace, &path));
        [self.tag(namespace)].into_iter().chain(named).collect()
    }

    fn tag_of(&self, namespace: &str, path: &str) -> String {
        let host = if self.is_host_apart { self.host.as_str() } else { "" };
        let mut hasher = blake3::Hasher::new();
        for part in [namespace, host, path] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        format!("uri:{}", hasher.finalize().to_hex())
    }

    /// The path of a reference, resolved against this (RFC 3986, section 5.2), if it is of the same host.
    fn resolve(&self, reference: &str) -> Option<String> {
        let reference = reference.split('#').next().unwrap_or_default();
        let path = self.uri.path();
        let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
        let whole = match reference.as_bytes() {
            [] => return None,
            [b'/', b'/', ..] => format!("http:{reference}"),
            [b'/', ..] => reference.to_owned(),
            [b'?', ..] => format!("{path}{reference}"),
            _ if has_scheme(reference) => reference.to_owned(),
            _ => format!("{folder}{reference}"),
        };
        let uri: Uri = whole.parse().ok()?;
        let same = uri.authority().is_none_or(|at| at.as_str().eq_ignore_ascii_case(&self.host));
        same.then(|| without_dots(uri.path()))
    }
}

/// RFC 3986, section 3.1.
fn has_scheme(reference: &str) -> bool {
    let (scheme, rest) = reference.split_once(':').unwrap_or_default();
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    !scheme.is_empty() && scheme.bytes().all(is_scheme) && rest.starts_with("//")
}

/// RFC 3986, section 5.2.4.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for segment in &segments {
        match *segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    // What ends with dots names a folder.
    let folder = segments.last().is_some_and(|last| [".", ".."].contains(last));
    format!("/{}{}", kept.join("/"), if folder && !kept.is_empty() { "/" } else { "" })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, StatusCode};

    use super::*;

    fn target(uri: &str) -> Target {
        let headers = HeaderMap::from_iter([(HOST, "Example.org".parse().unwrap())]);
        Target::of(&uri.parse().unwrap(), &headers, true)
    }

    #[test]
    fn only_a_write_that_went_well_changes_anything() {
        let by = |method: Method, status: u16| {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            invalidates(&method, &response)
        };
        assert!(by(Method::POST, 200) && by(Method::DELETE, 204) && by(Method::PUT, 303));
        assert!(by(Method::from_bytes(b"M-SEARCH").unwrap(), 200), "what is not known may write");
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

    #[test]
    fn places_that_the_answer_names_are_made_invalid_if_they_are_of_the_same_host() {
        let named = |place: &str| {
            let headers = [(HeaderName::from_static("location"), place.parse().unwrap())];
            target("/a/b?x").tags("", &headers.into_iter().collect())[1..].to_vec()
        };
        let of = |place: &str| vec![target(place).tag("")];
        assert_eq!(named("/c"), of("/c"));
        assert_eq!(named("c?y#z"), of("/a/c?y"));
        assert_eq!(named("../c"), of("/c"));
        assert_eq!(named("./c"), of("/a/c"));
        assert_eq!(named("c?u=http://elsewhere.org"), of("/a/c"));
        assert_eq!(named("."), of("/a/"));
        assert_eq!(named("?y"), of("/a/b?y"));
        assert_eq!(named("http://example.org/c"), of("/c"));
        assert_eq!(named("//example.org/c"), of("/c"));
        assert!(named("http://elsewhere.org/c").is_empty());
        assert!(named("#z").is_empty());
    }
}
