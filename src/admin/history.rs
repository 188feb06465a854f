//! A quarter of an hour of traffic, which the node samples for the page's charts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use tokio::time::sleep;

use super::samples::{EVERY, HistoryReport, Totals};
use super::state::Admin;
use crate::cache::spawn;

/// The intervals so far.
pub(crate) async fn show(State(admin): State<Arc<Admin>>) -> Json<HistoryReport> {
    // The router may have been built without a runtime.
    sample(&admin);
    Json(admin.history.report())
}

/// Begins to sample, unless that has begun. It ends with the page's router.
pub(super) fn sample(admin: &Arc<Admin>) {
    let has_runtime = tokio::runtime::Handle::try_current().is_ok();
    if !has_runtime || admin.is_sampling.swap(true, Ordering::Relaxed) {
        return;
    }
    let admin = Arc::downgrade(admin);
    spawn(async move {
        while let Some(admin) = admin.upgrade() {
            admin.history.add(admin.totals());
            drop(admin);
            sleep(EVERY).await;
        }
    });
}

impl Admin {
    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for layer in &self.layers {
            layer.all().for_each(|(_, route)| totals.add(&route.traffic));
            layer.recorder.others().values().for_each(|traffic| totals.add(traffic));
        }
        totals
    }
}
