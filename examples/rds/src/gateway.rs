//! Lambda's runtime and an HTTP API in front of it, as far as one function needs them (AWS Lambda Developer
//! Guide, "Using the Lambda runtime API").

use std::fmt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use super::Failure;
use super::cloud::Cloud;

/// A function, and the runtime that feeds it.
pub(crate) struct Function {
    events: mpsc::Sender<Value>,
    answers: mpsc::Receiver<Value>,
    process: Child,
}

/// A response, as a client sees it.
pub(crate) struct Answer {
    pub(crate) body: String,
    cache_status: String,
}

#[derive(Clone)]
struct Runtime {
    events: Arc<Mutex<mpsc::Receiver<Value>>>,
    answers: mpsc::Sender<Value>,
}

impl Function {
    pub(crate) async fn start(cloud: &Cloud) -> Result<Self, Failure> {
        let (events, waiting) = mpsc::channel(1);
        let (answered, answers) = mpsc::channel(1);
        let runtime = Runtime { events: Arc::new(Mutex::new(waiting)), answers: answered };
        let api = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(answer))
            .with_state(runtime);
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?.to_string();
        tokio::spawn(async move { axum::serve(socket, api).await });
        let process = Command::new(std::env::current_exe()?)
            .arg("lambda")
            .envs(cloud.environment())
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .envs([("AWS_LAMBDA_FUNCTION_NAME", "shop"), ("AWS_LAMBDA_FUNCTION_VERSION", "1")])
            .envs([("AWS_LAMBDA_LOG_GROUP_NAME", "g"), ("AWS_LAMBDA_LOG_STREAM_NAME", "s")])
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(std::env::temp_dir().join("tidegate-rds-function.log"))?)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { events, answers, process })
    }

    /// Sends one event, and returns the response.
    pub(crate) async fn invoke(&mut self, path: &str) -> Result<Answer, Failure> {
        self.events.send(event(path)).await?;
        let answer = timeout(Duration::from_secs(20), self.answers.recv()).await?;
        let answer = answer.ok_or("the function has ended")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Answer {
            body: text(&answer["body"]),
            cache_status: text(&answer["headers"]["cache-status"]),
        })
    }

    /// Freezes the process, as Lambda does between two events.
    pub(crate) fn freeze(&self) -> Result<(), Failure> {
        self.signal(Signal::SIGSTOP)
    }

    pub(crate) fn thaw(&self) -> Result<(), Failure> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let id = self.process.id().ok_or("the function has ended")?;
        Ok(kill(Pid::from_raw(i32::try_from(id)?), signal)?)
    }
}

async fn next(State(runtime): State<Runtime>) -> ([(&'static str, String); 3], Json<Value>) {
    let event = runtime.events.lock().await.recv().await;
    let Some(event) = event else { std::future::pending().await };
    let headers = [
        ("lambda-runtime-aws-request-id", fastrand::u64(..).to_string()),
        ("lambda-runtime-deadline-ms", u32::MAX.to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:eu-central-1:1:function:shop".into(),
        ),
    ];
    (headers, Json(event))
}

async fn answer(State(runtime): State<Runtime>, Path(_): Path<String>, body: String) -> StatusCode {
    let Ok(answer) = serde_json::from_str(&body) else { return StatusCode::BAD_REQUEST };
    // After the end of the demo, nothing receives this.
    let _ = runtime.answers.send(answer).await;
    StatusCode::ACCEPTED
}

/// An HTTP API's event, payload format 2.0.
fn event(path: &str) -> Value {
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": { "accept": "*/*", "host": "shop.example", "x-forwarded-proto": "https" },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "id",
            "domainName": "shop.example",
            "domainPrefix": "shop",
            "http": {
                "method": "GET",
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "demo"
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

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n           {}", self.body, self.cache_status)
    }
}
