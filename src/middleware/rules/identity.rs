//! Request headers other than `Authorization` and `Cookie` that identify the client.
//!
//! Authenticating proxies, API gateways and custom clients send them. By default, a request with one of them is treated
//! like a request with `Authorization` (RFC 9111, section 3.5): its response is shared only if the policy or the response
//! says so.

use http::{HeaderMap, HeaderName};

/// Names other than the custom ones below, sorted by bytes. A name that ends in `*` is a prefix.
const KNOWN: [&str; 60] = [
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
    "oam-*",
    "oam_*",
    "ocp-apim-subscription-key",
    "oidc*",
    "private-token",
    "proxy-authorization",
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "remote_user",
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
    "x-amzn-mtls-*",
    "x-client-id",
    "x-client-verify",
    "x-consumer-*",
    "x-device-id",
    "x-firebase-*",
    "x-forwarded-client-*",
    "x-forwarded-tls-client-*",
    "x-hasura-*",
    "x-on-behalf-of",
    "x-pomerium-*",
    "x-remote-extra-*",
    "x-remote-name",
    "x-ssl-client-*",
    "x-tls-client-*",
    "x-vouch-*",
    "xi-api-key",
];

/// A name that begins with `x-` identifies the client if one of these is in it.
const STEMS: [&str; 31] = [
    "account",
    "apikey",
    "auth",
    "basket",
    "cert",
    "credential",
    "customer",
    "email",
    "employee",
    "identity",
    "impersonat",
    "jwt",
    "login",
    "member",
    "oidc",
    "organisation",
    "organization",
    "passw",
    "permission",
    "person",
    "principal",
    "profile",
    "saml",
    "secret",
    "session",
    "tenant",
    "token",
    "user",
    "verified",
    "visitor",
    "workspace",
];

/// The same, if one of these is a word of it.
const WORDS: [&str; 16] = [
    "admin", "cart", "dn", "guest", "iap", "key", "msisdn", "org", "orgid", "shib", "sid", "sso",
    "sub", "sudo", "uid", "wsse",
];

/// The same, if a word of it begins with one of these.
const PREFIXES: [&str; 4] = ["clientid", "group", "role", "subject"];

/// How such names end that don't identify the client. gRPC-Web sends `x-user-agent`.
const OTHERS: [&str; 2] = ["idempotency-key", "user-agent"];

/// Names that begin with `x-` and that most requests have behind a proxy.
const COMMON: [&str; 13] = [
    "x-amz-cf-id",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
    "x-request-id",
    "x-requested-with",
];

/// For each first letter of some names, a bit for each second letter. Two bytes suffice to rule out most headers.
type Beginnings = [u32; 32];

const OF_KNOWN: Beginnings = beginnings(&KNOWN);

/// The first eight bytes of each known name, as numbers in the order of the names.
const KNOWN_STARTS: [u64; KNOWN.len()] = {
    let (mut starts, mut at) = ([0; KNOWN.len()], 0);
    while at < KNOWN.len() {
        starts[at] = start(KNOWN[at].as_bytes());
        at += 1;
    }
    starts
};

/// The first eight bytes of a name, or of a pattern up to its `*`, as a number: names that begin alike are neighbours.
const fn start(name: &[u8]) -> u64 {
    let (mut start, mut at) = (0, 0);
    while at < 8 {
        let is_in = at < name.len() && name[at] != b'*';
        start = start << 8 | if is_in { name[at] as u64 } else { 0 };
        at += 1;
    }
    start
}
const OF_STEMS: Beginnings = beginnings(&STEMS);

const fn beginnings(names: &[&str]) -> Beginnings {
    let (mut beginnings, mut at) = ([0; 32], 0);
    while at < names.len() {
        let name = names[at].as_bytes();
        beginnings[(name[0] & 31) as usize] |= 1 << (name[1] & 31);
        at += 1;
    }
    beginnings
}

fn may_begin(beginnings: &Beginnings, name: &[u8]) -> bool {
    let [first, second, ..] = name else { return false };
    beginnings[usize::from(first & 31)] & (1 << (second & 31)) != 0
}

/// The headers that identify the client: the known ones, and those that a service adds.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdentityHeaders {
    added: Vec<String>,
}

