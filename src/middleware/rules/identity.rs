//! Request headers other than `Authorization` and `Cookie` that identify the client.
//!
//! Authenticating proxies, API gateways and custom clients send them. By default, a request with one of them is treated
//! like a request with `Authorization` (RFC 9111, section 3.5): its response is shared only if the policy or the response
//! says so.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName};

/// The names, sorted by bytes. A name that ends in `*` is a prefix.
const KNOWN: [&str; 122] = [
    "access-token",
    "api-key",
    "api-token",
    "apikey",
    "auth-token",
    "authentication",
    "cf-access-*",
    "client-cert*",
    "dpop",
    "id-token",
    "impersonate-*",
    "iv-creds",
    "iv-groups",
    "iv-user",
    "job-token",
    "oidc*",
    "private-token",
    "proxy-authorization",
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "saml-*",
    "session-id",
    "session-token",
    "sessionid",
    "shib-*",
    "sm-user",
    "sm_universalid",
    "sm_user",
    "ssl-client-*",
    "ssl_client_*",
    "sudo",
    "tailscale-user-*",
    "token",
    "user-id",
    "user-token",
    "userid",
    "username",
    "x-access-token",
    "x-account*",
    "x-admin-*",
    "x-amz-security-token",
    "x-amzn-mtls-*",
    "x-amzn-oidc-*",
    "x-api-key",
    "x-api-token",
    "x-apigateway-api-userinfo",
    "x-apikey",
    "x-app-key",
    "x-app-token",
    "x-arr-clientcert",
    "x-auth*",
    "x-client-cert*",
    "x-client-dn",
    "x-client-id",
    "x-client-key",
    "x-client-subject",
    "x-client-verify",
    "x-consumer-*",
    "x-credential*",
    "x-customer*",
    "x-device-id",
    "x-email",
    "x-employee*",
    "x-endpoint-api-userinfo",
    "x-firebase-*",
    "x-forwarded-access-token",
    "x-forwarded-client-*",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-id-token",
    "x-forwarded-preferred-username",
    "x-forwarded-tls-client-*",
    "x-forwarded-user*",
    "x-gitlab-token",
    "x-goog-api-key",
    "x-goog-authenticated-user-*",
    "x-goog-iap-*",
    "x-hasura-*",
    "x-id-token",
    "x-identity*",
    "x-impersonate*",
    "x-jwt*",
    "x-login*",
    "x-member*",
    "x-ms-client-principal*",
    "x-ms-token-*",
    "x-oauth*",
    "x-oidc-*",
    "x-on-behalf-of",
    "x-org-id",
    "x-organization*",
    "x-parse-session-token",
    "x-pomerium-*",
    "x-principal*",
    "x-profile-id",
    "x-remote-email",
    "x-remote-extra-*",
    "x-remote-group*",
    "x-remote-name",
    "x-remote-user*",
    "x-role*",
    "x-saml-*",
    "x-secret*",
    "x-session*",
    "x-shib-*",
    "x-shopify-access-token",
    "x-ssl-cert",
    "x-ssl-client-*",
    "x-subject*",
    "x-sudo",
    "x-tenant*",
    "x-tls-client-*",
    "x-token*",
    "x-uid",
    "x-user*",
    "x-vault-token",
    "x-verified-*",
    "x-vouch-*",
    "x-webauth-*",
    "x-workspace*",
];

/// Names that match a prefix above but do not identify the client. gRPC-Web sends this one.
const OTHERS: [&str; 1] = ["x-user-agent"];

/// For each first letter of a known name, a bit for each second letter. Two bytes suffice to rule out most headers.
const BEGINNINGS: [u32; 32] = {
    let (mut beginnings, mut at) = ([0; 32], 0);
    while at < KNOWN.len() {
        let name = KNOWN[at].as_bytes();
        beginnings[(name[0] & 31) as usize] |= 1 << (name[1] & 31);
        at += 1;
    }
    beginnings
};

/// The headers that identify the client: the known ones, and those that a service adds.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdentityHeaders {
    added: BTreeSet<String>,
}

impl IdentityHeaders {
    /// Adds names, each of which may end in `*`.
    pub(crate) fn add(&mut self, names: impl Iterator<Item = String>) {
        self.added.extend(names.map(|name| name.to_ascii_lowercase()));
    }

    /// Whether a header identifies the client.
    pub(crate) fn has(&self, name: &str) -> bool {
        is_known(name) || self.added.iter().any(|added| matches(added, name))
    }

    /// The identifying headers of a request.
    pub(crate) fn matching<'h>(
        &self,
        headers: &'h HeaderMap,
    ) -> impl Iterator<Item = &'h HeaderName> {
        headers.keys().filter(|name| self.has(name.as_str()))
    }
}

fn is_known(name: &str) -> bool {
    let [first, second, ..] = name.as_bytes() else { return false };
    if BEGINNINGS[usize::from(first & 31)] & (1 << (second & 31)) == 0 {
        return false;
    }
    // No known name begins with another one, so the last that is not past this name is the only one to compare.
    let at = KNOWN.partition_point(|known| stem(known) <= name);
    let known = at.checked_sub(1).map(|at| KNOWN[at]);
    known.is_some_and(|known| matches(known, name)) && !OTHERS.contains(&name)
}

fn stem(pattern: &str) -> &str {
    pattern.strip_suffix('*').unwrap_or(pattern)
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |stem| name.starts_with(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_identity_headers_is_sorted_and_no_pattern_covers_another() {
        for pair in KNOWN.windows(2) {
            assert!(stem(pair[0]) < stem(pair[1]), "{pair:?}");
            assert!(!matches(pair[0], stem(pair[1])), "{pair:?}");
        }
        for name in KNOWN {
            assert!(is_known(stem(name)), "{name}");
        }
    }

    #[test]
    fn headers_that_every_browser_or_proxy_sends_are_not_identity_headers() {
        for name in [
            "accept",
            "connection",
            "from",
            "host",
            "if-none-match",
            "priority",
            "sec-fetch-user",
            "te",
            "traceparent",
            "upgrade-insecure-requests",
            "user-agent",
            "via",
            "x-amz-cf-id",
            "x-amzn-trace-id",
            "x-cloud-trace-context",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-real-ip",
            "x-request-id",
            "x-requested-with",
            "x-user-agent",
        ] {
            assert!(!is_known(name), "{name}");
        }
    }

    #[test]
    fn a_service_can_add_its_own_identity_headers() {
        let mut identity = IdentityHeaders::default();
        assert!(!identity.has("x-badge") && !identity.has("x-acme-person"));
        identity.add(["X-Badge".into(), "x-acme-*".into()].into_iter());
        assert!(
            identity.has("x-badge") && identity.has("x-acme-person") && identity.has("x-user-id")
        );
        assert!(!identity.has("x-badge-color"));
    }
}
