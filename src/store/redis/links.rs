//! The connections for small values, used in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use deadpool_redis::redis::{Cmd, Value};

use super::link::RedisLink;
use crate::store::StoreError;

/// The connections for commands with small values. At least one.
pub(super) struct RedisLinks {
    all: Box<[Arc<RedisLink>]>,
    turn: AtomicUsize,
}

impl RedisLinks {
    pub(super) fn new(all: Box<[Arc<RedisLink>]>) -> Self {
        Self { all, turn: AtomicUsize::new(0) }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether there is a connection to the server, as far as is known.
    pub(super) fn is_connected(&self) -> bool {
        self.all.iter().any(|link| link.is_connected())
    }

    /// A working connection if there is one, otherwise a broken one: the next in turn, skipping those that are down.
    pub(super) fn next(&self) -> &Arc<RedisLink> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.all.len();
        let (before, from) = self.all.split_at(turn);
        let connected = from.iter().chain(before).find(|link| link.is_connected());
        connected.unwrap_or(&self.all[turn])
    }

    pub(super) async fn run(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.run_for(command, 1).await
    }

    /// Runs a command that counts as `count` commands when the connection's health is judged.
    pub(super) async fn run_for(&self, command: &Cmd, count: u32) -> Result<Value, StoreError> {
        self.next().run(command, count).await
    }
}
