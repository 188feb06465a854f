//! Functions that are declared IMMUTABLE, and whether the catalogue shows that they read something all the same.
//!
//! A body that Postgres keeps as a tree (`BEGIN ATOMIC`, `RETURN`) shows all that it reads and calls, and is
//! followed. One that it keeps as text shows it in SQL and PL/pgSQL, save what text of its own it runs by EXECUTE.
//! In other languages the declaration is all that there is.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::Stop;
use super::stable::STABLE;
use crate::postgres::dependencies::{Unfit, body};

/// The first number that an object of a user's can have (`FirstNormalObjectId`).
pub(super) const FIRST_OF_USERS: i64 = 16_384;

/// In a tree, `rtekind 0` is a relation that is read, and a `SQLVALUEFUNCTION` a keyword as `CURRENT_USER`. The tree is
/// text of a fixed form, in which names and strings of the user's have their blanks and braces escaped.
const BODIES: &str = r"
select p.oid::int8, n.nspname::text || '.' || p.proname::text,
       p.proname::text || '(' || pg_catalog.oidvectortypes(p.proargtypes) || ')',
       p.provolatile::text, l.lanname::text,
       case when p.prosqlbody is null and p.oid >= '16384'::oid then p.prosrc end,
       tree.text ~ '(:rtekind 0 |[{]SQLVALUEFUNCTION )',
       array(
           select part::int8 from pg_catalog.pg_aggregate a cross join lateral pg_catalog.unnest(array[
               a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
               a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) part
           where a.aggfnoid::oid = p.oid and p.oid >= '16384'::oid and part <> '0'::oid
           union
           select case when m[1] in ('opno', 'eqop', 'sortop') then o.oprcode::oid::int8 else m[2]::int8 end
           from pg_catalog.regexp_matches(tree.text,
               ':(funcid|aggfnoid|winfnoid|opno|eqop|sortop) (\d+)', 'g') m
           left join pg_catalog.pg_operator o on o.oid = m[2]::oid
           where m[1] not in ('opno', 'eqop', 'sortop') or o.oprcode::oid >= '16384'::oid
       )
from pg_catalog.pg_proc p
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
join pg_catalog.pg_language l on l.oid = p.prolang
cross join lateral (
    select coalesce(p.prosqlbody::text, '') || coalesce(p.proargdefaults::text, '') as text
    where p.oid >= '16384'::oid union all select '' where p.oid < '16384'::oid
) tree
where p.oid = any (select pg_catalog.unnest($1::int8[])::oid)
   or (p.proname = any ($2::text[]) and p.oid >= '16384'::oid)";

type Row = (i64, String, String, String, String, Option<String>, bool, Vec<i64>);

struct Body {
    oid: i64,
    name: String,
    signature: String,
    volatility: String,
    language: String,
    text: Option<String>,
    reads: bool,
    /// Functions that its tree calls, or that an aggregate is made of.
    calls: Vec<i64>,
}

/// Refuses functions whose bodies, or those of what they call, read. Their own volatility has been judged.
pub(super) async fn check(conn: &mut PgConnection, functions: &[i64]) -> Result<(), Stop> {
    let mut seen = BTreeSet::new();
    let own = |oid: &i64| *oid < FIRST_OF_USERS;
    let mut next: Vec<i64> = functions.iter().copied().filter(|oid| !own(oid)).collect();
    // What a tree calls for sure, so that its volatility counts too; a name in a text may mean another function.
    let mut called: BTreeSet<i64> = BTreeSet::new();
    let mut names: Vec<String> = Vec::new();
    while !next.is_empty() || !names.is_empty() {
        let rows: Vec<Row> =
            sqlx::query_as(BODIES).bind(&next).bind(&names).fetch_all(&mut *conn).await?;
        next.clear();
        names.clear();
        for body in rows.into_iter().map(Body::new) {
            if seen.insert((body.oid, called.contains(&body.oid))) {
                names.extend(body.judge(called.contains(&body.oid))?);
                called.extend(&body.calls);
                next.extend(body.calls);
            }
        }
    }
    Ok(())
}

impl Body {
    fn new((oid, name, signature, volatility, language, text, reads, calls): Row) -> Self {
        Self { oid, name, signature, volatility, language, text, reads, calls }
    }

    /// The names of what it calls, as far as they are known by text alone.
    fn judge(&self, is_called: bool) -> Result<BTreeSet<String>, Unfit> {
        let reading = || Unfit::ReadingFunction(self.name.clone());
        if is_called && self.volatility == "v" {
            return Err(Unfit::VolatileFunction(self.name.clone()));
        }
        if self.reads || (is_called && !self.is_harmless()) {
            return Err(reading());
        }
        match &self.text {
            Some(text) if matches!(self.language.as_str(), "sql" | "plpgsql") => {
                body::calls(text).ok_or_else(reading)
            }
            _ => Ok(BTreeSet::new()),
        }
    }

    /// Whether its declaration says that it reads nothing. Extensions declare functions in C stable that depend on
    /// their settings.
    fn is_harmless(&self) -> bool {
        match self.volatility.as_str() {
            "i" => true,
            _ if self.oid < FIRST_OF_USERS => STABLE.contains(&self.signature.as_str()),
            "s" => self.language == "c",
            _ => false,
        }
    }
}
