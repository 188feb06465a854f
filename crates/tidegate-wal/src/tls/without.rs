//! Without the feature `tls`.

use tokio::net::TcpStream;

use super::TlsOptions;
use crate::error::StreamError;
use crate::socket::Socket;

/// Does nothing: options that require TLS were refused.
pub(crate) async fn encrypt(
    socket: TcpStream,
    _host: &str,
    _options: &TlsOptions,
) -> Result<Box<dyn Socket>, StreamError> {
    Ok(Box::new(socket))
}
