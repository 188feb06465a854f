//! Whether a statement may write, judged by its words. These don't show whether a function writes.

use super::dependencies::words_of_one;

const READS: [&str; 6] = ["select", "table", "values", "show", "explain", "with"];

/// Words that turn a statement that begins like a read into a write: in WITH, under EXPLAIN ANALYZE, and as SELECT INTO.
const WRITES: [&str; 5] = ["insert", "update", "delete", "merge", "into"];

/// Prefixes of functions that act only on the server that runs them, on its locks or processes (PostgreSQL manual, "System
/// Administration Functions").
const OF_SERVER: [&str; 4] =
    ["pg_advisory_", "pg_try_advisory_", "pg_cancel_backend", "pg_terminate_backend"];

/// Further statements that EXPLAIN ANALYZE executes.
const EXPLAINED: [&str; 3] = ["create", "execute", "refresh"];

/// A longer text is not lexed, since this happens each time that it is sent.
const LEXED_MAX: usize = 64 * 1024;

/// Whether a statement may change data or server state, such as advisory locks. Several statements in one text count as a
/// write, since they can't be sent to another server once the first has returned rows. So does a text that begins like a
/// read and can't be lexed. A text longer than [`LEXED_MAX`] is judged by its unlexed words alone.
pub(super) fn may_write(sql: &str) -> bool {
    let has = |part: &str| {
        sql.as_bytes().windows(part.len()).any(|found| found.eq_ignore_ascii_case(part.as_bytes()))
    };
    let has_comment = || has("--") || has("/*");
    let words = sql.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let mut words = words.filter(|word| !word.is_empty()).peekable();
    let begins_as_read = words.peek().is_some_and(|first| is(first, &READS));
    if sql.len() > LEXED_MAX || !(has_comment() || begins_as_read && (has(";") || has("into"))) {
        return do_write(words);
    }
    words_of_one(sql).is_none_or(|words| do_write(words.iter().map(String::as_str)))
}

fn do_write<'a>(mut words: impl Iterator<Item = &'a str>) -> bool {
    let first = words.next().unwrap_or_default();
    if is(first, &["explain"]) {
        return words.any(|word| is(word, &WRITES) || is(word, &EXPLAINED) || is_of_server(word));
    }
    let writes: &[&str] = if is(first, &["with"]) { &WRITES } else { &["into"] };
    !is(first, &READS) || words.any(|word| is(word, writes) || is_of_server(word))
}

fn is_of_server(word: &str) -> bool {
    let begins = |with: &str| word.get(..with.len()).is_some_and(|begin| is(begin, &[with]));
    OF_SERVER.iter().any(|one| begins(one))
}

fn is(word: &str, among: &[&str]) -> bool {
    among.iter().any(|one| one.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_that_may_write_is_recognized_by_its_keywords() {
        for sql in [
            "insert into t values (1)",
            " UPDATE t set a = 1",
            "with gone as (delete from t returning *) select * from gone",
            "-- merge\ncall f()",
            "",
            "explain analyze insert into t values (1)",
            "EXPLAIN (ANALYZE) create table u as select 1",
            "select a Into u from t",
            "with a as (select 1) select * into u from a",
            "select 1; insert into t values (1)",
            "/* select */ delete from t",
            "select pg_try_advisory_lock(7)",
            "select a, PG_CATALOG.PG_ADVISORY_XACT_LOCK(7) from t",
            "select pg_terminate_backend(pid) from pg_stat_activity",
        ] {
            assert!(may_write(sql), "{sql}");
        }
        for sql in [
            "select 'update'",
            "with a as (select 1) table a",
            "(values (1))",
            "show all",
            "explain select 1",
            "select 'into'; ",
            "select \"into\" from t -- insert; delete",
            "/* insert */ select 1",
            "select ';'",
            "select pg_é, pg_advisor from t",
        ] {
            assert!(!may_write(sql), "{sql}");
        }
    }
}
