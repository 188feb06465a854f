//! The options of TLS.

use std::borrow::Cow;

use sqlx::postgres::PgSslMode;

use crate::error::StreamError;

/// Whether to encrypt, and which certificates are used and accepted.
#[derive(Clone, Debug)]
pub(crate) struct TlsOptions {
    pub(super) mode: PgSslMode,
    /// The certificates of the authorities that are trusted beside the system's.
    pub(super) roots: Option<Certificate>,
    /// The client's certificate, and its key.
    pub(super) identity: Option<Certificate>,
    pub(super) key: Option<Certificate>,
}

/// A certificate or a key in PEM: a file's path after `file: `, or the text itself, as sqlx shows them in a URL.
pub(super) type Certificate = String;

impl TlsOptions {
    /// From the mode, and the parameters of a URL as sqlx builds it.
    #[expect(clippy::unnecessary_wraps, reason = "as without the feature")]
    pub(crate) fn new<'a>(
        mode: PgSslMode,
        parameters: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>,
    ) -> Result<Self, StreamError> {
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
