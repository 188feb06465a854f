//! What the proxy does with responses, interim responses and upgrades.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{ask, proxy, raw_exchange};

#[tokio::test]
async fn an_informational_response_is_not_taken_for_the_final_one() {
    let (_proxy, at) = proxy().await;
    let (head, body) = ask(&at, "GET", "/hints").await;
    assert!(head.starts_with("HTTP/1.1 200") && body == "hi", "{head}");
    let (head, body) = ask(&at, "GET", "/hints").await;
    assert!(head.contains("tidegate; hit") && body == "hi", "{head}");
}

/// RFC 9110, section 8.6: no length is better than one that a GET request would not get.
#[tokio::test]
async fn a_response_to_head_has_no_length_if_the_origin_sends_none() {
    let (_proxy, at) = proxy().await;
    let (head, _) = ask(&at, "HEAD", "/chunked").await;
    assert!(head.starts_with("HTTP/1.1 200") && !head.contains("content-length"), "{head}");
    let (head, _) = ask(&at, "HEAD", "/latin").await;
    assert!(head.contains("content-length: 2"), "{head}");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_receives_it() {
    let (_proxy, at) = proxy().await;
    let mut connection = TcpStream::connect(&at).await.unwrap();
    let lines = ["POST /head HTTP/1.1", "host: a", "connection: close", "expect: 100-continue"];
    let head = format!("{}\r\ncontent-length: 2\r\n\r\n", lines.join("\r\n"));
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut told = [0; 25];
    connection.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
}

#[tokio::test]
async fn connection_cannot_remove_the_cache_control_of_a_response() {
    let (_proxy, at) = proxy().await;
    for _ in 0..2 {
        let (head, _) = ask(&at, "GET", "/shared").await;
        assert!(head.contains("cache-control: private") && !head.contains("x-hop"), "{head}");
        assert!(!head.contains("stored") && !head.contains("; hit"), "{head}");
    }
}

#[tokio::test]
async fn via_names_the_proxy_and_the_version_that_it_received() {
    let (_proxy, at) = proxy().await;
    let (head, _) = ask(&at, "GET", "/old").await;
    assert!(head.contains("via: 1.1 other\r\nvia: 1.0 tidegate"), "{head}");
    let old = ["GET /head HTTP/1.0", "host: a", "via: 1.1 other"];
    let response = raw_exchange(&at, &old).await;
    assert!(response.contains("via: 1.1 other\r\nvia: 1.0 tidegate"), "{response}");
}

#[tokio::test]
async fn a_response_may_have_hundreds_of_fields() {
    let (_proxy, at) = proxy().await;
    let (head, _) = ask(&at, "GET", "/many").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("x-299: 1"), "{head}");
}

#[tokio::test]
async fn a_websocket_is_tunnelled() {
    let (_proxy, at) = proxy().await;
    for _ in 0..2 {
        let mut connection = TcpStream::connect(&at).await.unwrap();
        let lines =
            ["GET /socket HTTP/1.1", "host: a", "connection: upgrade", "upgrade: websocket"];
        let request = format!("{}\r\n\r\nping", lines.join("\r\n"));
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("HTTP/1.1 101") && text.ends_with("\r\n\r\nping"), "{text}");
        assert!(text.to_ascii_lowercase().contains("upgrade: websocket"), "{text}");
    }
}

#[tokio::test]
async fn no_protocol_but_websocket_is_upgraded_to() {
    let (_proxy, at) = proxy().await;
    let upgrade =
        ["connection: close, upgrade, http2-settings", "upgrade: h2c", "http2-settings: A"];
    for expected in ["fwd=uri-miss", "tidegate; hit"] {
        let lines = [&["GET /head/h2c HTTP/1.1", "host: a"], &upgrade[..]].concat();
        let response = raw_exchange(&at, &lines).await;
        assert!(
            !response.contains("h2c\r\n") && !response.contains("http2-settings"),
            "{response}"
        );
        assert!(response.contains(expected), "{response}");
    }
    let (head, _) = ask(&at, "GET", "/upgrade-required").await;
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 426") && head.contains("upgrade: websocket"), "{head}");
}
