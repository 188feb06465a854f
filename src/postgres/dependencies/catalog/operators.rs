//! What runs without being called by name: operators, casts, and the reading of strings.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::{Stop, bodies};
use crate::postgres::dependencies::Unfit;

/// Operators that a query uses unseen: for LIKE, IN, BETWEEN, CASE, DISTINCT, USING, sorting,
/// grouping, `GREATEST`, and subtraction in window frames.
const UNSEEN: &[&str] =
    &["=", "<>", "<", "<=", ">", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~", "+", "-"];

/// User-defined operators and casts whose functions are not trusted. A stable function in C is:
/// extensions declare operators so that depend on their settings. An immutable one has its body looked at.
const SUSPECTS: &str = "
with suspect as (
    select p.oid, p.provolatile = 'v' or (p.provolatile = 's' and l.lanname <> 'c') as unsafe
    from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
    where p.provolatile = 'v' or l.lanname <> 'c'
)
select o.oprname::text, true, s.unsafe, s.oid::int8
from pg_catalog.pg_operator o join suspect s on s.oid = o.oprcode
where o.oid >= 16384
union all
select pg_catalog.format_type(c.castsource, null) || ' to '
       || pg_catalog.format_type(c.casttarget, null), false, s.unsafe, s.oid::int8
from pg_catalog.pg_cast c join suspect s on s.oid = c.castfunc
where c.oid >= 16384";

/// Refuses a connection that reads strings in the way of before 2010.
pub(super) async fn settings(conn: &mut PgConnection) -> Result<(), Stop> {
    let strings: String =
        sqlx::query_scalar("select pg_catalog.current_setting('standard_conforming_strings')")
            .fetch_one(conn)
            .await?;
    if strings == "on" { Ok(()) } else { Err(Unfit::OldStrings.into()) }
}

/// Refuses operators of the query, and casts, that run what isn't trusted.
pub(super) async fn judge(
    conn: &mut PgConnection,
    operators: &BTreeSet<String>,
) -> Result<(), Stop> {
    let suspects: Vec<(String, bool, bool, i64)> =
        sqlx::query_as(SUSPECTS).fetch_all(&mut *conn).await?;
    let mut bodies = Vec::new();
    for (name, is_operator, is_unsafe, function) in suspects {
        let is_used = !is_operator
            || UNSEEN.contains(&name.as_str())
            || operators.iter().any(|run| run.contains(&name));
        match (is_used, is_unsafe) {
            (false, _) => {}
            (true, false) => bodies.push(function),
            (true, true) if is_operator => return Err(Unfit::Operator(name).into()),
            (true, true) => return Err(Unfit::Cast(name).into()),
        }
    }
    bodies::check(conn, &bodies).await
}
