//! How a policy identifies clients.

use std::any::{TypeId, type_name};
use std::fmt;
use std::sync::Arc;

use http::Extensions;
use http::request::Parts;

use super::names::{cookie_pattern_fault, header_fault};

/// How a policy distinguishes clients beyond headers and cookies.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientKeying {
    pub(crate) vary_by: Option<VaryBy>,
    /// The handler receives only the parts of a request that are in the key or in `forwarded`.
    pub(crate) is_strict: bool,
    /// Headers that a strict policy passes to the handler although they are not in the key.
    pub(super) forwarded: Vec<String>,
    /// Cookies that do not identify the client; a `*` at the end matches any rest.
    pub(super) ignored_cookies: Vec<String>,
}

/// Headers that the handler always receives: the trace context (W3C Trace Context).
const TRACING: [&str; 2] = ["traceparent", "tracestate"];

impl ClientKeying {
    /// Whether a header is passed to the handler although it is not in the key.
    pub(crate) fn forwards(&self, name: &str) -> bool {
        TRACING.contains(&name) || self.forwarded.iter().any(|forwarded| forwarded == name)
    }

    /// Whether the policy ignores a cookie, as it does not identify the client.
    pub(crate) fn ignores_cookie(&self, name: &[u8]) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(stem) => name.starts_with(stem.as_bytes()),
            None => name == pattern.as_bytes(),
        };
        self.ignored_cookies.iter().any(matches)
    }

    /// Why these settings are invalid, if they are, together with the cookies that the policy keys by.
    pub(super) fn fault(&self, vary_cookies: &[String]) -> Option<String> {
        if !self.is_strict && !self.forwarded.is_empty() {
            let fault = "Policy::forward has no effect: only a strict policy withholds headers; add Policy::strict, or remove \
                         Policy::forward";
            return Some(fault.into());
        }
        if let Some(name) = self.ignored_cookies.iter().find(|name| vary_cookies.contains(name)) {
            return Some(format!(
                "both vary_cookies and ignore_cookies have `{name}`: leave it out of one"
            ));
        }
        let headers = self.forwarded.iter().find_map(|name| header_fault("forward", name));
        let mut cookies = self.ignored_cookies.iter();
        headers.or_else(|| cookies.find_map(|name| cookie_pattern_fault("ignore_cookies", name)))
    }
}

/// Finds the client of a request.
#[derive(Clone)]
pub(crate) struct VaryBy {
    find: Arc<FindClient>,
    /// The extension that holds the client, if the policy names its type.
    extension: Option<ExtensionType>,
}

/// A type of request extension.
#[derive(Clone, Copy)]
pub(crate) struct ExtensionType {
    pub(crate) id: TypeId,
    pub(crate) name: &'static str,
    pub(crate) is_in: fn(&Extensions) -> bool,
    /// Copies the extension of this type, if there is one.
    pub(crate) carry: fn(&Extensions, &mut Extensions),
}

impl ExtensionType {
    pub(crate) fn for_type<T: Clone + Send + Sync + 'static>() -> Self {
        let is_in = |extensions: &Extensions| extensions.get::<T>().is_some();
        Self { id: TypeId::of::<T>(), name: type_name::<T>(), is_in, carry: carry::<T> }
    }
}

impl fmt::Debug for ExtensionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Copies an extension of this type, if there is one.
pub(crate) fn carry<T: Clone + Send + Sync + 'static>(from: &Extensions, to: &mut Extensions) {
    if let Some(extension) = from.get::<T>() {
        to.insert(extension.clone());
    }
}

type FindClient = dyn Fn(&Parts) -> Option<String> + Send + Sync;

impl VaryBy {
    pub(super) fn new(client: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { find: Arc::new(client), extension: None }
    }

    /// Finds the client in an extension.
    pub(super) fn in_extension<T: Clone + Send + Sync + 'static>(
        client: impl Fn(&T) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let find = move |parts: &Parts| parts.extensions.get::<T>().and_then(&client);
        Self { find: Arc::new(find), extension: Some(ExtensionType::for_type::<T>()) }
    }

    /// The extension in which it finds the client, if the policy names its type.
    pub(crate) fn extension(&self) -> Option<ExtensionType> {
        self.extension
    }

    /// The client's identity as the policy's function returns it; `None` if the request identifies no client.
    pub(crate) fn client(&self, parts: &Parts) -> Option<String> {
        (self.find)(parts)
    }
}

impl fmt::Debug for VaryBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaryBy")
    }
}
