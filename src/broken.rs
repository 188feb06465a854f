//! Mutants: guards that can be disabled, to test that the checker notices.
//!
//! Only a build with `--cfg tidegate_mutants` has them; there `TIDEGATE_MUTANT=fence` disables the guard `fence` in a
//! process. `scripts/mutants` tries each one.

/// Whether a guard is disabled in this process.
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
