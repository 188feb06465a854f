//! One connection, which sends a request at each of its turns.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::pace::{Pace, Turn};
use super::response::{Head, Reading};
use super::tally::{Failed, Tally};
use super::target::{self, Target};

const BUFFER: usize = 32 << 10;

/// More than any head takes.
const LONGEST_HEAD: usize = 1 << 20;

/// The pause before the next attempt to connect.
const AGAIN: Duration = Duration::from_millis(50);

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) pace: Pace,
    pub(super) tally: RefCell<Tally>,
    /// This thread's index and the number of threads `n`: each thread sends every `n`th request.
    pub(super) place: (u64, u64),
}

impl Thread {
    fn count(&self, turn: Turn, result: Result<(Head, u64), Failed>) {
        let mut tally = self.tally.borrow_mut();
        match result {
            Ok((head, bytes)) => {
                let now = Instant::now();
                tally.completed(head, bytes, now - turn.due);
                tally.took = now - self.pace.began;
            }
            Err(failed) => tally.failed(failed),
        }
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    /// Whether it has received a response before.
    is_used: bool,
    buffer: Vec<u8>,
    /// The number of bytes in the buffer that are not parsed yet.
    waiting: usize,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> std::io::Result<Self> {
        Ok(Self {
            address: stream.peer_addr()?,
            stream: Some(stream),
            is_used: false,
            buffer: vec![0; BUFFER],
            waiting: 0,
        })
    }

    /// Sends requests until there are no more turns.
    pub(super) async fn ask(mut self, target: &Target, thread: Rc<Thread>) {
        let requests = target.requests.len() as u64;
        let (place, threads) = thread.place;
        while let Some(turn) = thread.pace.next().await {
            thread.tally.borrow_mut().sent += 1;
            let number = (turn.number * threads + place) % requests;
            let request = &target.requests[usize::try_from(number).unwrap_or_default()];
            let result = self.exchange(request, &thread).await;
            thread.count(turn, result);
            if let Err(failed) = result {
                self.recover(failed).await;
            }
        }
    }

    async fn recover(&mut self, failed: Failed) {
        self.stream = None;
        if failed == Failed::Connecting {
            sleep(AGAIN).await;
        }
    }

    /// Sends a request, and sends it once more if the server closed the idle connection at that moment (RFC 9112, section
    /// 9.3.1).
    async fn exchange(&mut self, request: &[u8], thread: &Thread) -> Result<(Head, u64), Failed> {
        let may_be_stale = self.stream.is_some() && self.is_used;
        match self.attempt(request).await {
            Err(Failed::ClosedBefore) if may_be_stale => {
                self.stream = None;
                thread.tally.borrow_mut().reopened += 1;
                self.attempt(request).await
            }
            result => result,
        }
    }

    async fn attempt(&mut self, request: &[u8]) -> Result<(Head, u64), Failed> {
        if self.stream.is_none() {
            let opened = target::open(self.address).await.map_err(|_| Failed::Connecting)?;
            self.stream = Some(opened);
            (self.is_used, self.waiting) = (false, 0);
        }
        let stream = self.stream.as_mut().ok_or(Failed::Connecting)?;
        // Ignore errors: the server may have responded before it closed the connection, which `read` will show.
        let _ = stream.write_all(request).await;
        let (head, bytes) = self.read().await?;
        self.is_used = true;
        if !head.is_persistent || self.waiting > 0 {
            self.stream = None;
        }
        Ok((head, bytes))
    }

    async fn read(&mut self) -> Result<(Head, u64), Failed> {
        let mut reading = Reading::default();
        let mut bytes = 0;
        loop {
            let more = self.receive().await;
            if more == 0 {
                let head = reading.closed().ok_or_else(|| self.cut(&reading))?;
                return Ok((head, bytes));
            }
            bytes += more as u64;
            self.waiting += more;
            let done = reading.read(&self.buffer[..self.waiting]).map_err(|_| Failed::NotHttp)?;
            self.buffer.copy_within(done..self.waiting, 0);
            self.waiting -= done;
            if let Some(head) = reading.finished() {
                return Ok((head, bytes));
            }
        }
    }

    /// Returns the number of bytes received; 0 if the connection is closed or broken, or the buffer is full.
    async fn receive(&mut self) -> usize {
        if self.waiting == self.buffer.len() && self.waiting < LONGEST_HEAD {
            self.buffer.resize(2 * self.waiting, 0);
        }
        let room = &mut self.buffer[self.waiting..];
        match &mut self.stream {
            Some(stream) => stream.read(room).await.unwrap_or(0),
            None => 0,
        }
    }

    fn cut(&self, reading: &Reading) -> Failed {
        match self.waiting {
            LONGEST_HEAD.. => Failed::NotHttp,
            waiting if reading.has_begun(waiting) => Failed::ClosedMidway,
            _ => Failed::ClosedBefore,
        }
    }
}
