//! Functions that are declared IMMUTABLE, and whether the catalogue shows that they read something all the same.
//!
//! A body that Postgres keeps as a tree (`BEGIN ATOMIC`, `RETURN`) shows all that it reads and calls, and is
//! followed. One that it keeps as text shows it in SQL and PL/pgSQL, save what text of its own it runs by EXECUTE.
//! In other languages the declaration is all that there is.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::Stop;
use super::operators::UNSEEN;
use super::stable::STABLE;
use crate::postgres::dependencies::Unfit;
use crate::postgres::dependencies::body::{self, Calls};

/// The first number that an object of a user's can have (`FirstNormalObjectId`).
pub(super) const FIRST_OF_USERS: i64 = 16_384;

/// In a tree, `rtekind 0` is a relation that is read, and a `SQLVALUEFUNCTION` a keyword as `CURRENT_USER`. The tree is
/// text of a fixed form, in which names and strings of the user's have their blanks and braces escaped. A text calls the
/// user's functions by name ($2), also after a dot ($3), and by an operator that is in one of its runs ($4, not empty if
/// there is any text), or by a cast, which need not be written.
const BODIES: &str = r"
with wanted (oid) as (
    select pg_catalog.unnest($1::int8[])::oid
    union
    select f.oid from pg_catalog.pg_proc f where f.proname = any ($2::text[]) and f.oid >= '16384'::oid
    union
    select f.oid from pg_catalog.pg_proc f where f.proname = any ($3::text[]) and f.oid >= '16384'::oid
        and f.pronargs >= 1 and f.pronargs - f.pronargdefaults <= 1
    union
    select o.oprcode::oid from pg_catalog.pg_operator o where o.oid >= '16384'::oid
        and exists (select from pg_catalog.unnest($4::text[]) run where pg_catalog.strpos(run, o.oprname::text) > 0)
    union
    select c.castfunc from pg_catalog.pg_cast c
    where c.oid >= '16384'::oid and pg_catalog.cardinality($4::text[]) > 0
)
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
    let mut texts = Texts::default();
    while !next.is_empty() || !texts.operators.is_empty() {
        let rows = select(conn, &next, &texts).await?;
        next.clear();
        texts = Texts::default();
        for body in rows.into_iter().map(Body::new) {
            if seen.insert((body.oid, called.contains(&body.oid))) {
                texts.add(body.judge(called.contains(&body.oid))?);
                called.extend(&body.calls);
                next.extend(body.calls);
            }
        }
    }
    Ok(())
}

/// What texts call by name. Any text may use the operators of [`UNSEEN`].
#[derive(Default)]
struct Texts {
    functions: Vec<String>,
    attributes: Vec<String>,
    operators: Vec<String>,
}

impl Texts {
    fn add(&mut self, calls: Option<Calls>) {
        let Some(calls) = calls else { return };
        self.functions.extend(calls.functions);
        self.attributes.extend(calls.attributes);
        self.operators.extend(calls.operators);
        self.operators.extend(UNSEEN.iter().map(|&operator| operator.to_owned()));
    }
}

async fn select(
    conn: &mut PgConnection,
    oids: &[i64],
    texts: &Texts,
) -> Result<Vec<Row>, sqlx::Error> {
    let query = sqlx::query_as(BODIES).bind(oids).bind(&texts.functions);
    query.bind(&texts.attributes).bind(&texts.operators).fetch_all(conn).await
}

impl Body {
    fn new((oid, name, signature, volatility, language, text, reads, calls): Row) -> Self {
        Self { oid, name, signature, volatility, language, text, reads, calls }
    }

    /// What it calls, as far as that is known by text alone.
    fn judge(&self, is_called: bool) -> Result<Option<Calls>, Unfit> {
        let reading = || Unfit::ReadingFunction(self.name.clone());
        if is_called && self.volatility == "v" {
            return Err(Unfit::VolatileFunction(self.name.clone()));
        }
        if self.reads || (is_called && !self.is_harmless()) {
            return Err(reading());
        }
        match &self.text {
            Some(text) if matches!(self.language.as_str(), "sql" | "plpgsql") => {
                body::calls(text).map(Some).ok_or_else(reading)
            }
            _ => Ok(None),
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
