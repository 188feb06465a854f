//! Functions by name: every overload that the connection could call.

use sqlx::PgConnection;

use super::Stop;
use crate::postgres::dependencies::{Name, References, Unfit};

/// Postgres' own stable functions whose answer depends on their arguments, the time, and settings
/// that a pool shares. The others read the catalogue or the connection.
const STABLE: &[&str] = &[
    "age",
    "array_to_json",
    "array_to_string",
    "concat",
    "concat_ws",
    "convert",
    "convert_from",
    "convert_to",
    "date",
    "date_add",
    "date_part",
    "date_subtract",
    "date_trunc",
    "extract",
    "format",
    "generate_series",
    "json_agg",
    "json_agg_strict",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "json_object_agg_strict",
    "json_object_agg_unique",
    "json_object_agg_unique_strict",
    "json_populate_record",
    "json_populate_recordset",
    "json_to_record",
    "json_to_recordset",
    "json_to_tsvector",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "jsonb_object_agg_strict",
    "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict",
    "jsonb_path_exists_tz",
    "jsonb_path_match_tz",
    "jsonb_path_query_array_tz",
    "jsonb_path_query_first_tz",
    "jsonb_path_query_tz",
    "jsonb_populate_record",
    "jsonb_populate_recordset",
    "jsonb_to_record",
    "jsonb_to_recordset",
    "jsonb_to_tsvector",
    "length",
    "make_timestamptz",
    "money",
    "now",
    "numeric",
    "overlaps",
    "phraseto_tsquery",
    "plainto_tsquery",
    "quote_literal",
    "quote_nullable",
    "row_to_json",
    "statement_timestamp",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "timezone",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
    "to_tsquery",
    "to_tsvector",
    "transaction_timestamp",
    "ts_headline",
    "websearch_to_tsquery",
];

/// A function that a query may call.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) oid: i64,
    schema: String,
    name: String,
    volatility: String,
    /// Expressions that stand in for arguments that are left out, and may call functions too.
    pub(super) defaults: Option<String>,
}

type Row = (i64, String, String, String, Option<String>);

/// An aggregate is always declared immutable, so its parts are asked. A name after a dot is a
/// call if it names a function of one row.
const NAMED: &str = "
with overload as (
    select p.*, s.nspname from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace s on s.oid = p.pronamespace
    where p.proname = any ($2::text[] || $3::text[]) or p.oid = any (select unnest($4::int8[])::oid)
), wanted (schema, name) as (
    select * from unnest($1::text[], $2::text[])
)
select p.oid::int8, p.nspname::text, p.proname::text,
       case when p.prokind = 'a' and p.nspname <> 'pg_catalog' and exists (
           select from pg_catalog.pg_aggregate a join pg_catalog.pg_proc part on part.oid in
               (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
                a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)
           where a.aggfnoid = p.oid and part.provolatile <> 'i'
       ) then 'v' else p.provolatile::text end,
       case when p.nspname <> 'pg_catalog' then pg_catalog.pg_get_expr(p.proargdefaults, 0) end
from overload p
where exists (
    select from wanted w
    where p.proname = w.name
      and case when w.schema is null then pg_catalog.pg_function_is_visible(p.oid)
               else p.nspname = w.schema end
) or (
    p.proname = any ($3::text[]) and p.pronargs >= 1 and p.pronargs - p.pronargdefaults <= 1
    and pg_catalog.pg_function_is_visible(p.oid)
    and exists (select from pg_catalog.pg_type t
                where t.oid = p.proargtypes[0] and t.typtype in ('c', 'p', 'd'))
) or p.oid = any (select unnest($4::int8[])::oid)";

/// The functions that a query's names can mean to this connection.
pub(super) async fn named(
    conn: &mut PgConnection,
    references: &References,
) -> Result<Vec<Function>, Stop> {
    let names = &references.functions;
    let attributes: Vec<String> = references.attributes.iter().cloned().collect();
    if names.is_empty() && attributes.is_empty() {
        return Ok(Vec::new());
    }
    let functions = select(conn, names.iter(), attributes, &[]).await?;
    for name in names {
        if !functions.iter().any(|function| function.is_named(name)) {
            return Err(Unfit::UnknownFunction(name.to_string()).into());
        }
    }
    Ok(functions)
}

/// The functions of these oids.
pub(super) async fn by_oid(
    conn: &mut PgConnection,
    oids: &[i64],
) -> Result<Vec<Function>, sqlx::Error> {
    select(conn, std::iter::empty(), Vec::new(), oids).await
}

async fn select(
    conn: &mut PgConnection,
    names: impl Iterator<Item = &Name>,
    attributes: Vec<String>,
    oids: &[i64],
) -> Result<Vec<Function>, sqlx::Error> {
    let (schemas, lasts): (Vec<Option<String>>, Vec<String>) =
        names.map(|name| (name.schema().map(str::to_owned), name.last().to_owned())).unzip();
    let rows: Vec<Row> = sqlx::query_as(NAMED)
        .bind(schemas)
        .bind(lasts)
        .bind(attributes)
        .bind(oids)
        .fetch_all(conn)
        .await?;
    let function = |(oid, schema, name, volatility, defaults)| Function {
        oid,
        schema,
        name,
        volatility,
        defaults,
    };
    Ok(rows.into_iter().map(function).collect())
}

impl Function {
    /// Says why a query that calls it can't be kept, if it can't.
    pub(super) fn judge(&self) -> Result<(), Unfit> {
        let name = format!("{}.{}", self.schema, self.name);
        let own = self.schema == "pg_catalog";
        match self.volatility.as_str() {
            "i" => Ok(()),
            "s" if own && STABLE.contains(&self.name.as_str()) => Ok(()),
            "s" if own => Err(Unfit::SystemFunction(name)),
            "s" => Err(Unfit::StableFunction(name)),
            _ => Err(Unfit::VolatileFunction(name)),
        }
    }

    fn is_named(&self, name: &Name) -> bool {
        self.name == name.last() && name.schema().is_none_or(|schema| schema == self.schema)
    }
}
