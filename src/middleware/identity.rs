//! The client's identity, as far as the layer can see it.
//!
//! Headers are recognized by name. An authentication layer around this one stores its result in the request's extensions
//! instead. The types of extensions can't be listed, but the extensions can be counted: if there are more than the layer
//! knows by type, the handler may see something that the key does not hold.

use std::any::TypeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{MatchedPath, NestedPath, OriginalUri};
use http::{Extensions, Request, StatusCode};
use http_body::Body;

use super::routers::{self, is_in};
use super::rules::identity::IdentityHeaders;
use super::rules::request::RequestDirectives;
use crate::cache::{ExtensionType, Policy};
use crate::outcome::BypassReason;

/// The headers and extensions that identify a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdentitySource {
    pub(crate) headers: IdentityHeaders,
    pub(crate) extensions: KnownExtensions,
}

impl IdentitySource {
    /// The directives of a request; or why it must bypass the cache.
    pub(crate) fn directives<B: Body>(
        &self,
        request: &Request<B>,
        policy: &Policy,
        client_key: Option<String>,
    ) -> Result<RequestDirectives, BypassReason> {
        let has_unknown = || self.extensions.lacks_one_of(request.extensions());
        let directives =
            RequestDirectives::new(request, policy, &self.headers, has_unknown, client_key);
        // Not by `inspect_err`, which may copy the directives once more.
        if let Err(reason) = &directives {
            self.extensions.warn_if(*reason);
        }
        directives
    }

    /// Finds out again how a request identifies its client, after headers were removed.
    pub(crate) fn identify_again<B>(
        &self,
        directives: &mut RequestDirectives,
        request: &Request<B>,
        policy: &Policy,
    ) {
        let has_unknown = || self.extensions.lacks_one_of(request.extensions());
        directives.identify_again(request, policy, &self.headers, has_unknown);
    }
}

/// The types of extensions that a service has declared.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownExtensions {
    known: Vec<ExtensionType>,
    has_warned: Arc<AtomicBool>,
    has_warned_of_withheld: Arc<AtomicBool>,
}

impl KnownExtensions {
    /// Declares a type.
    pub(crate) fn add<T: Clone + Send + Sync + 'static>(&mut self) {
        let of_axum =
            [TypeId::of::<OriginalUri>(), TypeId::of::<MatchedPath>(), TypeId::of::<NestedPath>()];
        let added = ExtensionType::for_type::<T>();
        if !of_axum.contains(&added.id) && !self.has(added.id) {
            self.known.push(added);
        }
    }

    /// Whether a type is declared.
    pub(crate) fn has(&self, id: TypeId) -> bool {
        self.known.iter().any(|known| known.id == id)
    }

    /// Copies the extensions of the declared types.
    pub(crate) fn carry(&self, from: &Extensions, to: &mut Extensions) {
        self.known.iter().for_each(|known| (known.carry)(from, to));
    }

    /// Whether a request has an extension that is neither declared nor added by a router.
    pub(crate) fn lacks_one_of(&self, extensions: &Extensions) -> bool {
        if extensions.is_empty() {
            return false;
        }
        let of_axum = usize::from(is_in::<OriginalUri>(extensions))
            + usize::from(is_in::<MatchedPath>(extensions))
            + usize::from(is_in::<NestedPath>(extensions));
        let declared = self.known.iter().filter(|known| (known.is_in)(extensions)).count();
        !routers::have_added(extensions, extensions.len() - of_axum - declared)
    }

    /// Logs once that a strict policy has withheld extensions from a handler whose response may be a refusal for that reason.
    pub(crate) fn warn_of_withheld(&self, status: StatusCode) {
        const REFUSALS: [StatusCode; 3] =
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::INTERNAL_SERVER_ERROR];
        if REFUSALS.contains(&status) && !self.has_warned_of_withheld.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                %status,
                "a strict policy withheld request extensions from a handler, which then responded with this status. \
                 If the handler \
                 needs an extension, declare it: by Policy::vary_by_extension if the extension identifies the client, \
                 otherwise by CacheLayer::extension"
            );
        }
    }

    /// Logs once what to do about undeclared extensions, if they are the reason of a bypass.
    fn warn_if(&self, reason: BypassReason) {
        if reason == BypassReason::Extensions && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "requests bypass the cache, because a layer around CacheLayer adds request extensions that a handler may \
                 use, and that are not part of the key. Either add them to the key with Policy::vary_by, or declare those \
                 that do not identify the client with CacheLayer::extension, or add them inside the CacheLayer, or use \
                 Policy::public"
            );
        }
    }
}

/// The client's identity as returned by the policy's `vary_by` function, which sees the request's head.
pub(crate) fn client<A>(policy: &Policy, request: Request<A>) -> (Option<String>, Request<A>) {
    let Some(vary_by) = &policy.identity.vary_by else { return (None, request) };
    let (parts, body) = request.into_parts();
    let client = vary_by.client(&parts);
    (client, Request::from_parts(parts, body))
}
