//! The server, and the prepared requests for it.

use std::net::SocketAddr;

use futures_util::{StreamExt, TryStreamExt, stream};
use http::Uri;
use http::header::{HeaderName, HeaderValue};
use tokio::net::TcpStream;

use crate::Failure;

/// The number of connections that are opened concurrently: fewer than a listening socket's backlog.
const AT_A_TIME: usize = 64;

/// One server, and the requests for it.
#[derive(Debug)]
pub(super) struct Target {
    /// Host and port.
    authority: String,
    /// The first URL, for the output.
    pub(super) first: String,
    /// Complete requests, in the order in which they are sent.
    pub(super) requests: Vec<Box<[u8]>>,
}

impl Target {
    pub(super) fn new(
        urls: &[String],
        paths: Option<&str>,
        headers: &[String],
    ) -> Result<Self, Failure> {
        let urls: Vec<Uri> = urls.iter().map(|url| parsed(url)).collect::<Result<_, _>>()?;
        let authorities: Vec<String> = urls.iter().filter_map(authority).collect();
        let authority = authorities.first().ok_or("there is no URL to request")?.clone();
        if let Some(other) = authorities.iter().find(|other| **other != authority) {
            return Err(
                format!("{authority} and {other} are two servers: measure one at a time").into()
            );
        }
        let fields = fields(&authority, headers)?;
        let paths = match paths {
            Some(lines) => listed(lines)?,
            None => urls.iter().filter_map(Uri::path_and_query).map(ToString::to_string).collect(),
        };
        let first = paths.first().ok_or("--paths has no line with a path")?;
        Ok(Self {
            first: format!("http://{authority}{first}"),
            requests: paths.iter().map(|path| prepared(path, &fields)).collect(),
            authority,
        })
    }

    /// Opens `count` connections.
    pub(super) async fn connect(&self, count: u32) -> Result<Vec<TcpStream>, Failure> {
        let address = self.address().await?;
        let opened = stream::iter(0..count).map(|_| open(address)).buffer_unordered(AT_A_TIME);
        let opened = opened.try_collect().await;
        Ok(opened.map_err(|error| self.unreachable(&error))?)
    }

    fn unreachable(&self, error: &std::io::Error) -> String {
        let server = &self.authority;
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => format!("nothing listens at {server}"),
            _ => format!("can't connect to {server}: {error}"),
        }
    }

    async fn address(&self) -> Result<SocketAddr, Failure> {
        let found = tokio::net::lookup_host(&self.authority).await;
        let mut found = found.map_err(|error| format!("{}: {error}", self.authority))?;
        Ok(found.next().ok_or_else(|| format!("{} has no address", self.authority))?)
    }
}

pub(super) async fn open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn parsed(url: &str) -> Result<Uri, Failure> {
    let wrong = || format!("{url} is not a URL of the form http://host:port/path");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    match uri.scheme_str() {
        Some("http") => Ok(uri),
        Some("https") => Err(format!(
            "{url}: TLS is not measured here; use an http:// URL of the server behind it"
        )
        .into()),
        _ => Err(wrong().into()),
    }
}

fn authority(url: &Uri) -> Option<String> {
    let host = url.host()?;
    Some(format!("{host}:{}", url.port_u16().unwrap_or(80)))
}

fn listed(lines: &str) -> Result<Vec<String>, Failure> {
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(path).collect()
}

fn path(line: &str) -> Result<String, Failure> {
    let is_path = line.starts_with('/') && line.parse::<Uri>().is_ok();
    let path = is_path.then(|| line.to_owned());
    Ok(path.ok_or_else(|| format!("--paths: `{line}` is not a path that begins with /"))?)
}

/// The header fields of all requests.
fn fields(authority: &str, headers: &[String]) -> Result<String, Failure> {
    let given: Vec<(HeaderName, HeaderValue)> =
        headers.iter().map(|header| field(header)).collect::<Result<_, _>>()?;
    let mut fields = Vec::new();
    if !given.iter().any(|(name, _)| *name == http::header::HOST) {
        fields.push(format!("host: {authority}\r\n"));
    }
    for (name, value) in given {
        fields.push(format!("{name}: {}\r\n", value.to_str()?));
    }
    Ok(fields.concat())
}

fn field(header: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let wrong = || format!("`{header}` is not a header of the form \"Name: value\"");
    let (name, value) = header.split_once(':').ok_or_else(wrong)?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
    Ok((name.trim().parse().map_err(|_| wrong())?, value))
}

fn prepared(path: &str, fields: &str) -> Box<[u8]> {
    format!("GET {path} HTTP/1.1\r\n{fields}\r\n").into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(urls: &[&str], paths: Option<&str>, headers: &[&str]) -> Result<Target, String> {
        let owned = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        Target::new(&owned(urls), paths, &owned(headers)).map_err(|error| error.to_string())
    }

    #[test]
    fn each_url_becomes_a_complete_request() {
        let made = target(&["http://h:8080/a?b=c", "http://h:8080"], None, &["X-Y: z"]).unwrap();
        let texts = made.requests.iter().map(|request| str::from_utf8(request).unwrap());
        let fields = "host: h:8080\r\nx-y: z\r\n\r\n";
        let expected =
            [format!("GET /a?b=c HTTP/1.1\r\n{fields}"), format!("GET / HTTP/1.1\r\n{fields}")];
        assert!(texts.eq(expected.iter().map(String::as_str)));
    }

    #[test]
    fn a_given_host_header_replaces_the_host_of_the_url() {
        let made = target(&["http://127.0.0.1"], Some("/p\n\n/q\n"), &["Host: shop"]).unwrap();
        assert_eq!(&*made.requests[1], b"GET /q HTTP/1.1\r\nhost: shop\r\n\r\n");
        assert_eq!(made.authority, "127.0.0.1:80");
    }

    #[test]
    fn an_invalid_target_is_refused_with_the_reason() {
        for (urls, paths, headers, said) in [
            (&["localhost:80/x"][..], None, &[][..], "is not a URL"),
            (&["/x"], None, &[], "is not a URL"),
            (&["https://h/"], None, &[], "TLS is not measured"),
            (&["http://h/", "http://i/"], None, &[], "two servers"),
            (&["http://h/"], Some("x"), &[], "begins with /"),
            (&["http://h/"], Some("\n"), &[], "no line"),
            (&["http://h/"], None, &["x"], "Name: value"),
            (&["http://h/"], None, &["x: a\r\nb: c"], "Name: value"),
        ] {
            let error = target(urls, paths, headers).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
