//! What runs without being called by name: operators, casts, and the reading of strings.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::Stop;
use crate::postgres::dependencies::Unfit;

/// Operators that a query uses unseen: for LIKE, IN, BETWEEN, CASE, DISTINCT, USING, sorting,
/// grouping, `GREATEST`, and subtraction in window frames.
const UNSEEN: &[&str] =
    &["=", "<>", "<", "<=", ">", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~", "+", "-"];

/// User-defined operators and casts whose functions are not trusted. A stable function in C is:
/// extensions declare operators so that depend on their settings.
const SUSPECTS: &str = "
with suspect as (
    select p.oid from pg_catalog.pg_proc p
    join pg_catalog.pg_language l on l.oid = p.prolang
    where p.provolatile = 'v' or (p.provolatile = 's' and l.lanname not in ('c', 'internal'))
)
select o.oprname::text, true from pg_catalog.pg_operator o
where o.oprcode in (select oid from suspect)
  and o.oprnamespace <> 'pg_catalog'::regnamespace
union all
select pg_catalog.format_type(c.castsource, null) || ' to '
       || pg_catalog.format_type(c.casttarget, null), false
from pg_catalog.pg_cast c
where c.castfunc in (select oid from suspect)";

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
    let suspects: Vec<(String, bool)> = sqlx::query_as(SUSPECTS).fetch_all(conn).await?;
    for (name, is_operator) in suspects {
        if !is_operator {
            return Err(Unfit::Cast(name).into());
        }
        if UNSEEN.contains(&name.as_str()) || operators.iter().any(|run| run.contains(&name)) {
            return Err(Unfit::Operator(name).into());
        }
    }
    Ok(())
}
