//! Whether a statement may read the time of day.

/// The words for it in a text (PostgreSQL manual, "Current Date/Time" and "Special Values").
const WORDS: [&str; 9] = [
    "now",
    "age",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "statement_timestamp",
    "transaction_timestamp",
];

/// The words for it in a string that becomes a date or a time. Digits may follow: `today10:00` is one.
const SPECIAL_VALUES: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Whether a text may read the time of day, judged by its words, wherever they are. A false positive, such as a column with
/// that name or a word in a string, only limits how long the response is fresh.
pub(super) fn mentions_clock(sql: &str) -> bool {
    let is_among =
        |words: &[&str], word: &str| words.iter().any(|one| one.eq_ignore_ascii_case(word));
    let mut words = sql.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let mut runs = sql.split(|c: char| !c.is_alphabetic());
    words.any(|word| is_among(&WORDS, word)) || runs.any(|run| is_among(&SPECIAL_VALUES, run))
}

/// Whether a value that is bound to a parameter may read the time of day, like a text that becomes a date. It is judged
/// by its bytes in any form: other letters may touch the word (such as the length of an element).
pub(crate) fn value_mentions_clock(value: &[u8]) -> bool {
    let starts = |at: usize| {
        let from_here = &value[at..];
        SPECIAL_VALUES.iter().any(|word| {
            let here = from_here.get(..word.len());
            here.is_some_and(|here| here.eq_ignore_ascii_case(word.as_bytes()))
        })
    };
    (0..value.len()).any(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sql_spelling_that_reads_the_clock_is_detected() {
        for sql in [
            "select NOW()",
            "select pg_catalog.now ()",
            "select current_date",
            "select 'today'::date",
            "select a from t where b > LocalTimestamp(3)",
            "select age(born)",
            "select 'Now'::time, 'today10:00'::timestamp",
        ] {
            assert!(mentions_clock(sql), "{sql}");
        }
        for sql in ["select known from pages", "select current_user_id", "select nowhere"] {
            assert!(!mentions_clock(sql), "{sql}");
        }
    }

    #[test]
    fn a_bound_value_that_names_a_relative_date_is_detected() {
        for value in [&b"today"[..], b"\0\0\0\x08TOMORROW", b"\0\0\0ayesterday 10:00", b"(1,now)"] {
            assert!(value_mentions_clock(value), "{value:?}");
        }
        for value in [&b""[..], b"no", b"2026-11-29", b"to day"] {
            assert!(!value_mentions_clock(value), "{value:?}");
        }
    }
}
