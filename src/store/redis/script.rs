//! Scripts that the server runs as one step (Redis manual, "Scripting with Lua").

use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::{Cmd, ErrorKind, RedisError, Script, ServerErrorKind, Value, cmd};

use super::link::RedisLink;
use crate::clock::{Instant, now};
use crate::store::StoreError;
use crate::sync::MutexExt;

/// A script. It is sent by its hash; a server that does not know it yet gets the whole.
pub(super) struct RedisScript {
    code: String,
    script: Script,
}

impl RedisScript {
    pub(super) fn new(code: String) -> Self {
        Self { script: Script::new(&code), code }
    }

    /// Runs the script; `arguments` adds the number of keys, the keys and the other arguments.
    pub(super) async fn run(
        &self,
        link: &Arc<RedisLink>,
        arguments: impl Fn(&mut Cmd),
    ) -> Result<Value, StoreError> {
        let command = |name: &str, script: &str| {
            let mut command = cmd(name);
            command.arg(script);
            arguments(&mut command);
            command
        };
        let reply = link.run(&command("EVALSHA", self.script.get_hash()), 1).await;
        match &reply {
            Err(error) if error_kind(error) == Some(ServerErrorKind::NoScript) => {
                link.run(&command("EVAL", &self.code), 1).await
            }
            _ => reply,
        }
    }
}

/// Whether the server runs scripts, as far as is known.
#[derive(Default)]
pub(super) struct ScriptSupport(Mutex<Option<Instant>>);

/// How long no script is sent after one was rejected: rights may change, and a proxy may have rejected it for another reason.
const REJECTED_FOR: Duration = Duration::from_mins(1);

impl ScriptSupport {
    pub(super) fn are_accepted(&self) -> bool {
        self.0.lock_unpoisoned().is_none_or(|at| at.elapsed() >= REJECTED_FOR)
    }

    /// Records that the server has rejected a script.
    pub(super) fn refuse(&self) {
        *self.0.lock_unpoisoned() = Some(now());
    }
}

/// The kind of error that the server replied with.
pub(super) fn error_kind(error: &StoreError) -> Option<ServerErrorKind> {
    let StoreError::Backend(error) = error else { return None };
    match error.downcast_ref::<RedisError>()?.kind() {
        ErrorKind::Server(kind) => Some(kind),
        _ => None,
    }
}
