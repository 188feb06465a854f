//! Progress of what takes more than a few seconds, on a terminal; nothing where the output goes elsewhere.

use std::borrow::Cow;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;

/// A line on standard error, removed when dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Work whose end is not known: shows how long it has run.
    pub(crate) fn running(what: impl Into<Cow<'static, str>>) -> Result<Self, Failure> {
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}")?);
        Ok(Self::start(bar, what.into()))
    }

    /// Work of so many steps.
    pub(crate) fn of(what: impl Into<Cow<'static, str>>, steps: u64) -> Result<Self, Failure> {
        let bar = ProgressBar::new(steps);
        let template = "{spinner} {elapsed_precise} {msg} [{bar:30}] {human_pos} of {human_len}";
        bar.set_style(ProgressStyle::with_template(template)?.progress_chars("=> "));
        Ok(Self::start(bar, what.into()))
    }

    /// So many steps are done.
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
