//! Errors of connecting to Redis when a service starts.

use deadpool_redis::{PoolError, redis};

use crate::secret::SecretError;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why connecting to Redis failed. Each message contains the cause, so the error has no `source`. Neither `Display`
/// nor `Debug` shows a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisError {
    /// `REDIS_URL` is not set.
    #[error("REDIS_URL is not set; set it to an address such as redis://127.0.0.1:6379/")]
    NotSet,
    /// A secret that can't be used.
    #[error("the secrets for Redis can't be used: {0}")]
    Secret(SecretError),
    /// The address can't be parsed.
    #[error(
        "{url} is not a Redis address: {problem}; use redis://host:port/db, \
         redis+cluster://host:port,host:port/ or redis+sentinel://host:port,host:port/master/db, \
         with rediss in place of redis for TLS, and percent-encode special characters in a password"
    )]
    Url {
        /// The address, without its password.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The address needs a feature that this build does not include.
    #[error("{url} needs tidegate's feature `{feature}`: add it in Cargo.toml")]
    Feature {
        /// The address, without its password.
        url: String,
        /// The feature to enable.
        feature: &'static str,
    },
    /// The server could not be reached in time.
    #[error(
        "can't reach Redis at {url}: {cause}; check that it runs and that the address is right"
    )]
    Unreachable {
        /// The address, without its password.
        url: String,
        /// What happened.
        cause: Cause,
    },
    /// The server was reached and rejected the connection.
    #[error("Redis at {url} refuses the connection: {cause}; check user, password and database")]
    Refused {
        /// The address, without its password.
        url: String,
        /// The server's error.
        cause: Cause,
    },
}

impl From<SecretError> for RedisError {
    fn from(error: SecretError) -> Self {
        Self::Secret(error)
    }
}

impl RedisError {
    /// `url` is shown as it is.
    pub(super) fn connecting(url: &str, error: PoolError) -> Self {
        let (url, refused) = (url.to_owned(), is_refusal(&error));
        let cause = Box::new(error);
        if refused { Self::Refused { url, cause } } else { Self::Unreachable { url, cause } }
    }
}

fn is_refusal(error: &PoolError) -> bool {
    // All other errors are temporary: the server is starting, changes its role, can't write to its disk. ERR is what it
    // says to a user or a database that does not exist, but also at its limit of connections.
    const REFUSALS: [&str; 6] = ["NOAUTH", "WRONGPASS", "NOPERM", "DENIED", "NOPROTO", "ERR"];
    // A server that requires a password responds with a code for which the redis crate has no kind.
    let PoolError::Backend(error) = error else { return false };
    let is_at_its_limit =
        error.detail().is_some_and(|detail| detail.contains("max number of clients"));
    let says_no = error.code().is_some_and(|code| REFUSALS.contains(&code)) && !is_at_its_limit;
    error.kind() == redis::ErrorKind::AuthenticationFailed || says_no
}
