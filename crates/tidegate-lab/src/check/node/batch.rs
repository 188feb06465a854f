//! The route that takes many requests at once.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::ServiceExt;

use super::super::batch::{Ask, read_asks, write_answer};
use super::super::client::PATIENCE;

/// The requests of a batch that are under way at the same time.
const AT_ONCE: usize = 16;

/// Passes each request to the service.
pub(super) async fn serve(State(service): State<Router>, body: Bytes) -> Result<Bytes, StatusCode> {
    let asks = read_asks(body).ok_or(StatusCode::BAD_REQUEST)?;
    let mut answers = stream::iter(asks).map(|ask| call(service.clone(), ask)).buffered(AT_ONCE);
    let mut bytes = BytesMut::new();
    while let Some((status, headers, body)) = answers.next().await {
        write_answer(&mut bytes, status, &headers, &body);
    }
    Ok(bytes.freeze())
}

async fn call(service: Router, ask: Ask) -> (StatusCode, HeaderMap, Bytes) {
    // The host is part of the key.
    let mut request = Request::get(ask.path).header("host", "check");
    if !ask.token.is_empty() {
        request = request.header("tidegate-position", ask.token);
    }
    let Ok(request) = request.body(Body::empty()) else {
        return (StatusCode::BAD_REQUEST, HeaderMap::new(), Bytes::new());
    };
    // A request that waits too long is cancelled as by a client that leaves, and the others of the batch have responses.
    let answered = timeout(PATIENCE, answer(service, request)).await;
    answered.unwrap_or((StatusCode::GATEWAY_TIMEOUT, HeaderMap::new(), Bytes::new()))
}

async fn answer(service: Router, request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
    let Ok(response) = service.oneshot(request).await;
    let (parts, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => (parts.status, parts.headers, body.to_bytes()),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, parts.headers, Bytes::new()),
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::Path;
    use axum::routing::get;

    use super::super::super::batch::{read_answers, write_asks};
    use super::*;

    /// The responses to these paths and tokens, as status and body.
    async fn answers(asks: &[(String, &str)]) -> Vec<(u16, String)> {
        let echo = async |Path(number): Path<u32>, headers: HeaderMap| {
            let token = headers.get("tidegate-position").map(|token| token.to_str().unwrap());
            // The later ones end first.
            tokio::time::sleep(std::time::Duration::from_millis(u64::from(100 - number))).await;
            format!("{number} {token:?} {:?}", headers["host"])
        };
        let service = Router::new().route("/{number}", get(echo));
        let asks =
            asks.iter().map(|(path, token)| Ask { path: path.clone(), token: (*token).into() });
        let asks: Vec<Ask> = asks.collect();
        let bytes = serve(State(service), write_asks(asks.iter())).await.unwrap();
        let answers = read_answers(bytes, asks.len()).unwrap();
        answers.into_iter().map(|answer| (answer.status.as_u16(), answer.body)).collect()
    }

    #[tokio::test]
    async fn each_request_goes_to_the_service_with_its_own_token() {
        let asks: Vec<_> = (0..20).map(|number| (format!("/{number}"), "")).collect();
        let expected: Vec<_> =
            (0..20).map(|number| (200, format!("{number} None \"check\""))).collect();
        assert_eq!(answers(&asks).await, expected);
        let found = answers(&[("/7".into(), "a token"), ("/no/route".into(), "")]).await;
        assert_eq!(found[0], (200, "7 Some(\"a token\") \"check\"".into()));
        assert_eq!(found[1].0, 404);
    }

    #[tokio::test]
    async fn a_malformed_batch_is_refused() {
        let found = serve(State(Router::new()), Bytes::from_static(b"GET / HTTP/1.1")).await;
        assert_eq!(found, Err(StatusCode::BAD_REQUEST));
    }
}
