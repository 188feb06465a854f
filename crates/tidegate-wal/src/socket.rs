//! What a connection is made of: TCP with or without TLS, or a Unix socket.

use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::error::StreamError;
use crate::tls::{self, TlsOptions};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp {
        host: String,
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// Connects, and encrypts the connection as the options say; never that of a Unix socket, as libpq does.
pub(crate) async fn connect(
    address: &Address,
    options: &TlsOptions,
) -> Result<Box<dyn Socket>, StreamError> {
    match address {
        Address::Tcp { host, port } => {
            let tcp = TcpStream::connect((host.as_str(), *port)).await?;
            tcp.set_nodelay(true)?;
            tls::encrypt(tcp, host, options).await
        }
        #[cfg(unix)]
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        #[cfg(not(unix))]
        Address::Unix(_) => {
            let why = "Unix sockets are not supported on this platform";
            Err(StreamError::Options(why.to_owned()))
        }
    }
}
