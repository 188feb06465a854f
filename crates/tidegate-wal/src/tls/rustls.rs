//! TLS with rustls and ring, as everywhere in Tidegate.

use std::sync::Arc;
use std::{fmt, fs};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use sqlx::postgres::PgSslMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::options::TlsOptions;
use crate::error::StreamError;
use crate::socket::Socket;

/// Encrypts the connection, if the options and the server want it (PostgreSQL manual, section 54.2.10).
pub(crate) async fn encrypt(
    mut socket: TcpStream,
    host: &str,
    options: &TlsOptions,
) -> Result<Box<dyn Socket>, StreamError> {
    if matches!(options.mode, PgSslMode::Disable | PgSslMode::Allow) {
        return Ok(Box::new(socket));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    // One byte and no more: everything after it must be encrypted (CVE-2021-23222).
    match socket.read_u8().await? {
        b'S' => {}
        b'N' if matches!(options.mode, PgSslMode::Prefer) => return Ok(Box::new(socket)),
        b'N' => return Err(StreamError::Tls("the server does not offer it".to_owned())),
        _ => return Err(StreamError::Decode("the reply to the TLS request is invalid")),
    }
    let name = ServerName::try_from(host.to_owned()).map_err(failed)?;
    let options = options.clone();
    // Certificates are read from files.
    let config = spawn_blocking(move || config(&options)).await.map_err(failed)??;
    let connector = TlsConnector::from(Arc::new(config));
    Ok(Box::new(connector.connect(name, socket).await.map_err(failed)?))
}

fn config(options: &TlsOptions) -> Result<ClientConfig, StreamError> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(failed)?;
    let authority = || {
        let roots = Arc::new(roots(options)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
        verifier.build().map_err(failed)
    };
    let builder = match options.mode {
        PgSslMode::VerifyFull => builder.with_webpki_verifier(authority()?),
        mode => {
            let authority = matches!(mode, PgSslMode::VerifyCa).then(authority).transpose()?;
            let lenient = Lenient { authority, algorithms };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(lenient))
        }
    };
    match (&options.identity, &options.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(identity), Some(key)) => {
            let key = PrivateKeyDer::from_pem_slice(&pem(key)?).map_err(failed)?;
            builder.with_client_auth_cert(certificates(identity)?, key).map_err(failed)
        }
        _ => {
            let why = "a client's certificate needs its key: set both `sslcert` and `sslkey`";
            Err(StreamError::Options(why.to_owned()))
        }
    }
}

/// The authorities of the system, and those of the options.
fn roots(options: &TlsOptions) -> Result<RootCertStore, StreamError> {
    let mut roots = RootCertStore::empty();
    // The system may have some that can't be read or used.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for root in options.roots.iter().map(|it| certificates(it)) {
        for root in root? {
            roots.add(root).map_err(failed)?;
        }
    }
    Ok(roots)
}

fn certificates(source: &str) -> Result<Vec<CertificateDer<'static>>, StreamError> {
    let pem = pem(source)?;
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(failed)?;
    match certificates.is_empty() {
        true => Err(StreamError::Tls(format!("no certificate in {source}"))),
        false => Ok(certificates),
    }
}

/// The text of a certificate or a key.
fn pem(source: &str) -> Result<Vec<u8>, StreamError> {
    match source.strip_prefix("file: ") {
        None => Ok(source.as_bytes().to_vec()),
        Some(path) => {
            fs::read(path).map_err(|error| StreamError::Tls(format!("can't read {path}: {error}")))
        }
    }
}

fn failed(error: impl fmt::Display) -> StreamError {
    StreamError::Tls(error.to_string())
}

/// Accepts any certificate or, with an authority, any that it has signed, for any host name.
#[derive(Debug)]
struct Lenient {
    authority: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
