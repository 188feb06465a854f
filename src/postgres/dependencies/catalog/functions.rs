//! Functions by name: every overload that the connection could call.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::search_stop::SearchStop;
use super::stable::{FIRST_OF_USERS, STABLE};
use crate::postgres::dependencies::references::FunctionCall;
use crate::postgres::dependencies::{Name, References, Unanalyzable};

/// A function that a query may call.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) oid: i64,
    schema: String,
    name: String,
    /// With the types of its arguments.
    signature: String,
    volatility: String,
    /// How many arguments it takes.
    least: i16,
    most: i16,
    /// Expressions that stand in for arguments that are left out, and may call functions too.
    pub(super) defaults: Option<String>,
}

type FunctionRow = (i64, String, String, String, String, i16, i16, Option<String>);

/// An aggregate is always declared immutable, so its support functions are checked. A name after a dot is a call if it
/// names a function with one argument: a row ($3), a type that a row can be converted to, or any value ($5).
const NAMED: &str = "
with overload as (
    select p.*, s.nspname from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace s on s.oid = p.pronamespace
    where p.proname = any (pg_catalog.array_cat(pg_catalog.array_cat($2::text[], $3::text[]), $5::text[]))
        or p.oid = any (select pg_catalog.unnest($4::int8[])::oid)
), wanted (schema, name) as (
    select * from unnest($1::text[], $2::text[])
)
select p.oid::int8, p.nspname::text, p.proname::text,
       p.proname::text || '(' || pg_catalog.oidvectortypes(p.proargtypes) || ')',
       case when p.prokind = 'a' and p.oid >= '16384'::oid and exists (
           select from pg_catalog.pg_aggregate a join pg_catalog.pg_proc part on part.oid = any (array[
                a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
                a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[])
           where a.aggfnoid::oid = p.oid and part.provolatile <> 'i'
       ) then 'v' else p.provolatile::text end,
       case when p.provariadic <> '0'::oid then 0 else p.pronargs - p.pronargdefaults end::int2,
       case when p.provariadic <> '0'::oid then 32767 else p.pronargs end::int2,
       case when p.oid >= '16384'::oid then pg_catalog.pg_get_expr(p.proargdefaults, 0) end
from overload p
where exists (
    select from wanted w
    where p.proname = w.name
      and case when w.schema is null then pg_catalog.pg_function_is_visible(p.oid)
               else p.nspname = w.schema end
) or (
    p.pronargs >= 1 and p.pronargs - p.pronargdefaults <= 1 and pg_catalog.pg_function_is_visible(p.oid)
    and (p.proname = any ($5::text[]) or p.proname = any ($3::text[]) and (
        exists (select from pg_catalog.pg_type t
                where t.oid = p.proargtypes[0] and t.typtype in ('c', 'p', 'd'))
        or exists (select from pg_catalog.pg_cast c join pg_catalog.pg_type t on t.oid = c.castsource
                where c.casttarget = p.proargtypes[0] and t.typtype = 'c')))
) or p.oid = any (select pg_catalog.unnest($4::int8[])::oid)";

/// The functions that a query's names can mean to this connection.
pub(super) async fn named(
    conn: &mut PgConnection,
    references: &References,
) -> Result<Vec<Function>, SearchStop> {
    let names = &references.functions;
    if names.is_empty() && references.attributes.is_empty() {
        return Ok(Vec::new());
    }
    let functions = select(conn, references, &[]).await?;
    for name in names {
        if !functions.iter().any(|function| function.is_named(name)) {
            return Err(Unanalyzable::UnknownFunction(name.to_string()).into());
        }
    }
    Ok(functions)
}

/// The functions of these oids.
pub(super) async fn by_oid(
    conn: &mut PgConnection,
    oids: &[i64],
) -> Result<Vec<Function>, sqlx::Error> {
    select(conn, &References::default(), oids).await
}

async fn select(
    conn: &mut PgConnection,
    references: &References,
    oids: &[i64],
) -> Result<Vec<Function>, sqlx::Error> {
    let names = references.functions.iter();
    let (schemas, lasts): (Vec<Option<String>>, Vec<String>) =
        names.map(|name| (name.schema().map(str::to_owned), name.last().to_owned())).unzip();
    let texts = |texts: &BTreeSet<String>| -> Vec<String> { texts.iter().cloned().collect() };
    let rows: Vec<FunctionRow> = sqlx::query_as(NAMED)
        .bind(schemas)
        .bind(lasts)
        .bind(texts(&references.attributes))
        .bind(oids)
        .bind(texts(&references.attributes_of_values))
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().map(Function::new).collect())
}

impl Function {
    fn new((oid, schema, name, signature, volatility, least, most, defaults): FunctionRow) -> Self {
        Self { oid, schema, name, signature, volatility, least, most, defaults }
    }

    /// Returns an error if a query with these calls can't be cached because it calls the function.
    pub(super) fn judge(&self, calls: &BTreeSet<FunctionCall>) -> Result<(), Unanalyzable> {
        let own = self.oid < FIRST_OF_USERS;
        let name = format!("{}.{}", self.schema, self.signature);
        match self.volatility.as_str() {
            "i" => Ok(()),
            _ if own && STABLE.contains(&self.signature.as_str()) => Ok(()),
            _ if own && !self.takes(calls) => Ok(()),
            "s" if own => Err(Unanalyzable::SystemFunction(name)),
            "s" => Err(Unanalyzable::StableFunction(name)),
            _ => Err(Unanalyzable::VolatileFunction(name)),
        }
    }

    /// Whether a call by its name has as many arguments as it can take.
    fn takes(&self, calls: &BTreeSet<FunctionCall>) -> bool {
        let mut calls = calls.iter().filter(|call| self.is_named(&call.name)).peekable();
        let fits = |number: usize| {
            i16::try_from(number).is_ok_and(|number| (self.least..=self.most).contains(&number))
        };
        calls.peek().is_none() || calls.any(|call| call.arguments.is_none_or(fits))
    }

    fn is_named(&self, name: &Name) -> bool {
        self.name == name.last() && name.schema().is_none_or(|schema| schema == self.schema)
    }
}
