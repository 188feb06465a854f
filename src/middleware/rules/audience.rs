//! Which clients a stored response may be served to (RFC 9111, section 3.5).

use http::HeaderMap;

use super::targeted::ResponseControl;

/// The clients that may get a response that was computed for an unidentified client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Only unidentified clients.
    Unknown,
    /// Also clients with `Authorization`: the rule of section 3.5 for storing, in the other direction.
    Authorized,
    /// Everybody.
    All,
}

/// The audience of a response with this head.
pub(crate) fn audience(headers: &HeaderMap) -> Audience {
    let said = ResponseControl::from_headers(headers).directives;
    if said.public || said.s_maxage.is_some_and(|age| !age.is_zero()) {
        Audience::All
    } else if said.must_revalidate || said.s_maxage.is_some() {
        Audience::Authorized
    } else {
        Audience::Unknown
    }
}
