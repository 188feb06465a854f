//! Finds, in one pass over a request's header fields, those that concern a cache.
//!
//! Most requests have only `Host`. Looking each field up by name would cost more than the rest of a hit.

use http::HeaderMap;

/// A header field of requests that concerns a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestField {
    Authorization,
    CacheControl,
    Cookie,
    Forwarded,
    IfMatch,
    IfModifiedSince,
    IfNoneMatch,
    IfRange,
    IfUnmodifiedSince,
    Range,
    Upgrade,
    XForwardedHost,
    XForwardedPath,
    XForwardedPort,
    XForwardedPrefix,
    XForwardedProto,
    XForwardedScheme,
    XForwardedServer,
    XForwardedSsl,
    XForwardedUri,
    XHost,
    XHttpMethod,
    XHttpMethodOverride,
    XMethodOverride,
    XOriginalHost,
    XOriginalUrl,
    XRewriteUrl,
    XUrlScheme,
}

/// Their names, in the order above.
const NAMES: [&str; 28] = [
    "authorization",
    "cache-control",
    "cookie",
    "forwarded",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
    "upgrade",
    "x-forwarded-host",
    "x-forwarded-path",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-forwarded-uri",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-rewrite-url",
    "x-url-scheme",
];

/// The names of each length, as bits.
const BY_LENGTH: [u32; 32] = {
    let (mut names, mut at) = ([0; 32], 0);
    while at < NAMES.len() {
        names[NAMES[at].len()] |= 1 << at;
        at += 1;
    }
    names
};

impl RequestField {
    /// The fields that make a response depend on what the client has already.
    pub(crate) const CONDITIONS: [Self; 6] = [
        Self::IfMatch,
        Self::IfModifiedSince,
        Self::IfNoneMatch,
        Self::IfRange,
        Self::IfUnmodifiedSince,
        Self::Range,
    ];

    pub(crate) const fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// The fields of one request that concern a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestFields(u32);

impl RequestFields {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        Self(headers.keys().map(|name| bit(name.as_str())).fold(0, |all, one| all | one))
    }

    pub(crate) fn has(self, field: RequestField) -> bool {
        self.0 & (1 << field as u32) != 0
    }

    pub(crate) fn has_any(self, fields: &[RequestField]) -> bool {
        self.has_one_of(Self::from_fields(fields))
    }

    pub(crate) const fn has_one_of(self, fields: Self) -> bool {
        self.0 & fields.0 != 0
    }

    /// These fields; a constant, where the fields are.
    pub(crate) const fn from_fields(fields: &[RequestField]) -> Self {
        let (mut all, mut at) = (0, 0);
        while at < fields.len() {
            all |= 1 << fields[at] as u32;
            at += 1;
        }
        Self(all)
    }
}

fn bit(name: &str) -> u32 {
    let mut rest = BY_LENGTH.get(name.len()).copied().unwrap_or_default();
    while rest != 0 {
        let at = rest.trailing_zeros();
        if NAMES[at as usize] == name {
            return 1 << at;
        }
        rest &= rest - 1;
    }
    0
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn each_request_field_is_found_by_its_name_alone() {
        let all = [
            RequestField::Authorization,
            RequestField::CacheControl,
            RequestField::Cookie,
            RequestField::Forwarded,
            RequestField::IfMatch,
            RequestField::IfModifiedSince,
            RequestField::IfNoneMatch,
            RequestField::IfRange,
            RequestField::IfUnmodifiedSince,
            RequestField::Range,
            RequestField::Upgrade,
            RequestField::XForwardedHost,
            RequestField::XForwardedPath,
            RequestField::XForwardedPort,
            RequestField::XForwardedPrefix,
            RequestField::XForwardedProto,
            RequestField::XForwardedScheme,
            RequestField::XForwardedServer,
            RequestField::XForwardedSsl,
            RequestField::XForwardedUri,
            RequestField::XHost,
            RequestField::XHttpMethod,
            RequestField::XHttpMethodOverride,
            RequestField::XMethodOverride,
            RequestField::XOriginalHost,
            RequestField::XOriginalUrl,
            RequestField::XRewriteUrl,
            RequestField::XUrlScheme,
        ];
        assert_eq!(all.len(), NAMES.len());
        for one in all {
            let mut headers = HeaderMap::new();
            headers.insert("host", HeaderValue::from_static("a"));
            headers.insert(HeaderName::from_static(one.name()), HeaderValue::from_static("b"));
            let found: Vec<RequestField> = all
                .into_iter()
                .filter(|field| RequestFields::from_headers(&headers).has(*field))
                .collect();
            assert_eq!(found, [one]);
        }
    }
}
