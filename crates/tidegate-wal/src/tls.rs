//! TLS towards the server, as sqlx understands `sslmode` and the certificates of a URL.

use std::borrow::Cow;

use sqlx::postgres::PgSslMode;

use crate::error::StreamError;

#[cfg(feature = "tls")]
mod rustls;
#[cfg(not(feature = "tls"))]
mod without;

#[cfg(feature = "tls")]
pub(crate) use rustls::encrypt;
#[cfg(not(feature = "tls"))]
pub(crate) use without::encrypt;

/// Whether to encrypt, and which certificates are used and accepted.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(feature = "tls"),
    expect(dead_code, reason = "without TLS, only its absence is checked")
)]
pub(crate) struct TlsOptions {
    mode: PgSslMode,
    /// The certificates of the authorities that are trusted beside the system's.
    roots: Option<Certificate>,
    /// The client's certificate, and its key.
    identity: Option<Certificate>,
    key: Option<Certificate>,
}

/// A certificate or a key in PEM: a file's path after `file: `, or the text itself, as sqlx shows them in a URL.
type Certificate = String;

impl TlsOptions {
    /// From the mode, and the parameters of a URL as sqlx builds it.
    pub(crate) fn new<'a>(
        mode: PgSslMode,
        parameters: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>,
    ) -> Result<Self, StreamError> {
        let is_required =
            matches!(mode, PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull);
        if is_required && cfg!(not(feature = "tls")) {
            let why = "`sslmode` requires TLS: enable the feature `tls`";
            return Err(StreamError::Options(why.to_owned()));
        }
        let mut options = Self { mode, roots: None, identity: None, key: None };
        for (name, value) in parameters {
            match &*name {
                "sslrootcert" => options.roots = Some(value.into_owned()),
                "sslcert" => options.identity = Some(value.into_owned()),
                "sslkey" => options.key = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(options)
    }
}
