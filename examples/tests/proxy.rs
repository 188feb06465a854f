//! The reverse proxy in front of an origin with unusual but real responses.

use std::process::Stdio;

use crate::program;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

mod requests;
mod responses;

/// The bytes that the origin sends for a path, before it closes the connection.
fn raw_answer(path: &str) -> &'static [u8] {
    match path {
        "/299" => b"HTTP/1.1 299 Odd\r\ncontent-length: 2\r\n\r\nhi",
        "/999" => b"HTTP/1.1 999 Odder\r\ncontent-length: 2\r\n\r\nhi",
        "/latin" => b"HTTP/1.1 200 OK\r\nx-name: caf\xe9\r\ncache-control: max-age=60\r\ncontent-length: 2\r\n\r\nhi",
        "/close" => b"HTTP/1.0 200 OK\r\ncache-control: max-age=60\r\n\r\nuntil the end",
        "/chunked" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncache-control: max-age=60\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "/cut" => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\ncache-control: max-age=60\r\n\r\nhalf",
        "/hop" => b"HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nx-end: 1\r\ncontent-length: 0\r\n\r\n",
        "/hints" => b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n\
            HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 2\r\n\r\nhi",
        "/shared" => b"HTTP/1.1 200 OK\r\nconnection: cache-control, vary, x-hop\r\ncache-control: private, max-age=60\r\n\
            x-hop: 1\r\ncontent-length: 2\r\n\r\nhi",
        "/old" => b"HTTP/1.0 200 OK\r\nvia: 1.1 other\r\ncontent-length: 2\r\n\r\nhi",
        "/upgrade-required" => b"HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            content-length: 0\r\n\r\n",
        "/socket" => b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "/once" => b"HTTP/1.1 200 OK\r\ncache-control: max-age=0, stale-if-error=60\r\netag: \"1\"\r\ncontent-length: 4\r\n\r\nonce",
        _ => b"",
    }
}

/// An origin that sends these responses, and echoes the request's method in a header.
async fn origin() -> std::net::SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut once = 0;
        while let Ok((connection, _)) = socket.accept().await {
            let mut connection = BufReader::new(connection);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && connection.read_line(&mut head).await.unwrap() > 0
            {
            }
            let mut words = head.split(' ');
            let (method, path) =
                (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            once += usize::from(path == "/once");
            let answer = match path {
                "/echo" => {
                    format!("HTTP/1.1 200 OK\r\nx-method: {method}\r\ncontent-length: 0\r\n\r\n")
                        .into_bytes()
                }
                "/once" if once > 1 => Vec::new(),
                "/many" => many(),
                path if path.starts_with("/head") || path == "*" => echoed(&head),
                path => raw_answer(path).to_vec(),
            };
            connection.write_all(&answer).await.unwrap();
            if path == "/socket" {
                let mut said = [0; 4];
                connection.read_exact(&mut said).await.unwrap();
                connection.write_all(&said).await.unwrap();
            }
        }
    });
    address
}

/// A response that may be stored, whose body is the head of the request in lower case.
fn echoed(head: &str) -> Vec<u8> {
    let length = head.len();
    let fields =
        format!("cache-control: max-age=60\r\nvary: accept-language\r\ncontent-length: {length}");
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{}", head.to_ascii_lowercase()).into_bytes()
}

/// A response with more fields than most have.
fn many() -> Vec<u8> {
    let fields: String = (0..300).map(|name| format!("x-{name}: 1\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n").into_bytes()
}

/// The proxy, and where it listens.
async fn proxy() -> (Child, String) {
    let origin = format!("http://{}", origin().await);
    let mut command = Command::new(program("proxy"));
    let command = command.args([origin.as_str(), "127.0.0.1:0"]);
    let mut proxy = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut said).await.unwrap();
    let address = said.strip_prefix("http://").unwrap().split(' ').next().unwrap().to_owned();
    (proxy, address)
}

/// One exchange: returns the head and the body of the response.
async fn ask(address: &str, method: &str, path: &str) -> (String, String) {
    let text = exchange(address, method, path).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
    (head.to_owned(), body.to_owned())
}

/// Returns all bytes until the end of the connection.
async fn exchange(address: &str, method: &str, path: &str) -> String {
    let line = format!("{method} {path} HTTP/1.1");
    raw_exchange(address, &[&line, "host: example.org", "connection: close"]).await
}

/// Sends these lines of a head; returns all bytes until the end of the connection, each as one character.
async fn raw_exchange(address: &str, lines: &[&str]) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("{}\r\n\r\n", lines.join("\r\n"));
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes).await.unwrap();
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[tokio::test]
async fn unusual_statuses_and_methods_are_forwarded_and_hop_by_hop_fields_are_not() {
    let (_proxy, at) = proxy().await;
    for status in ["299", "999"] {
        let (head, body) = ask(&at, "GET", &format!("/{status}")).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert_eq!(body, "hi");
    }
    for method in ["GET", "OPTIONS", "DELETE", "PATCH", "PROPFIND", "M-SEARCH"] {
        let (head, _) = ask(&at, method, "/echo").await;
        assert!(head.contains(&format!("x-method: {method}")), "{head}");
    }
    let (head, _) = ask(&at, "GET", "/hop").await;
    assert!(head.contains("x-end") && !head.contains("x-hop"), "{head}");
}

#[tokio::test]
async fn responses_with_unusual_framing_or_encoding_are_stored_and_hit() {
    let (_proxy, at) = proxy().await;
    for (path, expected) in [("/latin", "hi"), ("/close", "until the end"), ("/chunked", "hi")] {
        let (_, first) = ask(&at, "GET", path).await;
        assert!(first.contains(expected), "{first}");
        let (head, body) = ask(&at, "GET", path).await;
        assert!(head.contains("tidegate; hit"), "{path}: {head}");
        assert_eq!(body, expected);
    }
    let (head, _) = ask(&at, "GET", "/latin").await;
    assert!(head.contains("x-name: caf\u{e9}"), "{head}");
}

#[tokio::test]
async fn an_origin_that_closes_the_connection_yields_a_502_or_a_stale_response() {
    let (_proxy, at) = proxy().await;
    let (head, _) = ask(&at, "GET", "/hang-up").await;
    assert!(head.starts_with("HTTP/1.1 502"), "{head}");
    assert_eq!(ask(&at, "GET", "/once").await.1, "once");
    let (head, body) = ask(&at, "GET", "/once").await;
    assert!(head.contains("stale-if-error"), "{head}");
    assert_eq!(body, "once");
}

#[tokio::test]
async fn a_truncated_body_is_neither_completed_nor_stored() {
    let (_proxy, at) = proxy().await;
    let mut told = 0;
    for _ in 0..10 {
        let text = exchange(&at, "GET", "/cut").await;
        // The proxy may notice the broken body before it has sent the head, and close the connection.
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            assert!(head.contains("content-length: 100") && !head.contains("; hit"), "{head}");
            assert!(body.is_empty() || body == "half", "{body}");
            told += 1;
        }
    }
    assert!(told > 0, "it hung up each time");
}
