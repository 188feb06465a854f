//! The number of open connections that a node can hold, and the memory of each.

use std::fmt::{Display, Formatter};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use serde::Serialize;
use tidegate::{Cache, CacheLayer, Memory, Policy};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::resident::resident;
use crate::Failure;
use crate::output::Output;

/// Connections that are opened concurrently: fewer than a listening socket's backlog.
const AT_A_TIME: usize = 256;

/// Files that a process needs beside its connections.
const OTHER_FILES: u64 = 64;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: node\r\n\r\n";

/// The number of connections and requests.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of connections, all open at once; fewer if the limit on open files requires it
    #[arg(long, default_value_t = 20_000)]
    count: usize,
    /// Number of requests over each connection
    #[arg(long, default_value_t = 3)]
    requests: u32,
    /// Run as the node that is measured
    #[arg(long, hide = true)]
    serve: bool,
}

#[derive(Debug, Serialize)]
struct Found {
    bench: &'static str,
    asked_for: usize,
    /// Open at once.
    held: usize,
    /// Requests over them that were served from the cache.
    hits: u64,
    requests: u64,
    /// The node's memory per connection in bytes, if the system reports it.
    bytes_each: Option<u64>,
}

pub(crate) async fn run(options: Options, output: Output) -> Result<ExitCode, Failure> {
    if options.serve {
        return serve().await.map(|()| ExitCode::SUCCESS);
    }
    let count = options.count.min(usize::try_from(files()?.saturating_sub(OTHER_FILES))?);
    let (node, address) = start().await?;
    let before = resident(node.id());
    let mut held = open(&address, count).await?;
    let mut hits = 0;
    for _ in 0..options.requests {
        hits += ask(&mut held).await?;
    }
    let after = resident(node.id());
    let found = Found {
        bench: "connections",
        asked_for: options.count,
        held: held.len(),
        hits,
        requests: held.len() as u64 * u64::from(options.requests),
        bytes_each: before
            .zip(after)
            .map(|(before, after)| after.saturating_sub(before) / count.max(1) as u64),
    };
    output.print(&found)?;
    // The first request of all runs the handler.
    let is_whole = found.requests <= found.hits + 1;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(crate::UNSOUND) })
}

/// Raises this process's limit on open files as far as possible, and returns it.
fn files() -> Result<u64, Failure> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}

async fn serve() -> Result<(), Failure> {
    files()?;
    let cache = Cache::new(Memory::new(1 << 20));
    let policy = Policy::ttl(Duration::from_secs(3600)).untracked();
    let layer = CacheLayer::with_policy(cache, policy);
    let app = Router::new().route("/", get(async || "an answer")).layer(layer);
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", socket.local_addr()?);
    Ok(axum::serve(socket, app).await?)
}

/// Starts this program as a node.
async fn start() -> Result<(Child, String), Failure> {
    let mut node = Command::new(std::env::current_exe()?)
        .args(["bench", "connections", "--serve"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = node.stdout.take().ok_or("the node has no output")?;
    let line = BufReader::new(output).lines().next_line().await?;
    Ok((node, line.ok_or("the node ended before it served")?))
}

async fn open(address: &str, count: usize) -> Result<Vec<TcpStream>, Failure> {
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let more = AT_A_TIME.min(count - held.len());
        let opened = (0..more).map(|_| TcpStream::connect(address));
        held.extend(futures_util::future::try_join_all(opened).await?);
    }
    Ok(held)
}

/// Sends a request over each connection; returns the number of hits.
async fn ask(held: &mut Vec<TcpStream>) -> Result<u64, Failure> {
    let mut hits = 0;
    let mut answered = JoinSet::new();
    let mut all = std::mem::take(held).into_iter();
    loop {
        while answered.len() < AT_A_TIME {
            let Some(stream) = all.next() else { break };
            answered.spawn(exchange(stream));
        }
        let Some(done) = answered.join_next().await else { return Ok(hits) };
        let (stream, is_hit) = done??;
        hits += u64::from(is_hit);
        held.push(stream);
    }
}

async fn exchange(mut stream: TcpStream) -> std::io::Result<(TcpStream, bool)> {
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::with_capacity(512);
    while !answer.ends_with(b"an answer") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let is_hit = text.contains("tidegate; hit") || text.contains("; collapsed");
    Ok((stream, is_hit))
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { asked_for, held, hits, requests, bytes_each, .. } = self;
        writeln!(f, "{held} connections held open at once, of {asked_for} requested")?;
        write!(f, "{hits} of {requests} requests over them were served from the cache")?;
        match bytes_each {
            Some(bytes) => write!(f, "\n{bytes} bytes of the node's memory per connection"),
            None => Ok(()),
        }
    }
}
