//! The settings for requests with content.

use http::request::Parts;

use super::{Policy, PostReads};

impl Policy {
    /// Caches responses to QUERY requests (RFC 10008) with at most `bytes` bytes of content. Without this setting,
    /// QUERY requests bypass the cache. The key includes the content, so the layer reads the content before it looks
    /// anything up, and then gives it to the handler whole. Content that is larger, or that can't be read to its end
    /// within 30 s, is passed on as it arrives, and the response is not stored.
    ///
    /// The key also includes the fields that describe the content (`Content-Type`, `Content-Encoding` and all others
    /// whose names begin with `Content-`), and `Accept`, if the handler receives it: a strict policy withholds it
    /// unless [`vary`](Self::vary) or [`forward`](Self::forward) names it.
    ///
    /// For services whose request body is [`axum::body::Body`]: with another type of body, QUERY bypasses the cache.
    /// The content counts toward [`CacheLayer::buffer_limit`](crate::CacheLayer::buffer_limit) while it is read. For
    /// POST, see [`post_reads`](Self::post_reads).
    #[must_use]
    pub fn query_content(mut self, bytes: usize) -> Self {
        self.query_content = Some(bytes);
        self
    }

    /// Caches responses to those POST requests that only read, such as searches and GraphQL queries. `only_reads` gets
    /// the head and the content of a POST request of the route, and says whether it is one of these. It must say
    /// `false` for whatever may write: **a wrong `true` can lose a write**. A request for which it says `true` may get
    /// a stored response, or the response to another request that is sent at the same time, and it may be sent to the
    /// handler again in the background. All other POST requests go to the handler, once each, as without this setting.
    ///
    /// ```
    /// use std::time::Duration;
    /// use axum::http::header::CONTENT_TYPE;
    /// use tidegate::Policy;
    ///
    /// // A route whose POST requests all read:
    /// let search =
    ///     Policy::ttl(Duration::from_secs(60)).strict().public().post_reads(16 << 10, |_, _| true);
    ///
    /// // GraphQL, with a list of all contents that the service's own clients send:
    /// const KNOWN: [&[u8]; 2] =
    ///     [br#"{"query":"query Shops { shops { name } }"}"#, br#"{"query":"{ news { text } }"}"#];
    ///
    /// let graphql = Policy::ttl(Duration::from_secs(60)).strict().post_reads(16 << 10, |parts, content| {
    ///     let is_json = parts.headers.get(CONTENT_TYPE).is_some_and(|it| it == "application/json");
    ///     is_json && parts.uri.query().is_none() && KNOWN.contains(&content)
    /// });
    /// ```
    ///
    /// `docs/guide/2-policies.md` has a function for any GraphQL query, and what to consider for your own.
    ///
    /// A request that only reads is handled like QUERY under [`query_content`](Self::query_content): its content and
    /// the fields that describe it are part of the key, with `Accept` and the method. It invalidates nothing, its
    /// reads may go to replicas, and its response carries a session token only if the handler wrote. If the handler
    /// writes through `Database` after all, the response is not stored, and no other request gets it. This does not
    /// make a wrong `true` harmless: if the handler ran without writing, its response is stored, and later requests
    /// with the same content get it, whether or not they would have written.
    ///
    /// `only_reads` must base its decision only on parts of the request that the handler gets and that are in the key.
    /// Name each header that it reads in [`vary`](Self::vary), except `Content-*` and `Accept`. If the policy
    /// withholds or rewrites a part of the request ([`strict`](Self::strict), [`query`](Self::query) …), `only_reads`
    /// is called twice: with the head that the client sent, and with the head that the handler gets. It must say
    /// `true` for both. The head that the handler gets has no conditional and range headers (`If-None-Match`, `Range`
    /// …), even if `vary` names them.
    ///
    /// If the function panics, the request counts as one that may write. The process's panic hook runs for each panic;
    /// the layer logs an error only for the first one under each policy that is passed to
    /// [`CacheLayer::route`](crate::CacheLayer::route) or
    /// [`CacheLayer::default_policy`](crate::CacheLayer::default_policy).
    ///
    /// The content is read before the handler is called, up to `bytes`. The following requests are never shown to
    /// `only_reads`, and count as requests that may write:
    ///
    /// - with larger content, or with content that has trailers, breaks off, takes longer than 30 s, or does not fit
    ///   into [`CacheLayer::buffer_limit`](crate::CacheLayer::buffer_limit);
    /// - with `Idempotency-Key`, a header that overrides the method, or `Upgrade`;
    /// - to a service whose request body is not [`axum::body::Body`].
    ///
    /// In general, POST may write, so RFC 9110, section 9.3.3, does not let a cache answer a POST request with a stored
    /// response. With this setting the layer answers with one all the same, because `only_reads` says that the request
    /// does not write. A stored response to POST is not served to GET requests. Under [`standard`](Self::standard), the
    /// response must give its lifetime explicitly, as that section requires, and it is recomputed, not revalidated.
    ///
    /// [`ttl`](Self::ttl) is recommended. Under `standard`, a request that may write makes all stored responses of its
    /// path invalid if it succeeds. Any client can send such a request, with content that is too large or that
    /// `only_reads` rejects.
    #[must_use]
    pub fn post_reads<F>(mut self, bytes: usize, only_reads: F) -> Self
    where
        F: Fn(&Parts, &[u8]) -> bool + Send + Sync + 'static,
    {
        self.post_reads = Some(PostReads::new(bytes, only_reads));
        self
    }
}
