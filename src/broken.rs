//! Guards that can be taken out, to see that the checker notices.
//!
//! Only a build with `--cfg tidegate_mutants` has this; there `TIDEGATE_MUTANT=fence` takes the guard `fence` out of a
//! process. `scripts/mutants` tries each.

/// Whether a guard is taken out of this process.
#[cfg(tidegate_mutants)]
pub(crate) fn is_broken(guard: &str) -> bool {
    static MUTANT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    MUTANT.get_or_init(|| std::env::var("TIDEGATE_MUTANT").ok()).as_deref() == Some(guard)
}

/// Every guard is in place.
#[cfg(not(tidegate_mutants))]
pub(crate) const fn is_broken(_guard: &str) -> bool {
    false
}
