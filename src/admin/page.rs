//! The HTML page: one file that loads nothing from elsewhere.

use std::sync::Arc;

use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use http::header::CONTENT_SECURITY_POLICY;
use sha2::{Digest, Sha256};

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The page, and what a browser may do with it (W3C, Content Security Policy Level 3).
#[derive(Clone)]
pub(crate) struct Page {
    html: Arc<str>,
    policy: HeaderValue,
}

impl Page {
    pub(crate) fn new() -> Self {
        let html = FRAME.replace("/* style */", STYLE).replace("/* script */", SCRIPT);
        let policy = format!(
            "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            digest(STYLE),
            digest(SCRIPT)
        );
        let policy = HeaderValue::from_str(&policy);
        let nothing = HeaderValue::from_static("default-src 'none'");
        Self { html: html.into(), policy: policy.unwrap_or(nothing) }
    }

    pub(crate) fn respond(&self) -> Response {
        let policy = [(CONTENT_SECURITY_POLICY, self.policy.clone())];
        (policy, Html(self.html.to_string())).into_response()
    }
}

fn digest(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text.as_bytes())))
}
