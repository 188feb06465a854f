//! A browser, as far as the tests need it (W3C, `WebDriver`).

use std::path::PathBuf;
use std::process::Stdio;

use axum::http::Request;
use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A browser without a window, on a profile of its own. It ends with the test.
pub(crate) struct Browser {
    client: Client<HttpConnector, Full<axum::body::Bytes>>,
    session: String,
    _driver: Child,
    _profile: tempfile::TempDir,
}

const ARGUMENTS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

impl Browser {
    pub(crate) async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver: see scripts/browser");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next_line().await.unwrap().expect("chromedriver ended");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let client = Client::builder(TokioExecutor::new()).build_http();
        let profile = tempfile::tempdir().unwrap();
        let user = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<&str> = ARGUMENTS.into_iter().chain([&*user]).collect();
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "unhandledPromptBehavior": "ignore",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        } } });
        let base = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self { client, session: base, _driver: driver, _profile: profile };
        let session = browser.call("POST", "", &wanted).await;
        let id = session["sessionId"].as_str().unwrap().to_owned();
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    /// Sends a command, and returns what it gives.
    async fn call(&self, method: &str, command: &str, body: &Value) -> Value {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{command}", self.session))
            .header("content-type", "application/json")
            .body(Full::from(body))
            .unwrap();
        let response = self.client.request(request).await.unwrap();
        let is_well = response.status().is_success();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let reply: Value = serde_json::from_slice(&body).unwrap();
        assert!(is_well, "{command}: {reply}");
        reply["value"].clone()
    }

    pub(crate) async fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({ "url": url })).await;
    }

    /// What an expression of JavaScript is.
    pub(crate) async fn value(&self, expression: &str) -> Value {
        let script = json!({ "script": format!("return {expression}"), "args": [] });
        self.call("POST", "/execute/sync", &script).await
    }

    /// The text that is seen of an element.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({selector:?}).innerText")).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Types into whatever has the focus; `\u{E004}` is Tab, `\u{E007}` Enter.
    pub(crate) async fn press(&self, keys: &str) {
        let keys = keys.chars().flat_map(|key| {
            ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
        });
        let actions: Vec<Value> = keys.collect();
        let actions = json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] });
        self.call("POST", "/actions", &actions).await;
    }

    pub(crate) async fn click(&self, selector: &str) {
        let wanted = json!({ "using": "css selector", "value": selector });
        let element = self.call("POST", "/element", &wanted).await;
        let id = element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        self.call("POST", &format!("/element/{id}/click"), &json!({})).await;
    }

    /// Accepts the page's dialog, and returns its text.
    pub(crate) async fn agree(&self) -> String {
        let question = self.call("GET", "/alert/text", &Value::Null).await;
        self.call("POST", "/alert/accept", &json!({})).await;
        question.as_str().unwrap_or_default().to_owned()
    }

    /// What the browser complains of.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", &json!({ "type": "browser" })).await;
        log.as_array().unwrap().iter().map(|entry| entry["message"].to_string()).collect()
    }

    /// Shows the page in another size, light or dark, and keeps a picture of it under `target/pictures`.
    pub(crate) async fn picture(&self, name: &str, (width, height): (u32, u32), is_dark: bool) {
        let scheme = if is_dark { "dark" } else { "light" };
        let feature = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.send("Emulation.setEmulatedMedia", json!({ "features": feature })).await;
        self.resize(width, height).await;
        let taken = self.call("GET", "/screenshot", &Value::Null).await;
        let bytes = base64::prelude::BASE64_STANDARD.decode(taken.as_str().unwrap()).unwrap();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../pictures");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }

    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.send("Emulation.setDeviceMetricsOverride", size).await;
    }

    async fn send(&self, command: &str, parameters: Value) {
        let command = json!({ "cmd": command, "params": parameters });
        self.call("POST", "/goog/cdp/execute", &command).await;
    }

    pub(crate) async fn end(self) {
        self.call("DELETE", "", &json!({})).await;
    }
}
