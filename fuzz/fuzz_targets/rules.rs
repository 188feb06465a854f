#![no_main]

use tidegate::internals::fuzzing::{Case, Judged, compare_rules, now};

#[path = "../../src/middleware/rules/oracle/theirs.rs"]
mod theirs;

libfuzzer_sys::fuzz_target!(|data: &[u8]| compare_rules(data, theirs::theirs));
