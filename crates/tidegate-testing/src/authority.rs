//! Certificates for servers and clients.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::Scratch;
use crate::process::give_to_servers;

/// An authority that signs certificates. All files are removed when it is dropped.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    files: Scratch,
}

/// A certificate and its key, as files in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, which only the user that servers run as, and root, can read.
    pub key: PathBuf,
}

impl Authority {
    /// Creates an authority with a key of its own.
    ///
    /// # Errors
    ///
    /// If its files can't be written.
    pub fn new() -> io::Result<Self> {
        let mut params = named("authority")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?.pem();
        let (issuer, files) = (Issuer::new(params, key), Scratch::new()?);
        write(&files.path().join("authority.pem"), &certificate)?;
        Ok(Self { issuer, files })
    }

    /// The path of its certificate, in PEM.
    pub fn certificate(&self) -> PathBuf {
        self.files.path().join("authority.pem")
    }

    /// Signs a certificate for a host or a user of this name.
    ///
    /// # Errors
    ///
    /// If its files can't be written.
    pub fn sign(&self, name: &str) -> io::Result<Certificate> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let signed = named(name)?.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        let path = |kind| self.files.path().join(format!("{name}.{kind}"));
        let files = Certificate { certificate: path("pem"), key: path("key") };
        write(&files.certificate, &signed.pem())?;
        write(&files.key, &key.serialize_pem())?;
        Ok(files)
    }
}

fn named(name: &str) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new([name.to_owned()]).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    give_to_servers(path)
}
