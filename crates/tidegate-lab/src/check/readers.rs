//! Clients that read, and check what they get.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use fastrand::Rng;
use tokio::time::Instant;

use super::client::{Answer, Client};
use super::cluster::Cluster;
use super::history::{Demand, Fate};
use super::judge::judge;
use super::node::{AGE, EPOCH};
use super::question::{PAGES, Part, Piece, Question};
use super::{GROUPS, ROWS, Run};

/// Requests of a thousand that write; as many leave their session.
const WRITES: u16 = 8;

/// A client that has written.
struct Session {
    token: String,
    own: (usize, u64),
}

/// One reader: of one node, so that a node that is stopped stops no reader of another.
pub(crate) struct Reader {
    run: Arc<Run>,
    cluster: Arc<Cluster>,
    client: Client,
    node: usize,
    session: Option<Session>,
    rng: Rng,
}

impl Reader {
    pub(crate) fn new(run: Arc<Run>, cluster: Arc<Cluster>, node: usize, rng: Rng) -> Self {
        Self { run, cluster, client: Client::new(), node, session: None, rng }
    }

    /// Reads until the run is over.
    pub(crate) async fn read(mut self) {
        while !self.run.is_over() {
            let chance = self.rng.u16(..1000);
            if chance < WRITES {
                self.session = self.write().await;
            } else if chance < 2 * WRITES {
                self.session = None;
            }
            let question = self.question();
            self.ask(question).await;
        }
    }

    fn question(&mut self) -> Question {
        let rng = &mut self.rng;
        let own = self.session.as_ref().map(|session| session.own.0).filter(|_| rng.bool());
        let row = own.unwrap_or_else(|| skewed(rng));
        match rng.u8(..20) {
            0..6 => Question::Row(row),
            6..9 => Question::Group(rng.u32(..GROUPS)),
            9 => Question::All,
            10..13 => Question::Page(rng.usize(..PAGES)),
            13 => Question::Value(Piece::Query(rng.u32(..GROUPS))),
            14 => Question::Value(Piece::One(row)),
            15 => Question::Value(Piece::Many(row)),
            16 => Question::Value(Piece::Nested(row)),
            17 => Question::Value(Piece::Read(row)),
            18 => Question::Schema,
            _ => Question::SchemaValues,
        }
    }

    /// Writes through any node; returns the session that has done so.
    async fn write(&mut self) -> Option<Session> {
        let cluster = self.cluster.clone();
        let _open = cluster.gate.read().await;
        let (row, group) = (self.rng.usize(..ROWS), self.rng.u32(..GROUPS));
        let node = cluster.node(self.rng.usize(..cluster.nodes()))?;
        let version = self.run.history.next_version();
        self.run.history.begin(row, version, group);
        let url = format!("http://{node}{}", Question::Row(row).path());
        let asked = Instant::now();
        let answer = self.client.send(Method::PUT, url, format!("{version} {group}"), None);
        let answer = answer.await?;
        if answer.status != StatusCode::OK {
            return None;
        }
        self.run.history.end(row, version, Fate::Committed(Instant::now()));
        self.run.report.write("through a node");
        let session =
            Session { token: answer.header("tidegate-position")?.to_owned(), own: (row, version) };
        self.run.reads.fetch_add(1, Ordering::Relaxed);
        let parts = [Part::Row(row), Part::Group(group)];
        self.check(None, &parts, Some(session.own), asked, &answer);
        Some(session)
    }

    async fn ask(&self, question: Question) {
        let Some(node) = self.cluster.node(self.node) else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            return;
        };
        let asked = Instant::now();
        let token = self.session.as_ref().map(|session| session.token.as_str());
        let url = format!("http://{node}{}", question.path());
        let Some(answer) = self.client.send(Method::GET, url, String::new(), token).await else {
            let expected =
                if self.cluster.is_up(&node) { "no answer" } else { "its node was killed" };
            self.run.report.failed(expected.into());
            return;
        };
        if answer.status != StatusCode::OK {
            let body = answer.body.lines().next().unwrap_or_default();
            self.run.report.failed(format!("{}: {body}", answer.status));
            return;
        }
        self.run.reads.fetch_add(1, Ordering::Relaxed);
        self.run.report.kind(question.kind());
        let own = self.session.as_ref().map(|session| session.own);
        self.check(Some(question), &question.parts(), own, asked, &answer);
    }

    fn check(
        &self,
        question: Option<Question>,
        parts: &[Part],
        own: Option<(usize, u64)>,
        asked: Instant,
        answer: &Answer,
    ) {
        let status = answer.header("cache-status").unwrap_or_default();
        let is_plain = matches!(question, Some(Question::Value(Piece::Read(_))));
        self.run.report.answer(status);
        let age = answer.header(AGE).and_then(|age| age.parse().ok()).map(Duration::from_micros);
        // Where nothing else is up, a replica that may be behind is better than an error.
        let bounded = !status.contains("replica-behind");
        let since = age.filter(|_| bounded).and_then(|age| asked.checked_sub(age));
        if since.is_none() {
            self.run.report.unbounded();
        }
        let knows_failover = bounded && answer.header(EPOCH) == Some(&self.cluster.epoch());
        let mut demand = Demand { since, own: own.filter(|_| bounded), knows_failover };
        if is_plain {
            demand = demand.of_a_plain_read();
        }
        match judge(&self.run, parts, &answer.body, &demand) {
            Ok(None) => {}
            Ok(Some(since)) => self.run.report.stale(asked.saturating_duration_since(since)),
            Err(wrong) => self.run.report.violation(format!(
                "{question:?}: {wrong:?}; asked {asked:?}, {demand:?}, {status}, {:?}\n{}{}",
                answer.headers,
                answer.body,
                self.run.history.excerpt(wrong.row().or(own.map(|own| own.0)).unwrap_or(0)),
            )),
        }
    }
}

/// Some rows are read much more than others.
fn skewed(rng: &mut Rng) -> usize {
    rng.usize(..ROWS).min(rng.usize(..ROWS))
}