impl IdentityHeaders {
    /// Adds a name, which may end in `*`.
    pub(crate) fn add(&mut self, name: &str) {
        self.added.push(name.to_ascii_lowercase());
    }

    /// Whether a service has added this header.
    pub(crate) fn is_added(&self, name: &str) -> bool {
        self.added.iter().any(|added| matches(added, name))
    }

    /// Whether a header identifies the client.
    pub(crate) fn has(&self, name: &str) -> bool {
        is_known(name) || self.is_added(name)
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
    is_listed(name) || is_custom_identity(name)
}

fn is_listed(name: &str) -> bool {
    if !may_begin(&OF_KNOWN, name.as_bytes()) {
        return false;
    }
    // No known name begins with another one. So those whose first eight bytes are the same can match, and of the shorter
    // ones, only the last.
    let this = match name.as_bytes().first_chunk() {
        Some(first) => u64::from_be_bytes(*first),
        None => start(name.as_bytes()),
    };
    for at in (0..KNOWN_STARTS.partition_point(|known| *known <= this)).rev() {
        if matches(KNOWN[at], name) {
            return true;
        }
        if KNOWN_STARTS[at] < this {
            break;
        }
    }
    false
}

/// Whether a name that nobody has registered says that it names the client. The names of applications and gateways can't be
/// listed.
fn is_custom_identity(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("x-") else { return false };
    if COMMON.binary_search(&name).is_ok() {
        return false;
    }
    let bytes = rest.as_bytes();
    let begins = |at: usize| {
        let here = &bytes[at..];
        may_begin(&OF_STEMS, here) && STEMS.iter().any(|stem| here.starts_with(stem.as_bytes()))
    };
    let has_word = || {
        let mut words = rest.split(['-', '_']);
        words.any(|word| WORDS.contains(&word) || PREFIXES.iter().any(|it| word.starts_with(it)))
    };
    ((0..bytes.len()).any(begins) || has_word())
        && !OTHERS.iter().any(|other| rest.ends_with(other))
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |stem| name.starts_with(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stem(pattern: &str) -> &str {
        pattern.strip_suffix('*').unwrap_or(pattern)
    }

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
    fn the_search_finds_what_a_comparison_with_each_name_finds() {
        let near = |name: &str| {
            let cut = |length| name.chars().take(length).collect::<String>();
            let lengths = 1..=name.len();
            let longer = ["-", "a", "z", "-id", "user"].map(|end| format!("{name}{end}"));
            lengths.map(cut).chain(longer).collect::<Vec<_>>()
        };
        for name in KNOWN.into_iter().chain(COMMON).map(stem).flat_map(near) {
            let is_one = KNOWN.iter().any(|known| matches(known, &name));
            assert_eq!(is_listed(&name), is_one, "{name}");
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
            "x-api-version",
            "x-app-version",
            "x-b3-traceid",
            "x-client-version",
            "x-datadog-trace-id",
            "x-device-user-agent",
            "x-idempotency-key",
            "x-user-agent",
        ]
        .into_iter()
        .chain(COMMON)
        {
            assert!(!is_known(name), "{name}");
        }
        assert!(COMMON.is_sorted());
    }

    #[test]
    fn custom_headers_identify_the_client_by_their_words() {
        for name in [
            "x-acme-tenant",
            "x-acme_user",
            "x-csrf-token",
            "x-current-person",
            "x-forwarded-role",
            "x-role-arn",
            "x-rolename",
            "x-remote-groupnames",
            "x-user-agent-id",
            "x-msisdn",
            "x-functions-key",
            "x-groups",
            "x-proxy-user",
            "x-rapidapi-key",
            "x-scope-orgid",
            "x-sso-user",
            "x-wsse",
            "x-zumo-auth",
        ] {
            assert!(is_known(name), "{name}");
        }
    }

    #[test]
    fn a_service_can_add_its_own_identity_headers() {
        let mut identity = IdentityHeaders::default();
        assert!(!identity.has("x-badge") && !identity.has("x-acme-pass"));
        identity.add("X-Badge");
        identity.add("x-acme-*");
        assert!(
            identity.has("x-badge") && identity.has("x-acme-pass") && identity.has("x-user-id")
        );
        assert!(!identity.has("x-badge-color"));
    }
}
