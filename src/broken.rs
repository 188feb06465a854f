//! Guards that can be taken out of a build, to see that the checker notices.
//!
//! `TIDEGATE_BROKEN=fence cargo build ...` makes a build that breaks its promises; `scripts/broken` does so
//! for each guard. Builds without debug assertions, as for release, take no notice.

const BROKEN: Option<&str> = option_env!("TIDEGATE_BROKEN");

/// Whether a guard is left out of this build.
pub(crate) fn is_broken(guard: &str) -> bool {
    cfg!(debug_assertions) && BROKEN == Some(guard)
}
