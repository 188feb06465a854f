//! What the library logs.

use std::fmt::{Debug, Write};
use std::sync::{Mutex, Once};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

static KEPT: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

/// Keeps the warnings and notes (at info) of this process from now on. Tests that run in one process share them.
pub(crate) fn keep_warnings() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Keeper).unwrap());
}

/// How many of the warnings contain all of these texts. A field appears as `name=value`.
pub(crate) fn warnings(texts: &[&str]) -> usize {
    count(|level| level <= Level::WARN, texts)
}

/// How many of the events at info contain all of these texts.
pub(crate) fn notes(texts: &[&str]) -> usize {
    count(|level| level == Level::INFO, texts)
}

fn count(is_of: impl Fn(Level) -> bool, texts: &[&str]) -> usize {
    let kept = KEPT.lock().unwrap();
    let of_level = kept.iter().filter(|(level, _)| is_of(*level));
    of_level.filter(|(_, line)| texts.iter().all(|text| line.contains(text))).count()
}

/// All of these events, for the message of an assertion.
pub(crate) fn all_warnings() -> String {
    let kept = KEPT.lock().unwrap();
    kept.iter().map(|(level, line)| format!("{level} {line}\n")).collect()
}

struct Keeper;

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("tidegate")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        KEPT.lock().unwrap().push((*event.metadata().level(), line.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        write!(self.0, "{}={value} ", field.name()).unwrap();
    }
}
