//! The proxies that keep answers in front of a handler, each with a folder of its own.
//!
//! They run as an unprivileged user where we are root, as all servers of the test harness do.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tidegate_testing::{Process, Scratch, eventually, free_port};
use tokio::net::TcpStream;

use super::pin;
use crate::Failure;
use crate::variant::Variant;

#[derive(Debug)]
pub(super) struct Proxy {
    process: Process,
    address: SocketAddr,
    scratch: Scratch,
}

/// The program of a variant that has a proxy; an error if it is not installed.
pub(super) fn program(variant: Variant) -> Option<Result<PathBuf, Failure>> {
    let name = match variant {
        Variant::Nginx => "nginx",
        Variant::Varnish => "varnishd",
        _ => return None,
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where Debian has them is not on everyone's path.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|program| program.is_file());
    Some(found.ok_or_else(|| format!("{name} is not installed").into()))
}

impl Proxy {
    pub(super) async fn start(
        variant: Variant,
        origin: SocketAddr,
        pinned: bool,
    ) -> Result<Option<Self>, Failure> {
        let Some(program) = program(variant) else { return Ok(None) };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let scratch = Scratch::new()?;
        let own = match variant {
            Variant::Nginx => nginx(scratch.path(), address, origin)?,
            _ => varnish(scratch.path(), address, origin),
        };
        let (command, mut arguments) = pin::server(&program?, pinned);
        arguments.extend(own);
        let log = scratch.path().join("log");
        let process = Process::spawn(Path::new(&command), arguments, &log)?;
        let mut proxy = Self { process, address, scratch };
        proxy.ready(&log).await?;
        Ok(Some(proxy))
    }

    async fn ready(&mut self, log: &Path) -> Result<(), Failure> {
        let (process, address) = (&mut self.process, self.address);
        let up = async || !process.is_running() || TcpStream::connect(address).await.is_ok();
        eventually("the proxy listens", up).await?;
        match self.process.is_running() {
            true => Ok(()),
            false => Err(std::fs::read_to_string(log).unwrap_or_default().into()),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// As the proxy itself has written it down.
    pub(super) fn id(&self) -> Result<u32, Failure> {
        let id = std::fs::read_to_string(self.scratch.path().join("pid"))?;
        Ok(id.trim().parse()?)
    }

    /// Asks it to end, and its workers with it.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        Ok(self.process.stop(Signal::SIGTERM).await?)
    }
}

/// One worker; connections to the origin are kept, as are files of the cache open.
fn nginx(folder: &Path, address: SocketAddr, origin: SocketAddr) -> std::io::Result<Vec<OsString>> {
    let folder = folder.display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .concat();
    let text = format!(
        "daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    {temporary}
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    open_file_cache max=1000 inactive=1h;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=kept:10m inactive=1h use_temp_path=off;
    upstream origin {{ server {origin}; keepalive 16; }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_cache kept;
            proxy_cache_valid 200 1h;
        }}
    }}
}}
"
    );
    let path = format!("{folder}/nginx.conf");
    std::fs::write(&path, text)?;
    let log = format!("{folder}/error.log");
    Ok(["-e", &log, "-p", &folder, "-c", &path].map(OsString::from).into())
}

/// With its built-in rules.
fn varnish(folder: &Path, address: SocketAddr, origin: SocketAddr) -> Vec<OsString> {
    let folder = folder.display().to_string();
    let (address, origin) = (address.to_string(), origin.to_string());
    let (work, pid) = (format!("{folder}/work"), format!("{folder}/pid"));
    let storage = ["-s", "malloc,256m", "-t", "3600", "-T", "none", "-j", "none"];
    let own = ["-F", "-a", &address, "-b", &origin, "-n", &work, "-P", &pid];
    own.into_iter().chain(storage).map(OsString::from).collect()
}
