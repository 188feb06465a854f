//! Whether a statement may call a function that writes, judged by its words.

use super::database::Database;
use super::dependencies::{Dependencies, Unanalyzable};
use super::lookup::learn_later;
use crate::cache::Requirement;

/// Words that often precede a parenthesis in reads and don't write: keywords and system functions.
const HARMLESS: &str = "
    all and any array array_agg as avg between by case cast coalesce concat count current_setting date
    date_trunc distinct else except exists extract filter from generate_series greatest group having in
    inet_server_port intersect join json_agg json_build_object jsonb_agg jsonb_build_object lateral least
    length like limit lower materialized max min not now nullif offset on or order over
    pg_is_in_recovery random row row_number select some sum to_char union unnest upper using values
    where";

/// Whether a statement may call a function that writes, and no server would refuse the write: in a request that may write,
/// or without replicas. An unknown statement counts as such until a background task has looked it up.
pub(super) fn may_write_unseen(
    db: &Database,
    sql: &str,
    own: &Requirement,
    found: Option<&Dependencies>,
) -> bool {
    let is_refused = !own.stays_on_primary() && !db.servers().is_empty();
    if is_refused || !calls_a_function(sql) {
        return false;
    }
    match found {
        Some(Dependencies::Tables(_)) => false,
        Some(Dependencies::Unanalyzable(Unanalyzable::VolatileFunction(name))) => {
            !name.starts_with("pg_catalog.")
        }
        Some(Dependencies::Unanalyzable(unanalyzable)) => may_have_effects(sql, unanalyzable),
        None => {
            learn_later(db, sql);
            true
        }
    }
}

/// Whether a statement calls a function that may write, though its words show no write.
pub(super) fn may_call(sql: &str, found: Option<&Dependencies>) -> bool {
    let may_have_effects = match found {
        Some(Dependencies::Tables(_)) => false,
        Some(Dependencies::Unanalyzable(unanalyzable)) => may_have_effects(sql, unanalyzable),
        None => true,
    };
    may_have_effects && calls_a_function(sql)
}

/// Whether a statement whose result can't be cached, for this reason, may write or change its session. The analysis ends at
/// the first reason that it finds. If it may find this one before it has judged the functions that the statement calls, the
/// statement's words decide.
pub(super) fn may_have_effects(sql: &str, unanalyzable: &Unanalyzable) -> bool {
    match unanalyzable {
        Unanalyzable::NotARead
        | Unanalyzable::Locking
        | Unanalyzable::SeveralStatements
        | Unanalyzable::TooLarge
        | Unanalyzable::NotUnderstood(_)
        | Unanalyzable::TemporaryTable(_)
        | Unanalyzable::Sequence(_)
        | Unanalyzable::VolatileFunction(_) => true,
        Unanalyzable::Sampled
        | Unanalyzable::SessionDependent(_)
        | Unanalyzable::System(_)
        | Unanalyzable::UnknownFunction(_)
        | Unanalyzable::OldStrings
        | Unanalyzable::SystemLater(_) => calls_a_function(sql),
        Unanalyzable::UntrackedTable(..)
        | Unanalyzable::SubscribedTable(_)
        | Unanalyzable::MaterializedView(_)
        | Unanalyzable::ForeignTable(_)
        | Unanalyzable::RowSecurity(_)
        | Unanalyzable::SeveralParents(_)
        | Unanalyzable::UnknownRelation(_)
        | Unanalyzable::UnknownKind(_)
        | Unanalyzable::StableFunction(_)
        | Unanalyzable::SystemFunction(_)
        | Unanalyzable::ReadingFunction(_)
        | Unanalyzable::Operator(_)
        | Unanalyzable::Cast(_) => false,
    }
}

/// Whether a text calls a function that is not known to be harmless. One in a string or a comment counts too, and one that
/// only a view, an operator or a cast calls does not.
fn calls_a_function(sql: &str) -> bool {
    let befores = sql.match_indices('(').filter_map(|(at, _)| sql.get(..at));
    befores.map(str::trim_end).any(|before| {
        let is_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let (rest, word) = before.split_at(before.trim_end_matches(is_of_word).len());
        let is_harmless = || HARMLESS.split_whitespace().any(|one| one.eq_ignore_ascii_case(word));
        match word {
            "" => before.ends_with('"') || before.ends_with("*/"),
            // Of any schema.
            _ => rest.ends_with('.') || !is_harmless(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_call_is_distinguished_from_a_parenthesized_list() {
        for sql in [
            "select place_order('tea')",
            "select shop.place_order ('tea')",
            "select \"place order\"('tea')",
            "select count(*), f(x) from t",
            "select shop.count('tea')",
            "select größe(1)",
            "select place_order/* twice */('tea')",
        ] {
            assert!(calls_a_function(sql), "{sql}");
        }
        for sql in [
            "select a from t where b = $1",
            "SELECT COUNT (*) FROM t WHERE a IN (1, 2) AND (b = $1)",
            "with a as (select 1) select lower(x) from a where exists (select)",
            "select ((1))",
            "(",
            "",
        ] {
            assert!(!calls_a_function(sql), "{sql}");
        }
    }
}
