//! Runs the router as a Lambda function, in its own process. This test implements the Runtime API and sends the events
//! that API Gateway sends (AWS Lambda Developer Guide, "Using the Lambda runtime API").

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Stdio;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::{Mutex, mpsc};

/// The events to send, and a channel for the responses.
#[derive(Clone)]
struct Runtime {
    events: Arc<Mutex<mpsc::Receiver<Value>>>,
    answers: mpsc::Sender<Value>,
}

async fn next(State(runtime): State<Runtime>) -> ([(&'static str, String); 3], String) {
    let event = runtime.events.lock().await.recv().await;
    let Some(event) = event else { std::future::pending().await };
    let headers = [
        ("lambda-runtime-aws-request-id", fastrand::u64(..).to_string()),
        ("lambda-runtime-deadline-ms", u32::MAX.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:1:function:f".into()),
    ];
    (headers, event.to_string())
}

async fn answered(
    State(runtime): State<Runtime>,
    Path(_): Path<String>,
    body: String,
) -> StatusCode {
    runtime.answers.send(serde_json::from_str(&body).unwrap()).await.unwrap();
    StatusCode::ACCEPTED
}

/// An HTTP API's event, payload format 2.0.
fn http_api(path: &str, cookies: &[&str]) -> Value {
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "cookies": cookies,
        "headers": {
            "accept": "*/*",
            "content-length": "0",
            "host": "id.execute-api.eu-central-1.amazonaws.com",
            "user-agent": "curl/8.5.0",
            "x-amzn-trace-id": format!("Root=1-5e6722a7-{:024x}", fastrand::u128(..) >> 32),
            "x-forwarded-for": format!("192.0.2.{}", fastrand::u8(..)),
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https"
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "id",
            "domainName": "id.execute-api.eu-central-1.amazonaws.com",
            "domainPrefix": "id",
            "http": {
                "method": "GET",
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "curl/8.5.0"
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "10/Mar/2020:05:16:23 +0000",
            "timeEpoch": 1_583_817_383_220_u64
        },
        "isBase64Encoded": false
    })
}

/// A REST API's event, payload format 1.0.
fn rest_api(path: &str) -> Value {
    json!({
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": "GET",
        "headers": {
            "Host": "id.execute-api.eu-central-1.amazonaws.com",
            "X-Forwarded-Port": "443",
            "X-Forwarded-Proto": "https"
        },
        "multiValueHeaders": {
            "Host": ["id.execute-api.eu-central-1.amazonaws.com"],
            "X-Forwarded-Port": ["443"],
            "X-Forwarded-Proto": ["https"]
        },
        "queryStringParameters": null,
        "multiValueQueryStringParameters": null,
        "pathParameters": { "proxy": path.trim_start_matches('/') },
        "stageVariables": null,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "id",
            "httpMethod": "GET",
            "identity": { "sourceIp": "192.0.2.1", "userAgent": "curl/8.5.0" },
            "path": format!("/prod{path}"),
            "protocol": "HTTP/1.1",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "requestTimeEpoch": 1_583_817_383_220_u64,
            "resourceId": "123456",
            "resourcePath": "/{proxy+}",
            "stage": "prod"
        },
        "body": null,
        "isBase64Encoded": false
    })
}

/// The body and the `Cache-Status` of a response in API Gateway's format.
fn told(answer: &Value) -> (String, String) {
    let headers =
        [&answer["headers"]["cache-status"], &answer["multiValueHeaders"]["cache-status"][0]];
    let status = headers.into_iter().find_map(Value::as_str).unwrap_or_default();
    (answer["body"].as_str().unwrap_or_default().to_owned(), status.to_owned())
}

#[tokio::test]
async fn api_gateway_events_are_served_from_the_cache() {
    let (events, received) = mpsc::channel(8);
    let (answers, mut answered_with) = mpsc::channel(8);
    let runtime = Runtime { events: Arc::new(Mutex::new(received)), answers };
    let app = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(answered))
        .with_state(runtime);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(axum::serve(socket, app).into_future());
    let _function = Command::new(env!("CARGO_BIN_EXE_tidegate-example-lambda"))
        .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
        .env("AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH", "true")
        .envs([("AWS_LAMBDA_FUNCTION_NAME", "f"), ("AWS_LAMBDA_FUNCTION_VERSION", "1")])
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .envs([("AWS_LAMBDA_LOG_GROUP_NAME", "g"), ("AWS_LAMBDA_LOG_STREAM_NAME", "s")])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut ask = async |event: Value| {
        events.send(event).await.unwrap();
        told(&answered_with.recv().await.unwrap())
    };
    let (body, status) = ask(http_api("/prices/tea", &[])).await;
    assert_eq!(body, "the price of tea, looked up by run 1");
    assert!(status.contains("stored"), "{status}");
    let (body, status) = ask(http_api("/prices/tea", &[])).await;
    assert_eq!(body, "the price of tea, looked up by run 1");
    assert!(status.contains("; hit;"), "{status}");
    let (body, status) = ask(rest_api("/prices/tea")).await;
    assert_eq!(
        (body.as_str(), status.contains("; hit;")),
        ("the price of tea, looked up by run 1", true),
        "{status}"
    );
    let (body, status) = ask(http_api("/prices/tea", &["sid=1"])).await;
    // Prices are the same for all clients, so cookies and the authorizer's identity do not matter.
    assert_eq!(
        (body.as_str(), status.contains("; hit;")),
        ("the price of tea, looked up by run 1", true),
        "{status}"
    );
}
