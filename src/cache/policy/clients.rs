//! The settings that say how a policy identifies clients.

use http::request::Parts;

use super::Policy;
use crate::cache::identity::VaryBy;

impl Policy {
    /// Adds the result of a function to the key. The function reads the request's head, most often an extension that an
    /// authentication layer *around* the [`CacheLayer`](crate::CacheLayer) has added. That layer runs for every request, so
    /// an expired token is rejected even if a response is stored, and entries are per user, not per token.
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
    /// Return everything about the client that the handler uses: the id, and the role or tenant if responses depend on
    /// them. `Some` identifies the client, so cookies, `Authorization` and similar headers no longer make the request
    /// bypass the cache. `None` means an anonymous client: all anonymous clients share responses, and these headers
    /// have their usual effect.
    ///
    /// A [`strict`](Self::strict) policy does not pass on the extensions that this function reads; use
    /// [`vary_by_extension`](Self::vary_by_extension) if the handler needs one.
    #[must_use]
    pub fn vary_by<F>(mut self, client: F) -> Self
    where
        F: Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    {
        self.identity.vary_by = Some(VaryBy::new(client));
        self
    }

    /// As [`vary_by`](Self::vary_by), with a function that gets the extension of type `T`; a request without one is
    /// anonymous. A [`strict`](Self::strict) policy passes this extension to the handler, on the routes of this policy alone.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidegate::Policy;
    ///
    /// #[derive(Clone)]
    /// struct User { id: u64 }
    ///
    /// let account = Policy::ttl(Duration::from_secs(60))
    ///     .strict()
    ///     .vary_by_extension(|user: &User| Some(user.id.to_string()));
    /// ```
    ///
    /// Don't declare `T` by [`CacheLayer::extension`](crate::CacheLayer::extension) too, which says that it does not
    /// identify the client.
    #[must_use]
    pub fn vary_by_extension<T, F>(mut self, client: F) -> Self
    where
        T: Clone + Send + Sync + 'static,
        F: Fn(&T) -> Option<String> + Send + Sync + 'static,
    {
        self.identity.vary_by = Some(VaryBy::in_extension(client));
        self
    }

    /// Ignores cookies that no response depends on, such as those of trackers (`_ga*`); a name that ends in `*`
    /// matches all names with that prefix. Any other cookie that [`vary_cookies`](Self::vary_cookies) does not name is
    /// still assumed to identify the client. A handler that computes a response for the cache does not receive ignored
    /// cookies. There are two exceptions, both only if the policy is not [`strict`](Self::strict):
    /// [`vary_by`](Self::vary_by) has returned the client's identity, or the policy is [`public`](Self::public) and
    /// names no cookie.
    #[must_use]
    pub fn ignore_cookies<I>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.identity.ignored_cookies.extend(names.into_iter().map(Into::into));
        self
    }

    /// Lets the handler receive only those parts of a request that are in its key, so that no response can depend on
    /// anything else. The handler gets only these extensions: axum's own, those declared by
    /// [`CacheLayer::extension`](crate::CacheLayer::extension), and that of
    /// [`vary_by_extension`](Self::vary_by_extension). This mode is recommended.
    ///
    /// The key holds the host (unless [`host(false)`](Self::host)), the path, the query (or the parameters of
    /// [`query`](Self::query)), and what [`vary`](Self::vary), [`vary_cookies`](Self::vary_cookies) and
    /// [`vary_by`](Self::vary_by) name. It also holds the headers in which proxies state the host, the path and the
    /// scheme, such as `X-Forwarded-Proto`. [`forward`](Self::forward) passes on further headers, on which responses
    /// must not depend. All other headers are removed, whether or not the response is stored. A request that bypasses
    /// the cache without a lookup, such as a write, or one that identifies a client for whom the policy does not
    /// account, is passed on unchanged.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.identity.is_strict = true;
        self
    }

    /// Request headers that a [`strict`](Self::strict) policy passes on although they are not in the key. Responses
    /// must not depend on them. `traceparent` and `tracestate` are always passed on. A forwarded `Accept` is an
    /// exception: for a request with content ([`query_content`](Self::query_content),
    /// [`post_reads`](Self::post_reads)), it is part of the key.
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
