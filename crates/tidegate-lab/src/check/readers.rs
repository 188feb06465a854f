//! Clients that read, and check what they get.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use fastrand::Rng;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

use super::client::{Answer, Client};
use super::cluster::Cluster;
use super::history::{Demand, Fate, Wrong};
use super::node::{AGE, EPOCH};
use super::{GROUPS, ROWS, Run};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
enum Question {
    Row(usize),
    Group(u32),
    All,
}

/// A client that has written.
struct Session {
    token: String,
    own: (usize, u64),
}

/// Reads until the run is over.
pub(crate) async fn read(run: Arc<Run>, cluster: Arc<Cluster>, mut rng: Rng) {
    let client = Client::new();
    let mut session = None;
    while !run.is_over() {
        if rng.u8(..100) < 5 {
            session = write(&run, &cluster, &client, &mut rng).await;
        }
        let question = match rng.u8(..10) {
            0..6 => Question::Row(skewed(&mut rng)),
            6..9 => Question::Group(rng.u32(..GROUPS)),
            _ => Question::All,
        };
        ask(&run, &cluster, &client, question, session.as_ref(), &mut rng).await;
    }
}

/// Some rows are read much more than others.
fn skewed(rng: &mut Rng) -> usize {
    rng.usize(..ROWS).min(rng.usize(..ROWS))
}

/// Writes through a node; returns the session that has done so.
async fn write(run: &Run, cluster: &Cluster, client: &Client, rng: &mut Rng) -> Option<Session> {
    let _open = cluster.gate.read().await;
    let (row, group) = (rng.usize(..ROWS), rng.u32(..GROUPS));
    let version = run.history.next_version();
    run.history.begin(row, version, group);
    let url = format!("http://{}/rows/{row}", cluster.node(rng)?);
    let answer = client.send(Method::PUT, url, format!("{version} {group}"), None).await?;
    if answer.status != StatusCode::OK {
        return None;
    }
    run.history.end(row, version, Fate::Committed(Instant::now()));
    run.report.write("through a node");
    let token = answer.header("tidegate-position")?.to_owned();
    Some(Session { token, own: (row, version) })
}

async fn ask(
    run: &Run,
    cluster: &Cluster,
    client: &Client,
    question: Question,
    session: Option<&Session>,
    rng: &mut Rng,
) {
    let Some(node) = cluster.node(rng) else {
        tokio::time::sleep(Duration::from_millis(10)).await;
        return;
    };
    let path = match question {
        Question::Row(row) => format!("rows/{row}"),
        Question::Group(group) => format!("groups/{group}"),
        Question::All => "rows".to_owned(),
    };
    let asked = Instant::now();
    let token = session.map(|session| session.token.as_str());
    let url = format!("http://{node}/{path}");
    let Some(answer) = client.send(Method::GET, url, String::new(), token).await else {
        // Its process may have been killed; that is no failure of the service.
        if cluster.is_up(&node) {
            run.report.failed("no answer".into());
        } else {
            run.report.failed("the node was killed".into());
        }
        return;
    };
    if answer.status != StatusCode::OK {
        let body: String = answer.body.chars().take(60).collect();
        run.report.failed(format!("{}: {body}", answer.status));
        return;
    }
    run.reads.fetch_add(1, Ordering::Relaxed);
    check(run, cluster, question, session, asked, &answer);
}

fn check(
    run: &Run,
    cluster: &Cluster,
    question: Question,
    session: Option<&Session>,
    asked: Instant,
    answer: &Answer,
) {
    let status = answer.header("cache-status").unwrap_or_default();
    run.report.answer(status);
    let age = answer.header(AGE).and_then(|age| age.parse().ok()).map(Duration::from_micros);
    // Where nothing else is up, a replica that may be behind is better than an error.
    let bounded = !status.contains("replica-behind");
    let since = age.filter(|_| bounded).and_then(|age| asked.checked_sub(age));
    if since.is_none() {
        run.report.unbounded();
    }
    let demand = Demand {
        since,
        own: session.filter(|_| bounded).map(|session| session.own),
        knows_failover: answer.header(EPOCH) == Some(&cluster.epoch()),
    };
    if let Err(wrong) = judge(run, question, &answer.body, &demand, asked) {
        run.report.violation(format!(
            "{question:?}: {wrong:?}; asked {asked:?}, {demand:?}, {status}, {:?}",
            answer.headers
        ));
    }
}

/// Compares an answer with the history.
fn judge(
    run: &Run,
    question: Question,
    body: &str,
    demand: &Demand,
    asked: Instant,
) -> Result<(), Wrong> {
    let mut seen = [false; ROWS];
    let mut outdated: Option<Instant> = None;
    for line in body.lines() {
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let (Some(Ok(row)), Some(Ok(version)), Some(Ok(group))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return Err(Wrong::Missing { row: ROWS });
        };
        let row = usize::try_from(row).unwrap_or(ROWS).min(ROWS - 1);
        seen[row] = true;
        let group = u32::try_from(group).unwrap_or(u32::MAX);
        run.history.judge(row, version, group, demand)?;
        let since = run.history.outdated_since(row, version);
        outdated = outdated.into_iter().chain(since).min();
    }
    if let Some(since) = outdated {
        run.report.stale(asked.saturating_duration_since(since));
    }
    for row in (0..ROWS).filter(|row| !seen[*row]) {
        match question {
            Question::Row(asked) if asked == row => return Err(Wrong::Missing { row }),
            Question::Row(_) => {}
            Question::Group(group) => run.history.judge_absent(row, group, demand)?,
            Question::All => return Err(Wrong::Missing { row }),
        }
    }
    Ok(())
}
