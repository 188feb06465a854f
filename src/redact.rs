//! Removes secrets from URLs, for errors and logs.

/// Returns `url` without any part that may be a password.
///
/// This has to work for URLs that don't parse, since many errors are about these: a password may contain any of `/?#@:`
/// unescaped. So this never trusts the structure; if a URL can be read in two ways, it hides what is secret in either.
pub(crate) fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // Postgres also takes `host=db password=secret`.
        return if url.contains(['@', '=']) { "***".to_owned() } else { url.to_owned() };
    };
    if !scheme.chars().all(|char| char.is_ascii_alphanumeric() || "+-.".contains(char)) {
        return "***".to_owned();
    }
    let user_ends = rest.rfind('@');
    let secret_begins = secret_parameter(rest);
    match (user_ends, secret_begins) {
        (None, None) => url.to_owned(),
        (Some(at), Some(secret)) if at > secret => format!("{scheme}://***"),
        (at, secret) => {
            let (user, hosts_from) = at.map_or_else(Default::default, |at| (user(&rest[..at]), at));
            let hosts = &rest[hosts_from..secret.unwrap_or(rest.len())];
            let hidden = if secret.is_some() { "***" } else { "" };
            format!("{scheme}://{user}{hosts}{hidden}")
        }
    }
}

/// The user name, which helps to find a mistake. Without a colon, it may be a token, so it is hidden.
fn user(info: &str) -> String {
    info.split_once(':').map_or_else(|| "***".to_owned(), |(name, _)| format!("{name}:***"))
}

/// The offset of the value of the first query parameter that may be a secret.
fn secret_parameter(rest: &str) -> Option<usize> {
    let lower = rest.to_ascii_lowercase();
    ["pass", "pwd", "secret", "token", "key"]
        .iter()
        .flat_map(|word| lower.match_indices(word))
        .filter(|(at, _)| rest[..*at].contains('?'))
        .filter_map(|(at, _)| rest[at..].find('=').map(|equals| at + equals + 1))
        .min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn redaction_hides_the_password_and_keeps_the_rest_of_a_url() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/2", "redis://127.0.0.1:6379/2"),
            ("redis://:secret@cache:6379", "redis://:***@cache:6379"),
            ("redis+cluster://app:secret@a,b:7000/", "redis+cluster://app:***@a,b:7000/"),
            ("redis://secret@cache", "redis://***@cache"),
            ("postgres://app:s/e?c#r@e:t@db/shop", "postgres://app:***@db/shop"),
            (
                "postgres://db/shop?user=app&password=secret",
                "postgres://db/shop?user=app&password=***",
            ),
            ("postgres://app:a@db/shop?sslpassword=b@c", "postgres://***"),
            ("host=db password=secret", "***"),
            ("cache:6379", "cache:6379"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }

    proptest! {
        #[test]
        fn no_password_is_shown(password in "[A-Z@:/?#&= %=.+-]{0,6}S3CR3T[A-Z@:/?#&= %.+-]{0,6}") {
            for url in [
                format!("redis://:{password}@cache:6379/0"),
                format!("rediss+sentinel://app:{password}@a:1,b:2/mymaster?protocol=resp3"),
                format!("postgres://app:{password}@db/shop?sslmode=require&password={password}"),
                format!("postgres://db/shop?user=app&password={password}"),
                format!("host=db password={password}"),
            ] {
                prop_assert!(!redacted(&url).contains("S3CR3T"), "{}", redacted(&url));
            }
        }
    }
}
