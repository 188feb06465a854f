//! Values that are written as names of the catalogue, though they are stored as numbers.
//!
//! Renaming a role or an index fires no trigger, and Tidegate's event triggers don't record it, so the text of such a value
//! changes unnoticed. The names that values of other types are written as change only with the schema, which is noticed.

use sqlx::PgConnection;

use super::search_stop::SearchStop;
use super::statement_parts::StatementParts;
use crate::postgres::dependencies::Unanalyzable;

/// The sources of a statement's values of such a type: columns of its relations ($1), results of its functions ($2), or
/// a type that it names ($3); also in an array, a composite, a domain or a range.
const PRINTED: &str = "
with recursive met (source, type) as (
    select c.relname::text || '.' || a.attname::text, a.atttypid
    from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
    where a.attrelid = any (select pg_catalog.unnest($1::int8[])::oid) and a.attnum > 0 and not a.attisdropped
    union
    select p.proname::text || '()', result.type from pg_catalog.pg_proc p
    cross join lateral (
        select p.prorettype
        union all
        select type from rows from (pg_catalog.unnest(p.proallargtypes), pg_catalog.unnest(p.proargmodes)) o (type, mode)
        where mode <> 'i'
    ) result (type)
    where p.oid = any (select pg_catalog.unnest($2::int8[])::oid)
    union
    select t.typname::text, t.oid from pg_catalog.pg_type t where t.typname = any ($3::text[])
    union
    select m.source, part.type from met m cross join lateral (
        select a.atttypid from pg_catalog.pg_type t join pg_catalog.pg_attribute a on a.attrelid = t.typrelid
        where t.oid = m.type and a.attnum > 0 and not a.attisdropped
        union all
        select pg_catalog.unnest(array[t.typelem, t.typbasetype]) from pg_catalog.pg_type t where t.oid = m.type
        union all
        select r.rngsubtype from pg_catalog.pg_range r where m.type in (r.rngtypid, r.rngmultitypid)
    ) part (type)
)
select 'type ' || t.typname::text || ' (' || m.source || ')' from met m join pg_catalog.pg_type t on t.oid = m.type
where t.typname in ('aclitem', 'regclass', 'regdatabase', 'regrole')
    and t.typnamespace = 'pg_catalog'::regnamespace::oid
order by m.source desc limit 1";

/// Rejects a statement that can have such values.
pub(super) async fn judge(
    conn: &mut PgConnection,
    parts: &StatementParts,
) -> Result<(), SearchStop> {
    let relations: Vec<i64> = parts.relations.iter().copied().collect();
    let functions: Vec<i64> = parts.functions.iter().copied().collect();
    let words: Vec<&str> = parts.words.iter().map(String::as_str).collect();
    let query = sqlx::query_scalar(PRINTED).bind(relations).bind(functions).bind(words);
    match query.fetch_optional(conn).await? {
        Some(source) => Err(Unanalyzable::System(source).into()),
        None => Ok(()),
    }
}
