//! The load, and whether what it measured is what was claimed.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_testing::Scratch;
use tokio::process::Command;

use super::backends::ROWS;
use super::command::Options;
use super::server::Server;
use super::{cpu, http};
use crate::Failure;
use crate::serve::body;
use crate::variant::{Group, Variant};

/// Answers that are asked for in turn.
const KEYS: u64 = 100;

/// More than a handler that reads from Postgres answers on one core in a second: no key is asked for twice.
const MISSES_A_SECOND: f64 = 50_000.0;

/// Before each measurement, for connections, threads and branch predictors.
const WARM_UP_SECONDS: f64 = 0.5;

#[derive(Debug)]
pub(super) struct Load {
    generator: PathBuf,
    connections: String,
    seconds: f64,
    /// The lists of paths.
    scratch: Scratch,
}

/// What one measurement found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Time of the processor that a request took in the server's processes, in microseconds.
    pub(super) cpu_us: Option<f64>,
}

/// The part that is read of what `tidegate bench http` says.
#[derive(Debug, Deserialize)]
struct Said {
    answers: u64,
    responses_per_second: f64,
    latency_ms: Latency,
    statuses: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Latency {
    p50: f64,
    p99: f64,
}

impl Load {
    pub(super) fn new(options: &Options) -> Result<Self, Failure> {
        let scratch = Scratch::new()?;
        let kept: String = (0..KEYS).map(|id| format!("/items/{id}\n")).collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let misses = (options.seconds() * MISSES_A_SECOND) as u64;
        let missed: String = (0..misses).map(|n| format!("/items/{}?n={n}\n", n % ROWS)).collect();
        std::fs::write(scratch.path().join("kept"), kept)?;
        std::fs::write(scratch.path().join("missed"), missed)?;
        Ok(Self {
            generator: options.generator()?,
            connections: options.connections().to_string(),
            seconds: options.seconds(),
            scratch,
        })
    }

    pub(super) async fn measure(
        &self,
        variant: Variant,
        server: &Server,
    ) -> Result<Sample, Failure> {
        let misses = variant.group() == Group::Miss;
        for id in 0..KEYS {
            look(server.address(), &format!("/items/{id}")).await?;
        }
        let keys = if misses { "missed" } else { "kept" };
        // From the end of the list, which the measurement does not come to.
        let warm = if misses { "kept" } else { keys };
        self.ask(server.address(), warm, WARM_UP_SECONDS).await?;
        let (runs, used) = (runs(server.origin()).await?, cpu::used(&server.processes()?));
        let said = self.ask(server.address(), keys, self.seconds).await?;
        let took = cpu::used(&server.processes()?).zip(used);
        let made = self::runs(server.origin()).await? - runs;
        proven(variant, &said, made)?;
        Ok(Sample {
            per_second: said.responses_per_second,
            p50_ms: said.latency_ms.p50,
            p99_ms: said.latency_ms.p99,
            cpu_us: took.map(|(after, before)| each(after.saturating_sub(before), said.answers)),
        })
    }

    async fn ask(&self, server: SocketAddr, keys: &str, seconds: f64) -> Result<Said, Failure> {
        let paths = self.scratch.path().join(keys);
        let mut command = Command::new(&self.generator);
        command.args(["bench", "http", "--json", "--connections", &self.connections]);
        command.arg("--duration").arg(seconds.to_string()).arg("--paths").arg(paths);
        let output = command.arg(format!("http://{server}/")).kill_on_drop(true).output().await?;
        if !output.status.success() {
            let [said, failed] =
                [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
            return Err(format!("the load failed: {failed}{said}").into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// Asks twice: the first may be made, and both are right.
async fn look(server: SocketAddr, path: &str) -> Result<(), Failure> {
    for _ in 0..2 {
        let answer = http::get(server, path).await?;
        if !answer.head.starts_with("http/1.1 200") || answer.body != body() {
            return Err(format!("{path} is answered wrongly: {}", answer.head).into());
        }
        if !answer.head.contains("\r\ncontent-type: application/json") {
            return Err(format!("{path} has lost its type: {}", answer.head).into());
        }
    }
    Ok(())
}

async fn runs(origin: SocketAddr) -> Result<u64, Failure> {
    Ok(http::get(origin, "/runs").await?.body.parse()?)
}

/// By the handler's own count, and the statuses.
fn proven(variant: Variant, said: &Said, made: u64) -> Result<(), Failure> {
    if said.statuses.keys().ne(["200"]) {
        return Err(format!("not all was answered with 200: {:?}", said.statuses).into());
    }
    let answers = said.answers;
    match (variant.keeps(), made) {
        (true, 0) => Ok(()),
        (true, made) => Err(format!("{made} of {answers} answers were made, not kept").into()),
        (false, made) if made >= answers => Ok(()),
        (false, made) => Err(format!("only {made} of {answers} answers were made").into()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
fn each(took: std::time::Duration, answers: u64) -> f64 {
    took.as_secs_f64() * 1e6 / answers.max(1) as f64
}
