//! Audits: counts of cached responses that were compared with fresh ones.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::sync::MutexExt;

/// The audit result of one route: its cached responses compared with fresh ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditReport {
    /// The number of responses that were compared.
    pub compared: u64,
    /// How many of them differed from the handler's response although none of their known dependencies had changed.
    pub divergent: u64,
}

impl AuditReport {
    /// The upper bound, with 97.5 % confidence, on the share of divergent responses: the upper end of the score interval
    /// (Wilson, 1927). 1 if nothing was compared.
    #[expect(clippy::cast_precision_loss, reason = "a bound needs no more")]
    pub fn bound(&self) -> f64 {
        const Z: f64 = 1.96;
        if self.compared == 0 {
            return 1.0;
        }
        let (n, k) = (self.compared as f64, self.divergent as f64);
        let (share, square) = (k / n, Z * Z);
        let middle = share + square / (2.0 * n);
        let half = Z * (share * (1.0 - share) / n + square / (4.0 * n * n)).sqrt();
        ((middle + half) / (1.0 + square / n)).min(1.0)
    }
}

/// The counts of all routes.
#[derive(Debug, Default)]
pub(crate) struct AuditCounters(Mutex<BTreeMap<String, AuditReport>>);

impl AuditCounters {
    pub(crate) fn note(&self, route: &str, is_divergent: bool) {
        let mut all = self.0.lock_unpoisoned();
        let audited = all.entry(route.to_owned()).or_default();
        audited.compared += 1;
        audited.divergent += u64::from(is_divergent);
    }

    pub(crate) fn all(&self) -> BTreeMap<String, AuditReport> {
        self.0.lock_unpoisoned().clone()
    }
}

#[cfg(all(test, not(tidegate_loom), not(tidegate_shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn the_bound_falls_with_comparisons_and_rises_with_divergences() {
        let bound = |compared, divergent| AuditReport { compared, divergent }.bound();
        assert!((bound(0, 0) - 1.0).abs() < f64::EPSILON);
        // Wilson's interval for 0 of 100 ends at 0.0370, for 1 of 100 at 0.0545.
        assert!((bound(100, 0) - 0.0370).abs() < 0.0001, "{}", bound(100, 0));
        assert!((bound(100, 1) - 0.0545).abs() < 0.0001, "{}", bound(100, 1));
        assert!(bound(1_000_000, 0) < 0.000_004);
        assert!((bound(5, 5) - 1.0).abs() < 0.0001);
    }
}
