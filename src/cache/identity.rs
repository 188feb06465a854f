//! What a policy says of who the client is.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use super::policy::Policy;

/// How a policy distinguishes clients beyond headers and cookies.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientKeying {
    pub(crate) vary_by: Option<VaryBy>,
    /// The handler gets nothing of a request but what the key holds, and what is forwarded.
    pub(crate) is_strict: bool,
    /// Headers that the handler gets though the key does not hold them, where it is strict.
    forwarded: Vec<String>,
    /// Cookies that say nothing of the client; `*` at the end stands for any rest.
    ignored_cookies: Vec<String>,
}

/// Headers that the handler gets in any case: the context of tracing (W3C Trace Context).
const TRACING: [&str; 2] = ["traceparent", "tracestate"];

impl ClientKeying {
    /// Whether a header is handed over though the key does not hold it.
    pub(crate) fn forwards(&self, name: &str) -> bool {
        TRACING.contains(&name) || self.forwarded.iter().any(|forwarded| forwarded == name)
    }

    /// Whether a cookie says nothing of the client.
    pub(crate) fn ignores_cookie(&self, name: &[u8]) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(stem) => name.starts_with(stem.as_bytes()),
            None => name == pattern.as_bytes(),
        };
        self.ignored_cookies.iter().any(matches)
    }

    /// What makes no sense about it, if anything.
    pub(super) fn fault(&self) -> Option<String> {
        let is_idle = !self.is_strict && !self.forwarded.is_empty();
        is_idle.then(|| {
            "it forwards headers, which only a strict policy withholds: add Policy::strict".into()
        })
    }
}

/// Finds the client of a request.
#[derive(Clone)]
pub(crate) struct VaryBy(Arc<FindClient>);

type FindClient = dyn Fn(&Parts) -> Option<String> + Send + Sync;

impl VaryBy {
    /// Who the client is, in the words of the policy's author; `None` for nobody in particular.
    pub(crate) fn client(&self, parts: &Parts) -> Option<String> {
        (self.0)(parts)
    }
}

impl fmt::Debug for VaryBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaryBy")
    }
}

impl Policy {
    /// Keys responses by what a function finds in the request's head: most often what an authentication layer *around*
    /// the [`CacheLayer`](crate::CacheLayer) has put into its extensions. That layer then runs for each request, so a
    /// token that has expired is refused though a response is stored, and entries are per user, not per token.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidegate::Policy;
    ///
    /// #[derive(Clone)]
    /// struct User { id: u64 }
    ///
    /// let account = Policy::ttl(Duration::from_secs(60))
    ///     .vary_by(|parts| parts.extensions.get::<User>().map(|user| user.id.to_string()));
    /// ```
    ///
    /// Give all that the handler uses of it: the id, and the role or tenant where responses depend on them. `Some` says who
    /// the client is, so cookies, `Authorization` and the like in the request no longer keep it from the cache. `None`
    /// says that it is nobody in particular: such requests share responses, if they have no such header.
    #[must_use]
    pub fn vary_by<F>(mut self, client: F) -> Self
    where
        F: Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    {
        self.identity.vary_by = Some(VaryBy(Arc::new(client)));
        self
    }

    /// Cookies by which no response differs, such as those of trackers (`_ga*`); a name that ends in `*` stands for all that
    /// begin so. A request with any other cookie that [`vary_cookies`](Self::vary_cookies) does not name is somebody's. A
    /// handler that computes a response for others does not get them.
    #[must_use]
    pub fn ignore_cookies<I>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.identity.ignored_cookies.extend(names.into_iter().map(Into::into));
        self
    }

    /// Hands the handler nothing of a request but what its key holds, so that no response can depend on anything else: not
    /// on a header, cookie or query parameter that the policy does not name, and not on an extension of the request that is
    /// neither axum's own nor declared ([`CacheLayer::extension`](crate::CacheLayer::extension)). The recommended mode.
    ///
    /// The key holds the host (unless [`host(false)`](Self::host)), the path, the query (or the parameters of
    /// [`query`](Self::query)), and what [`vary`](Self::vary), [`vary_cookies`](Self::vary_cookies) and
    /// [`vary_by`](Self::vary_by) name. [`forward`](Self::forward) adds headers by which no response differs. A header that is
    /// withheld is withheld from all requests that the cache leads to the handler, whether or not the response is stored; a
    /// request that bypasses the cache, since it says who the client is, is handed over whole.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.identity.is_strict = true;
        self
    }

    /// Request headers that a [`strict`](Self::strict) policy hands over though the key does not hold them; the handler
    /// must not respond by them. `traceparent` and `tracestate` always are.
    #[must_use]
    pub fn forward<I>(mut self, headers: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let names = headers.into_iter().map(|name| name.into().to_ascii_lowercase());
        self.identity.forwarded.extend(names);
        self
    }
}
