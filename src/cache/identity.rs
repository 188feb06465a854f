//! What a policy says of who the client is.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use super::policy::Policy;

/// How a policy distinguishes clients beyond headers and cookies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identification {
    pub(crate) vary_by: Option<VaryBy>,
}

/// Finds the client of a request.
#[derive(Clone)]
pub(crate) struct VaryBy(Arc<dyn Fn(&Parts) -> Option<String> + Send + Sync>);

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
}
