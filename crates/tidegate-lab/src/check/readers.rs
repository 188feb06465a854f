//! Clients that read, and check the responses.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use fastrand::Rng;
use tokio::time::Instant;

use super::batch::Ask;
use super::client::{Answer, Client};
use super::cluster::Cluster;
use super::history::{Demand, Fate};
use super::judge::judge;
use super::node::{AGE, ASKED, EPOCH};
use super::question::{PAGES, Part, Piece, Question};
use super::{GROUPS, ROWS, Run};

/// Out of 1,000 requests, the number that write. As many leave their session.
const WRITES: u16 = 8;
/// One in this many readers of a node sends its requests one at a time.
const ALONE: usize = 4;

/// A client that has written.
struct Session {
    token: String,
    own: (usize, u64),
}

/// A request that is about to be sent.
struct Wanted {
    question: Question,
    /// The last write of the session in which it is sent.
    own: Option<(usize, u64)>,
    ask: Ask,
}

/// One reader. It reads from one node, so that a stopped node does not stop the readers of others.
pub(crate) struct Reader {
    run: Arc<Run>,
    cluster: Arc<Cluster>,
    client: Client,
    node: usize,
    /// The number of requests that it sends as one batch.
    at_once: usize,
    session: Option<Session>,
    rng: Rng,
}

impl Reader {
    /// Creates a reader that sends `batch` requests at once. Every [`ALONE`]th reader of a node sends one at a time, as
    /// real clients do.
    pub(crate) fn new(
        run: Arc<Run>,
        cluster: Arc<Cluster>,
        number: usize,
        batch: usize,
        rng: Rng,
    ) -> Self {
        let node = number % cluster.nodes();
        let at_once = if (number / cluster.nodes()).is_multiple_of(ALONE) { 1 } else { batch };
        Self { run, cluster, client: Client::new(), node, at_once, session: None, rng }
    }

    /// Reads until the run is over.
    pub(crate) async fn read(mut self) {
        while !self.run.is_over() {
            let mut wanted = Vec::with_capacity(self.at_once);
            let mut writes = false;
            while wanted.len() < self.at_once && !writes {
                match self.rng.u16(..1000) {
                    ..WRITES => writes = true,
                    chance => {
                        if chance < 2 * WRITES {
                            self.session = None;
                        }
                        wanted.push(self.want());
                    }
                }
            }
            self.ask(&wanted).await;
            if writes {
                self.session = self.write().await;
            }
        }
    }

    fn want(&mut self) -> Wanted {
        let question = self.question();
        let token = self.session.as_ref().map(|session| session.token.clone());
        Wanted {
            question,
            own: self.session.as_ref().map(|session| session.own),
            ask: Ask { path: question.path(), token: token.unwrap_or_default() },
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

    /// Writes through any node; returns the session of the write.
    async fn write(&mut self) -> Option<Session> {
        let cluster = self.cluster.clone();
        let _open = cluster.gate.read().await;
        let (row, group) = (self.rng.usize(..ROWS), self.rng.u32(..GROUPS));
        let node = cluster.node(self.rng.usize(..cluster.nodes()))?;
        let version = self.run.history.next_version();
        self.run.history.begin(row, version, group);
        let url = format!("http://{node}{}", Question::Row(row).path());
        let sent = Instant::now();
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
        self.check(None, &parts, Some(session.own), sent, &answer);
        Some(session)
    }

    async fn ask(&self, wanted: &[Wanted]) {
        if wanted.is_empty() {
            return;
        }
        let Some(node) = self.cluster.node(self.node) else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            return;
        };
        let sent = Instant::now();
        let answers = match wanted {
            [one] if self.at_once == 1 => self.send(&node, &one.ask).await,
            _ => self.send_batch(&node, wanted).await,
        };
        let Some(answers) = answers else {
            let expected =
                if self.cluster.is_up(&node) { "no answer" } else { "its node was killed" };
            self.run.report.failed(expected, wanted.len());
            return;
        };
        for (wanted, answer) in wanted.iter().zip(&answers) {
            self.receive(wanted, sent, answer);
        }
    }

    async fn send(&self, node: &str, ask: &Ask) -> Option<Vec<Answer>> {
        let url = format!("http://{node}{}", ask.path);
        let token = Some(&*ask.token).filter(|token| !token.is_empty());
        Some(vec![self.client.send(Method::GET, url, String::new(), token).await?])
    }

    async fn send_batch(&self, node: &str, wanted: &[Wanted]) -> Option<Vec<Answer>> {
        let asks = wanted.iter().map(|wanted| &wanted.ask);
        let answers = self.client.send_batch(node, asks).await?;
        match answers {
            Ok(answers) => {
                self.run.report.batch(answers.len());
                Some(answers)
            }
            Err(wrong) => {
                self.run.report.violation(wrong.into());
                Some(Vec::new())
            }
        }
    }

    fn receive(&self, wanted: &Wanted, sent: Instant, answer: &Answer) {
        if answer.status != StatusCode::OK {
            let body = answer.body.lines().next().unwrap_or_default();
            self.run.report.failed(&format!("{}: {body}", answer.status), 1);
            return;
        }
        self.run.reads.fetch_add(1, Ordering::Relaxed);
        self.run.report.kind(wanted.question.kind());
        let parts = wanted.question.parts();
        self.check(Some(wanted.question), &parts, wanted.own, sent, answer);
    }

    fn check(
        &self,
        question: Option<Question>,
        parts: &[Part],
        own: Option<(usize, u64)>,
        sent: Instant,
        answer: &Answer,
    ) {
        let asked = self.asked(sent, answer);
        let status = answer.header("cache-status").unwrap_or_default();
        let is_plain = matches!(question, Some(Question::Value(Piece::Read(_))));
        self.run.report.answer(status);
        let age = answer.header(AGE).and_then(|age| age.parse().ok()).map(Duration::from_nanos);
        // If no other server is up, a replica that may be behind is better than an error.
        let bounded = !status.contains("replica-behind");
        let since = age.filter(|_| bounded).and_then(|age| asked.checked_sub(age));
        if since.is_none() {
            self.run.report.unbounded();
        }
        // Kept until the response is judged: a failover that happens meanwhile counts after it.
        let epoch = self.run.history.epoch();
        let knows_failover = bounded && answer.header(EPOCH) == Some(epoch.as_str());
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

    /// When the request arrived at the node, by the clock that it shares with the checker; never before it was sent.
    fn asked(&self, sent: Instant, answer: &Answer) -> Instant {
        let asked = answer.header(ASKED).and_then(|asked| asked.parse().ok());
        asked.map_or(sent, |asked| self.run.clock.instant(asked).max(sent))
    }
}

/// Some rows are read much more than others.
fn skewed(rng: &mut Rng) -> usize {
    rng.usize(..ROWS).min(rng.usize(..ROWS))
}
