//! Progress of operations that take more than a few seconds, shown only on a terminal.

use std::borrow::Cow;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;

/// A line on standard error, removed when dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// For work of unknown length: shows the elapsed time.
    pub(crate) fn running(what: impl Into<Cow<'static, str>>) -> Result<Self, Failure> {
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}")?);
        Ok(Self::start(bar, what.into()))
    }

    /// For work with a known number of steps.
    pub(crate) fn new(what: impl Into<Cow<'static, str>>, steps: u64) -> Result<Self, Failure> {
        let bar = ProgressBar::new(steps);
        let template = "{spinner} {elapsed_precise} {msg} [{bar:30}] {human_pos} of {human_len}";
        bar.set_style(ProgressStyle::with_template(template)?.progress_chars("=> "));
        Ok(Self::start(bar, what.into()))
    }

    /// Sets the number of steps that are done.
    pub(crate) fn set(&self, done: u64) {
        self.0.set_position(done);
    }

    fn start(bar: ProgressBar, what: Cow<'static, str>) -> Self {
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
