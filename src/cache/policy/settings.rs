//! What a route and a kind of value want alike.

/// Gives a type the settings of how long a response or a value lives, and when it may be served stale. `settings` is
/// where it keeps them.
macro_rules! freshness_settings {
    ($policy:ident) => {
        impl $policy {
            /// Stores responses though not all that they depend on is tracked: reads by other means than
            /// `Database::reader()`, tables without triggers, other services. Only the TTL and the
            /// policy's own tags then bound how stale a response can be.
            #[must_use]
            pub fn untracked(mut self) -> Self {
                self.settings().untracked = true;
                self
            }

            /// Stores responses that say "there is none" (204, 404 and 410, or `None`) for `ttl`. Without it they
            /// are not stored.
            #[must_use]
            pub fn negative_ttl(mut self, ttl: Duration) -> Self {
                self.settings().negative_ttl = Some(ttl);
                self
            }

            /// Shortens each entry's TTL by a random part of it, up to this share (0 to 1; 0.1 by default),
            /// so that entries made together do not expire together.
            #[must_use]
            pub fn jitter(mut self, share: f64) -> Self {
                self.settings().jitter = share;
                self
            }

            /// How eagerly an entry is refreshed before it expires, by the rule of Vattani, Chierichetti and
            /// Lowenstein, "Optimal probabilistic cache stampede prevention" (VLDB 2015): their β, 1 by
            /// default; 0 turns it off.
            #[must_use]
            pub fn early_refresh(mut self, beta: f64) -> Self {
                self.settings().early_refresh = beta;
                self
            }

            /// Serves an expired response for this long while a new one is made (RFC 5861, section 3). Only
            /// the TTL may have passed: a response that a change has made invalid is never served so.
            #[must_use]
            pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
                self.settings().stale_while_revalidate = window;
                self
            }

            /// Serves the last known response, however it became stale, for this long past its TTL when the
            /// handler fails (RFC 5861, section 4). Never to a session that wrote something since.
            #[must_use]
            pub fn stale_if_error(mut self, window: Duration) -> Self {
                self.settings().stale_if_error = window;
                self
            }

            /// After a failover, or a crash of the primary, serves responses of before it until their TTL while new ones are
            /// computed: those that were valid on this node when it came, until the node learns of a change since. They may show
            /// writes that were lost by the failover, and may lack writes of the moment before it that the node had not seen yet.
            /// A node that was started since serves none.
            #[must_use]
            pub fn stale_after_failover(mut self) -> Self {
                self.settings().stale_after_failover = true;
                self
            }

            /// How long the node may not have heard from the primary and still serve from the cache: the
            /// largest δ of the guarantee. 5 s by default.
            #[must_use]
            pub fn max_staleness(mut self, bound: Duration) -> Self {
                self.settings().max_staleness = bound;
                self
            }

            /// How long requests wait for the one that computes their response before one of them computes it too; the rest
            /// wait on, for the first of both. So a slow handler runs twice for each such time, and not once for each request.
            /// Also how long a fill waits for its turn while no other one ends (see
            /// [`Cache::with_limits`](crate::Cache::with_limits)). 3 s by default; with zero each request computes its own.
            #[must_use]
            pub fn wait(mut self, limit: Duration) -> Self {
                self.settings().wait = limit;
                self
            }

            /// How many fills of this policy, of its route or its values, run at a time on a node, at least one. Three quarters
            /// of what [`Cache::with_limits`](crate::Cache::with_limits) allows to all if nothing is said, so that a handler
            /// that hangs leaves some to the others. Each route has a bound of its own; clones of a policy of values share one.
            #[must_use]
            pub fn fills(mut self, most: usize) -> Self {
                self.settings().fills = crate::cache::permit::FillBound::new(most);
                self
            }

            /// How long one node may be the only one that makes a response: about as long as it takes at
            /// worst. 2 s by default; zero leaves each node to itself.
            #[must_use]
            pub fn lease(mut self, limit: Duration) -> Self {
                self.settings().lease = limit;
                self
            }
        }
    };
}

pub(super) use freshness_settings;
