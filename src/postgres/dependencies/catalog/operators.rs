//! Functions that run without a call by name: those of operators and casts. Also how strings are read.

use std::collections::BTreeSet;

use sqlx::{PgConnection, Row};

use super::bodies;
use super::search_stop::SearchStop;
use super::statement_parts::{StatementParts, UNSEEN};
use crate::postgres::deadline::STATEMENT_TIMEOUT;
use crate::postgres::dependencies::Unanalyzable;

/// User-defined operators and casts whose functions are not trusted, with the two types of each. A stable function in C is
/// trusted, since extensions declare operators as stable that depend on settings. The body of an immutable one is checked.
const SUSPECTS: &str = "
with suspect as (
    select p.oid, p.provolatile = 'v' or (p.provolatile = 's' and l.lanname <> 'c') as unsafe
    from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
    where p.provolatile = 'v' or l.lanname <> 'c'
)
select o.oprname::text, true, s.unsafe, s.oid::int8, array[o.oprleft, o.oprright]::int8[]
from pg_catalog.pg_operator o join suspect s on s.oid = o.oprcode::oid
where o.oid >= '16384'::oid
union all
select pg_catalog.format_type(c.castsource, null) || ' to '
       || pg_catalog.format_type(c.casttarget, null), false, s.unsafe, s.oid::int8,
       array[c.castsource, c.casttarget]::int8[]
from pg_catalog.pg_cast c join suspect s on s.oid = c.castfunc
where c.oid >= '16384'::oid
order by 2, 1";

/// The types among $6 of which a statement can have values. These are all system types, and those that come from the
/// columns of its relations ($1), its functions ($2), the types that its words may name ($3) and its operators ($4, and $5
/// for implicit ones), also by decomposition, construction or implicit conversion. It errs on the side of too many.
const OCCURRING: &str = "
with recursive own as (
    select oid from pg_catalog.pg_type where typnamespace = 'pg_catalog'::regnamespace::oid
), used as (
    select o.oprleft, o.oprright, o.oprresult from pg_catalog.pg_operator o
    where o.oprnamespace <> 'pg_catalog'::regnamespace::oid and (o.oprname = any ($5::text[])
        or exists (select from pg_catalog.unnest($4::text[]) run where pg_catalog.strpos(run, o.oprname::text) > 0))
), occurring (type) as (
    select a.atttypid from pg_catalog.pg_attribute a
    where a.attrelid = any (select pg_catalog.unnest($1::int8[])::oid) and not a.attisdropped
    union
    select c.reltype from pg_catalog.pg_class c where c.oid = any (select pg_catalog.unnest($1::int8[])::oid)
    union
    select pg_catalog.unnest(pg_catalog.array_cat(
        pg_catalog.array_prepend(p.prorettype, p.proargtypes::oid[]), p.proallargtypes)) from pg_catalog.pg_proc p
    where p.oid = any (select pg_catalog.unnest($2::int8[])::oid)
    union
    select t.oid from pg_catalog.pg_type t where t.typname = any ($3::text[])
    union
    select u.oprresult from used u
    where (u.oprleft = '0'::oid or u.oprleft in (select oid from own)) and u.oprright in (select oid from own)
    union
    select c.casttarget from pg_catalog.pg_cast c
    where c.castcontext = 'i' and c.castsource in (select oid from own)
      and exists (select from used u where c.casttarget in (u.oprleft, u.oprright))
    union
    select next.type from occurring o cross join lateral (
        select a.atttypid from pg_catalog.pg_type t join pg_catalog.pg_attribute a on a.attrelid = t.typrelid
        where t.oid = o.type and not a.attisdropped
        union all
        select pg_catalog.unnest(array[t.typelem, t.typarray, t.typbasetype])
        from pg_catalog.pg_type t where t.oid = o.type
        union all
        select t.oid from pg_catalog.pg_type t where t.typtype = 'd' and t.typbasetype = o.type
        union all
        select pg_catalog.unnest(array[r.rngtypid, r.rngsubtype, r.rngmultitypid]) from pg_catalog.pg_range r
        where o.type in (r.rngtypid, r.rngsubtype, r.rngmultitypid)
        union all
        select c.casttarget from pg_catalog.pg_cast c where c.castsource = o.type and c.castcontext = 'i'
        union all
        select u.oprresult from used u where o.type in (u.oprleft, u.oprright)
    ) next (type)
    where o.type not in (select oid from own)
)
select wanted::int8 from pg_catalog.unnest($6::int8[]) wanted
where wanted::oid in (select type from occurring) or wanted::oid in (select oid from own) or wanted = 0";

