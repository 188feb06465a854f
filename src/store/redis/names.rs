//! The names of keys and channels in Redis.

use std::env;

use super::RedisOptions;
use crate::entry::Key;

/// Part of each key, so that nodes of two versions never read one another's entries. It goes with
/// the version in the codec's magic.
pub(super) const FORMAT: &str = "5";

/// Follows the format if nodes share a secret, so that nodes with and without signing ignore each other's entries and
/// messages while a service changes from one to the other.
const SIGNED: &str = "s";

/// Names of executables that many services have.
const COMMON: [&str; 10] = [
    "api",
    "app",
    "application",
    "backend",
    "bootstrap",
    "main",
    "server",
    "service",
    "web",
    "worker",
];

/// Names what one service stores in Redis.
pub(super) struct RedisNames {
    prefix: String,
}

impl RedisNames {
    pub(super) fn new(options: &RedisOptions) -> Self {
        let chosen = options.prefix.clone().unwrap_or_else(|| default_prefix(&service()));
        let signed = if options.secrets.is_some() { SIGNED } else { "" };
        Self { prefix: format!("{chosen}:{FORMAT}{signed}") }
    }

    /// The prefix of all names.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn entry(&self, key: &Key) -> String {
        [&self.prefix, ":{", &key.to_hex(), "}"].concat()
    }

    /// In a cluster, this is in the entry's slot, since the part in braces is hashed (Redis manual, "Redis cluster
    /// specification", hash tags).
    pub(super) fn lease(&self, key: &Key) -> String {
        format!("{}:lease:{{{key}}}", self.prefix)
    }

    pub(super) fn channel(&self, channel: &str) -> String {
        format!("{}:channel:{channel}", self.prefix)
    }

    pub(super) fn value(&self, name: &str) -> String {
        format!("{}:value:{name}", self.prefix)
    }

    pub(super) fn leadership(&self, name: &str) -> String {
        format!("{}:leadership:{name}", self.prefix)
    }
}

fn default_prefix(service: &str) -> String {
    if COMMON.contains(&service) {
        tracing::warn!(
            service,
            "other services whose executable has this name would share entries in Redis: set \
             RedisOptions::prefix"
        );
    }
    format!("tidegate:{service}")
}

/// The name of this service, from the environment.
fn service() -> String {
    let of_environment = ["OTEL_SERVICE_NAME", "AWS_LAMBDA_FUNCTION_NAME"]
        .into_iter()
        .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
    let of_executable = || {
        let path = env::current_exe().ok()?;
        Some(path.file_stem()?.to_string_lossy().into_owned())
    };
    of_environment.or_else(of_executable).unwrap_or_else(|| "app".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_prefix_names_the_service_and_whether_entries_are_signed() {
        let options = RedisOptions::new("redis://localhost");
        let prefix = |options: &RedisOptions| RedisNames::new(options).prefix().to_owned();
        let by_default = prefix(&options);
        assert!(by_default.starts_with("tidegate:") && by_default.ends_with(":5"), "{by_default}");
        assert_ne!(by_default, "tidegate:5", "it names the executable");
        let shop = prefix(&options.clone().prefix("shop"));
        assert_eq!(shop, "shop:5");
        assert_eq!(prefix(&options.prefix("shop").secrets(["0123456789abcdef"])), "shop:5s");
    }
}
