//! Without the feature `tls`.

use std::borrow::Cow;

use sqlx::postgres::PgSslMode;
use tokio::net::TcpStream;

use crate::error::StreamError;
use crate::socket::Socket;

/// The connection is not encrypted.
#[derive(Clone, Debug)]
pub(crate) struct TlsOptions;

impl TlsOptions {
    /// Rejects a mode that requires TLS.
    pub(crate) fn new<'a>(
        mode: PgSslMode,
        _parameters: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>,
    ) -> Result<Self, StreamError> {
        if matches!(mode, PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
            let why = "`sslmode` requires TLS: enable the feature `tls`";
            return Err(StreamError::Options(why.to_owned()));
        }
        Ok(Self)
    }
}

/// Does nothing: options that require TLS were rejected.
pub(crate) async fn encrypt(
    socket: TcpStream,
    _host: &str,
    _options: &TlsOptions,
) -> Result<Box<dyn Socket>, StreamError> {
    Ok(Box::new(socket))
}
