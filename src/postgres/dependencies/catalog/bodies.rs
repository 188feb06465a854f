//! Checks functions that are declared IMMUTABLE: whether the catalogue shows that they read something nevertheless.
//!
//! A body that Postgres stores as a tree (`BEGIN ATOMIC`, `RETURN`) shows everything that it reads and calls, and is
//! followed. A body that is stored as text is analysed if it is SQL or PL/pgSQL; this does not show the statements that it
//! runs by EXECUTE, nor the argument types of its calls ([`named`]). In other languages, only the declaration is available.

mod function_body;
mod named;

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::search_stop::SearchStop;
use super::stable::FIRST_OF_USERS;
use crate::postgres::dependencies::clock::mentions_clock;
use function_body::{BodyRow, FunctionBody};
use named::Texts;

/// In a tree, `rtekind 0` is a relation that is read, a `SQLVALUEFUNCTION` a keyword as `CURRENT_USER`, and the numbers
/// are those of the types `aclitem`, `regclass` and `regrole` and their arrays. The tree is text of a fixed form, in which
/// names and strings of the user's have their blanks and braces escaped. A text calls functions by name ($2), also after a
/// dot ($3), and those of the user's by an operator that is in one of its runs ($4, not empty if there is any text), or by
/// a cast, which need not be written.
const BODIES: &str = r"
with wanted (oid) as (
    select pg_catalog.unnest($1::int8[])::oid
    union
    select f.oid from pg_catalog.pg_proc f where f.proname = any ($2::text[])
    union
    select f.oid from pg_catalog.pg_proc f where f.proname = any ($3::text[])
        and f.pronargs >= 1 and f.pronargs - f.pronargdefaults <= 1
    union
    select o.oprcode::oid from pg_catalog.pg_operator o where o.oid >= '16384'::oid
        and exists (select from pg_catalog.unnest($4::text[]) run where pg_catalog.strpos(run, o.oprname::text) > 0)
    union
    select c.castfunc from pg_catalog.pg_cast c
    where c.oid >= '16384'::oid and pg_catalog.cardinality($4::text[]) > 0
)
select p.oid::int8, n.nspname::text, p.proname::text,
       p.proname::text || '(' || pg_catalog.oidvectortypes(p.proargtypes) || ')',
       p.provolatile::text, l.lanname::text,
       case when p.provariadic <> '0'::oid then 0 else p.pronargs - p.pronargdefaults end::int2,
       case when p.provariadic <> '0'::oid then 32767 else p.pronargs end::int2,
       case when p.prosqlbody is null and p.oid >= '16384'::oid then p.prosrc end,
       tree.text ~ ':rtekind 0 |[{]SQLVALUEFUNCTION |:(?:const|param|result|funcresult)type (?:1033|1034|2205|2210|4096|4097) ',
       array(
           select part::int8 from pg_catalog.pg_aggregate a cross join lateral pg_catalog.unnest(array[
               a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
               a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) part
           where a.aggfnoid::oid = p.oid and p.oid >= '16384'::oid and part <> '0'::oid
           union
           select m[1]::int8
           from pg_catalog.regexp_matches(tree.text, ':(?:funcid|aggfnoid|winfnoid) (\d+)', 'g') m
           union
           select o.oprcode::oid::int8
           from pg_catalog.regexp_matches(tree.text,
               ':(?:opno|eqop|sortop|cycle_mark_neop|opnos) (?:[(]o )?([\d ]+)', 'g') m
           cross join lateral pg_catalog.unnest(pg_catalog.string_to_array(pg_catalog.btrim(m[1]), ' ')) operator
           join pg_catalog.pg_operator o on o.oid = operator::oid
           where o.oprcode::oid >= '16384'::oid
       )
from wanted join pg_catalog.pg_proc p on p.oid = wanted.oid
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
join pg_catalog.pg_language l on l.oid = p.prolang
cross join lateral (
    select coalesce(p.prosqlbody::text, '') || coalesce(p.proargdefaults::text, '') as text
    where p.oid >= '16384'::oid union all select '' where p.oid < '16384'::oid
) tree";

/// Rejects functions whose bodies read something, or call a function whose body does. Their own volatility has been
/// judged. Returns whether a body may read the time of day.
pub(super) async fn check(conn: &mut PgConnection, functions: &[i64]) -> Result<bool, SearchStop> {
    let mut seen = BTreeSet::new();
    let own = |oid: &i64| *oid < FIRST_OF_USERS;
    let mut next: Vec<i64> = functions.iter().copied().filter(|oid| !own(oid)).collect();
    // A tree calls exactly this function, so its volatility counts too. A name in a text may mean another function.
    let mut called: BTreeSet<i64> = BTreeSet::new();
    let mut texts = Texts::default();
    let mut reads_clock = false;
    while !next.is_empty() || !texts.is_empty() {
        let bodies = select(conn, &next, &texts).await?;
        texts.judge(&bodies)?;
        next.clear();
        texts = Texts::default();
        for body in bodies {
            let is_called = called.contains(&body.oid);
            if seen.insert((body.oid, is_called)) {
                reads_clock |= is_called && body.is_own() && mentions_clock(&body.name);
                texts.add(&body, body.judge(is_called)?);
                called.extend(&body.calls);
                next.extend(body.calls);
            }
        }
        reads_clock |= texts.reads_clock;
    }
    Ok(reads_clock)
}

async fn select(
    conn: &mut PgConnection,
    oids: &[i64],
    texts: &Texts,
) -> Result<Vec<FunctionBody>, sqlx::Error> {
    let rows: Vec<BodyRow> = sqlx::query_as(BODIES)
        .bind(oids)
        .bind(texts.names(false))
        .bind(texts.names(true))
        .bind(&texts.operators)
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().map(FunctionBody::new).collect())
}
