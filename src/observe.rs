//! What is worth a histogram is told here as it happens; without the feature `metrics`, to nobody.

use std::time::Duration;

/// A call of the shared store has ended, well or not.
pub(crate) fn store_call(operation: &'static str, took: Duration) {
    #[cfg(feature = "metrics")]
    metrics::histogram!(crate::telemetry::STORE_CALL, "operation" => operation).record(took);
    let _ = (operation, took);
}

/// A request has waited for the answer that another one was making.
pub(crate) fn flight_wait(took: Duration) {
    #[cfg(feature = "metrics")]
    metrics::histogram!(crate::telemetry::FLIGHT_WAIT).record(took);
    let _ = took;
}

/// An answer was made.
pub(crate) fn load(took: Duration) {
    #[cfg(feature = "metrics")]
    metrics::histogram!(crate::telemetry::LOAD).record(took);
    let _ = took;
}
