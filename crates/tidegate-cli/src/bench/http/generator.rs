//! The threads that send requests.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet, spawn_blocking};
use tokio::time::sleep;

use super::connection::{Connection, Thread};
use super::pace::{Bounds, Pace};
use super::tally::Tally;
use super::target::Target;
use crate::Failure;

/// Which requests to send, for how long and how fast.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) target: Arc<Target>,
    pub(super) bounds: Bounds,
    pub(super) threads: u64,
}

/// Errors are text, since `Failure` can't be sent between threads.
type Counted = Result<Tally, String>;

pub(super) async fn run(load: &Load, streams: Vec<TcpStream>) -> Result<Tally, Failure> {
    let mut shares: Vec<Vec<std::net::TcpStream>> = (0..load.threads).map(|_| Vec::new()).collect();
    let threads = shares.len();
    for (at, stream) in streams.into_iter().enumerate() {
        shares[at % threads].push(stream.into_std()?);
    }
    let shares = (0..).zip(shares);
    let threads: Vec<_> =
        shares.map(|(place, share)| start(load, place, share)).collect::<Result<_, _>>()?;
    let mut all = Tally::new()?;
    for thread in threads {
        let joined = spawn_blocking(|| thread.join()).await?;
        all.add(&joined.map_err(|_| "a thread that sends requests has panicked")??)?;
    }
    Ok(all)
}

fn start(
    load: &Load,
    place: u64,
    streams: Vec<std::net::TcpStream>,
) -> std::io::Result<JoinHandle<Counted>> {
    let bounds = load.bounds.share(place, load.threads);
    let target = Arc::clone(&load.target);
    let place = (place, load.threads);
    let thread = std::thread::Builder::new().name(format!("asks-{}", place.0));
    thread.spawn(move || {
        let counted = || -> Result<Tally, Failure> {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, ask(&target, &bounds, place, streams))
        };
        counted().map_err(|error| error.to_string())
    })
}

async fn ask(
    target: &Arc<Target>,
    bounds: &Bounds,
    place: (u64, u64),
    streams: Vec<std::net::TcpStream>,
) -> Result<Tally, Failure> {
    let mut connections = Vec::new();
    for stream in streams {
        connections.push(Connection::new(TcpStream::from_std(stream)?)?);
    }
    let tally = RefCell::new(Tally::new()?);
    let thread = Rc::new(Thread { pace: Pace::new(bounds), tally, place });
    let mut asking = JoinSet::new();
    for connection in connections {
        let (target, thread) = (Arc::clone(target), Rc::clone(&thread));
        asking.spawn_local(async move { connection.ask(&target, thread).await });
    }
    let all = async { while asking.join_next().await.is_some() {} };
    let turns = async { tokio::join!(all, thread.pace.keep()) };
    tokio::select! {
        _ = turns => {}
        () = silence(&thread, bounds.patience) => {}
    }
    let mut tally = thread.tally.replace(Tally::new()?);
    tally.give_up();
    tally.missed = thread.pace.missed();
    Ok(tally)
}

/// Returns when requests have been waiting for `patience` and none of them has ended.
async fn silence(thread: &Thread, patience: Duration) {
    loop {
        let (ended, waited) = progress(thread);
        sleep(patience).await;
        if waited && progress(thread).0 == ended {
            return;
        }
    }
}

/// The number of requests that have ended, and whether others are still waiting.
fn progress(thread: &Thread) -> (u64, bool) {
    let tally = thread.tally.borrow();
    (tally.ended(), tally.sent > tally.ended())
}