/// Rejects a connection with `standard_conforming_strings` off, or whose search path has another schema before `pg_catalog`.
///
/// Also limits the statements of the rest of the transaction: a view is read under locks, for which a migration may
/// make it wait, and an abandoned statement must not continue on the server.
pub(super) async fn settings(conn: &mut PgConnection) -> Result<(), SearchStop> {
    let sql = "select pg_catalog.current_setting('standard_conforming_strings'), \
        pg_catalog.current_schemas(true), \
        pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('lock_timeout', $1, true)";
    let limit = format!("{}ms", STATEMENT_TIMEOUT.as_millis());
    let row = sqlx::query(sql).bind(limit).fetch_one(conn).await?;
    let (strings, path): (String, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
    if strings != "on" {
        return Err(Unanalyzable::OldStrings.into());
    }
    // A temporary schema is searched for no function or operator, and its tables and types are looked for.
    let is_temporary = |schema: &&String| schema.starts_with("pg_temp_");
    match path.iter().find(|schema| !is_temporary(schema)) {
        Some(first) if first != "pg_catalog" => {
            Err(Unanalyzable::SystemLater(first.clone()).into())
        }
        _ => Ok(()),
    }
}

/// A row of the result of [`SUSPECTS`]: name, whether it is an operator, whether its function is unsafe, the function,
/// types.
type SuspectRow = (String, bool, bool, i64, Vec<i64>);

/// Rejects operators and casts whose functions are not trusted, if the statement can have values of their types.
/// Returns whether one may read the time of day.
pub(super) async fn judge(
    conn: &mut PgConnection,
    parts: &StatementParts,
) -> Result<bool, SearchStop> {
    let suspects: Vec<SuspectRow> = sqlx::query_as(SUSPECTS).fetch_all(&mut *conn).await?;
    let used = |(name, is_operator, ..): &SuspectRow| !is_operator || parts.may_use(name);
    let suspects: Vec<_> = suspects.into_iter().filter(used).collect();
    if suspects.is_empty() {
        return Ok(false);
    }
    let types = suspects.iter().flat_map(|(.., types)| types.iter().copied()).collect();
    let occurring = occurring(conn, parts, types).await?;
    let met = |(.., types): &SuspectRow| types.iter().all(|one| occurring.contains(one));
    let mut bodies = Vec::new();
    for (name, is_operator, is_unsafe, function, _) in suspects.into_iter().filter(met) {
        match (is_unsafe, is_operator) {
            (false, _) => bodies.push(function),
            (true, true) => return Err(Unanalyzable::Operator(name).into()),
            (true, false) => return Err(Unanalyzable::Cast(name).into()),
        }
    }
    bodies::check(conn, &bodies).await
}

async fn occurring(
    conn: &mut PgConnection,
    parts: &StatementParts,
    types: Vec<i64>,
) -> Result<BTreeSet<i64>, sqlx::Error> {
    let oids = |oids: &BTreeSet<i64>| -> Vec<i64> { oids.iter().copied().collect() };
    let texts = |texts: &BTreeSet<String>| -> Vec<String> { texts.iter().cloned().collect() };
    let found: Vec<i64> = sqlx::query_scalar(OCCURRING)
        .bind(oids(&parts.relations))
        .bind(oids(&parts.functions))
        .bind(texts(&parts.words))
        .bind(texts(&parts.operators))
        .bind(UNSEEN)
        .bind(types)
        .fetch_all(conn)
        .await?;
    Ok(found.into_iter().collect())
}
