//! Who may connect to a server, and how.

use std::{fs, io};

#[cfg(feature = "tls")]
use super::text;
use super::{ATTEMPTS, Postgres, breathe};
#[cfg(feature = "tls")]
use crate::Authority;

impl Postgres {
    /// Puts rules before those in `pg_hba.conf`, which trust every connection. The new rules apply to new connections.
    ///
    /// # Errors
    ///
    /// If the server does not run, or the file can't be written.
    pub async fn add_access_rules(&self, rules: &str) -> io::Result<()> {
        let path = self.data().join("pg_hba.conf");
        let others = fs::read_to_string(&path)?;
        fs::write(&path, format!("{rules}\n{others}"))?;
        self.reload().await
    }

    /// Lets new connections use TLS, with a certificate for `host` that the authority has signed. It is also the
    /// authority for certificates of clients.
    ///
    /// # Errors
    ///
    /// If the server does not run, or was built without TLS.
    #[cfg(feature = "tls")]
    pub async fn offer_tls(&self, authority: &Authority, host: &str) -> io::Result<()> {
        let files = authority.sign(host)?;
        let (certificate, key) = (text(&files.certificate), text(&files.key));
        let root = text(&authority.certificate());
        let sql = format!(
            "alter system set ssl_cert_file = '{certificate}';
             alter system set ssl_key_file = '{key}';
             alter system set ssl_ca_file = '{root}';
             alter system set ssl = on"
        );
        self.psql(&sql).await?;
        self.reload().await?;
        match self.psql("show ssl").await?.as_str() {
            "on" => Ok(()),
            _ => Err(io::Error::other(format!("the server offers no TLS:\n{}", self.log()))),
        }
    }

    /// Returns once new connections have the new configuration.
    async fn reload(&self) -> io::Result<()> {
        let loaded = "select pg_conf_load_time()";
        let before = self.psql(loaded).await?;
        self.psql("select pg_reload_conf()").await?;
        for _ in 0..ATTEMPTS {
            // Rules that are added may ask for more than psql has, so no connection is as good as a new time.
            if self.psql(loaded).await.map_or(true, |at| at != before) {
                return Ok(());
            }
            breathe().await;
        }
        Err(io::Error::other("the server does not load its configuration"))
    }
}
