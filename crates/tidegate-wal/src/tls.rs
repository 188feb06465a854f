//! TLS towards the server, as sqlx understands `sslmode` and the certificates of a URL.

#[cfg(feature = "tls")]
mod options;
#[cfg(feature = "tls")]
mod rustls;
#[cfg(not(feature = "tls"))]
mod without;

#[cfg(feature = "tls")]
pub(crate) use options::TlsOptions;
#[cfg(feature = "tls")]
pub(crate) use rustls::encrypt;
#[cfg(not(feature = "tls"))]
pub(crate) use without::{TlsOptions, encrypt};
