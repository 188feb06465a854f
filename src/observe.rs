//! Records durations in histograms as they happen; without the feature `metrics`, these functions do nothing.

use std::time::Duration;

#[cfg(feature = "metrics")]
pub(crate) mod names;

/// Records a call of the shared store, successful or not.
pub(crate) fn store_call(operation: &'static str, took: Duration) {
    #[cfg(feature = "metrics")]
    metrics::histogram!(names::STORE_CALL, "operation" => operation).record(took);
    let _ = (operation, took);
}

/// Records how long a request waited for the result of another one.
pub(crate) fn flight_wait(took: Duration) {
    #[cfg(feature = "metrics")]
    metrics::histogram!(names::FLIGHT_WAIT).record(took);
    let _ = took;
}

/// Records how long it took to compute an entry.
pub(crate) fn load(took: Duration) {
    #[cfg(feature = "metrics")]
    metrics::histogram!(names::LOAD).record(took);
    let _ = took;
}
