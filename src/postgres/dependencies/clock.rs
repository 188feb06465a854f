//! Whether a statement may ask for the time of day.

/// What a text can call it by (PostgreSQL manual, "Current Date/Time" and "Special Values").
const WORDS: [&str; 12] = [
    "now",
    "age",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "statement_timestamp",
    "transaction_timestamp",
    "today",
    "tomorrow",
    "yesterday",
];

/// Whether a text may ask for the time of day. By its words, wherever they are: a column of that name, or a word in a
/// string, only bounds how long an answer lasts that the answer is part of.
pub(super) fn mentions_clock(sql: &str) -> bool {
    let words = sql.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let is_one = |word: &str| WORDS.iter().any(|one| one.eq_ignore_ascii_case(word));
    words.into_iter().any(is_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_is_found_however_it_is_asked_for() {
        for sql in [
            "select NOW()",
            "select pg_catalog.now ()",
            "select current_date",
            "select 'today'::date",
            "select a from t where b > LocalTimestamp(3)",
            "select age(born)",
        ] {
            assert!(mentions_clock(sql), "{sql}");
        }
        for sql in ["select known from pages", "select current_user_id", "select nowhere"] {
            assert!(!mentions_clock(sql), "{sql}");
        }
    }
}
