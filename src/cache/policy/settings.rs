//! The settings that policies of routes and of values share.

/// Adds the methods for lifetime and staleness to a policy type. `settings` is its method
/// that returns the `Policy`.
macro_rules! freshness_settings {
    ($policy:ident) => {
        impl $policy {
            /// Stores responses even if not everything that they depend on is tracked: reads that bypass
            /// `Database::reader()`, tables without triggers, other services. Only the TTL and the policy's own tags then
            /// limit how stale a response can be.
            #[must_use]
            pub fn untracked(mut self) -> Self {
                self.settings().untracked = true;
                self
            }

            /// Stores results that say "there is none" (responses with status 204, 404 or 410; the value `None`) for
            /// `ttl`. Without it, and with zero, they are not stored. It has no effect under `Policy::standard`.
            #[must_use]
            pub fn negative_ttl(mut self, ttl: Duration) -> Self {
                self.settings().negative_ttl = Some(ttl).filter(|ttl| !ttl.is_zero());
                self
            }

            /// Shortens each entry's TTL by a random part of it, up to this share (0 to 1; 0.1 by default, 0 under
            /// `Policy::standard`), so that entries that were computed together do not expire together.
            #[must_use]
            pub fn jitter(mut self, share: f64) -> Self {
                self.settings().jitter = share;
                self
            }

            /// How eagerly an entry is recomputed before it expires: the β of Vattani, Chierichetti and Lowenstein,
            /// "Optimal probabilistic cache stampede prevention" (VLDB 2015). 1 by default, 0 under
            /// `Policy::standard`; a larger value recomputes earlier, and 0 turns this off.
            #[must_use]
            pub fn early_refresh(mut self, beta: f64) -> Self {
                self.settings().early_refresh = beta;
                self
            }

            /// Serves an expired result for this long past its TTL while a new one is computed (RFC 5861, section 3).
            /// This applies only to expiry: a result that a change has made invalid is not served. Zero by default.
            /// Under `Policy::standard`, it applies to responses that state no such time themselves.
            #[must_use]
            pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
                self.settings().stale_while_revalidate = window;
                self
            }

            /// If computing a result fails, serves the last known one for up to this long past its TTL, even if a
            /// change has made it invalid (RFC 5861, section 4). A handler fails if it responds with 500, 502, 503 or
            /// 504, or if its service returns an error; the load of a value, if it returns an error. A session that
            /// has written something since the result was computed never gets it. Zero by default. Under
            /// `Policy::standard`, it applies to responses that state no such time themselves.
            #[must_use]
            pub fn stale_if_error(mut self, window: Duration) -> Self {
                self.settings().stale_if_error = window;
                self
            }

            /// After a failover or a crash of the primary, serves older responses until their TTL passes, while new ones
            /// are computed. It serves only responses that were valid on this node when the failover happened, and only
            /// until the node learns of a later change. They may show writes that the failover lost, and may lack writes
            /// from just before it that the node had not seen yet. A node that was started after the failover serves none,
            /// and no node serves one to a request with a session token.
            #[must_use]
            pub fn stale_after_failover(mut self) -> Self {
                self.settings().stale_after_failover = true;
                self
            }

            /// How long the node may serve from the cache after its last read of the change log; 5 s by default. After
            /// that, the node bypasses its cache until it has read the log again. So a result that is served as fresh
            /// includes every change of tracked data that is older than `bound`. Without a `Listener`, this has no
            /// effect.
            #[must_use]
            pub fn max_staleness(mut self, bound: Duration) -> Self {
                self.settings().max_staleness = bound;
                self
            }

            /// How long callers wait for another one that is computing the same result. After that, one of them
            /// computes it too, and the rest wait for whichever finishes first; after another `limit`, one more does
            /// so, and so on. So for each key, a node starts a slow computation at most once per `limit`, not once per
            /// caller. The limit also applies to computations that wait for a permit: if no other computation
            /// completes within `limit`, they start without one (see
            /// [`Cache::with_limits`](crate::Cache::with_limits)). 3 s by default; with zero, each caller computes its
            /// own result.
            #[must_use]
            pub fn wait(mut self, limit: Duration) -> Self {
                self.settings().wait = limit;
                self
            }

            /// How many fills under this policy (of its route, or of its values) run at a time on a node; at least
            /// one. To *fill* an entry is to compute a result and store it. The default is three quarters of all
            /// permits ([`Cache::with_limits`](crate::Cache::with_limits)), so that a handler that hangs leaves
            /// permits for other routes. Each route has a limit of its own; clones of a `ValuePolicy` share one.
            #[must_use]
            pub fn fills(mut self, most: usize) -> Self {
                self.settings().fills = crate::cache::gate::FillBound::new(most);
                self
            }

            /// How long the lease in Redis keeps other nodes from computing the same response. Set it to about the longest
            /// time that computing a response takes. 2 s by default; with zero, nodes take no leases, and each node
            /// computes the response itself.
            #[must_use]
            pub fn lease(mut self, limit: Duration) -> Self {
                self.settings().lease = limit;
                self
            }
        }
    };
}

pub(super) use freshness_settings;
