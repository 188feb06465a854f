//! Relations by name, and the parts of views.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::search_stop::SearchStop;
use crate::postgres::dependencies::{Name, Unanalyzable, tag_name};

/// A relation that a query reads.
#[derive(Debug)]
pub(super) struct Relation {
    pub(super) oid: i64,
    pub(super) name: String,
    schema: String,
    kind: String,
    persistence: String,
    row_security: bool,
}

/// How a relation is followed.
pub(super) enum RelationKind {
    Table,
    View,
}

/// A view's text, and its dependencies as recorded by the server. Both are followed: the server records no system objects,
/// and the text can only be parsed.
pub(super) struct View {
    pub(super) text: String,
    pub(super) relations: Vec<i64>,
    pub(super) functions: Vec<i64>,
}

type RelationRow = (i64, String, String, String, String, bool);

const NAMED: &str = "
select coalesce(c.oid, 0), coalesce(c.name, ''), coalesce(c.schema, ''), coalesce(c.kind, ''),
       coalesce(c.persistence, ''), coalesce(c.row_security, false)
from unnest($1::text[], $2::text[]) with ordinality as wanted(schema, name, place)
left join lateral (
    select c.oid::int8 as oid, c.relname::text as name, s.nspname::text as schema,
           c.relkind::text as kind, c.relpersistence::text as persistence,
           c.relrowsecurity as row_security
    from pg_catalog.pg_class c join pg_catalog.pg_namespace s on s.oid = c.relnamespace
    where c.relname = wanted.name
      and case when wanted.schema is null then pg_catalog.pg_table_is_visible(c.oid)
               else s.nspname = wanted.schema end
) c on true
order by wanted.place";

const BY_OID: &str = "
select c.oid::int8, c.relname::text, s.nspname::text, c.relkind::text, c.relpersistence::text,
       c.relrowsecurity
from pg_catalog.pg_class c join pg_catalog.pg_namespace s on s.oid = c.relnamespace
where c.oid = any (select pg_catalog.unnest($1::int8[])::oid)";

const VIEW: &str = "
select coalesce(pg_catalog.pg_get_viewdef($1::int8::oid), ''),
       array(select distinct d.refobjid::int8
             from pg_catalog.pg_rewrite r join pg_catalog.pg_depend d
               on d.classid = 'pg_catalog.pg_rewrite'::regclass::oid and d.objid = r.oid
             where r.ev_class = $1::int8::oid and r.ev_type = '1'
               and d.refclassid = 'pg_catalog.pg_class'::regclass::oid and d.refobjid <> r.ev_class),
       array(select distinct d.refobjid::int8
             from pg_catalog.pg_rewrite r join pg_catalog.pg_depend d
               on d.classid = 'pg_catalog.pg_rewrite'::regclass::oid and d.objid = r.oid
             where r.ev_class = $1::int8::oid and r.ev_type = '1'
               and d.refclassid = 'pg_catalog.pg_proc'::regclass::oid)";

/// The relations that these names mean to this connection.
pub(super) async fn named(
    conn: &mut PgConnection,
    names: &BTreeSet<Name>,
) -> Result<Vec<Relation>, SearchStop> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let schemas: Vec<Option<String>> =
        names.iter().map(|name| name.schema().map(str::to_owned)).collect();
    let lasts: Vec<String> = names.iter().map(|name| name.last().to_owned()).collect();
    let rows: Vec<RelationRow> =
        sqlx::query_as(NAMED).bind(schemas).bind(lasts).fetch_all(conn).await?;
    let found = rows.into_iter().zip(names).map(|(row, name)| match Relation::new(row) {
        Relation { oid: 0, .. } => Err(Unanalyzable::UnknownRelation(name.to_string()).into()),
        relation => Ok(relation),
    });
    found.collect()
}

/// The relations of these oids.
pub(super) async fn by_oid(
    conn: &mut PgConnection,
    oids: &[i64],
) -> Result<Vec<Relation>, sqlx::Error> {
    let rows: Vec<RelationRow> = sqlx::query_as(BY_OID).bind(oids).fetch_all(conn).await?;
    Ok(rows.into_iter().map(Relation::new).collect())
}

/// The parts of a view.
pub(super) async fn view(
    conn: &mut PgConnection,
    relation: &Relation,
) -> Result<View, sqlx::Error> {
    let (text, relations, functions) =
        sqlx::query_as(VIEW).bind(relation.oid).fetch_one(conn).await?;
    Ok(View { text, relations, functions })
}

impl Relation {
    fn new((oid, name, schema, kind, persistence, row_security): RelationRow) -> Self {
        Self { oid, name: tag_name(&schema, &name), schema, kind, persistence, row_security }
    }

    /// Determines how it is followed, or why it can't be.
    pub(super) fn judge(&self) -> Result<RelationKind, Unanalyzable> {
        let name = self.name.clone();
        if self.schema == "information_schema" || self.schema.starts_with("pg_") {
            // A temporary schema has such a name too.
            return Err(if self.persistence == "t" {
                Unanalyzable::TemporaryTable(name)
            } else {
                Unanalyzable::System(name)
            });
        }
        match self.kind.as_str() {
            _ if self.row_security => Err(Unanalyzable::RowSecurity(name)),
            "r" | "p" => Ok(RelationKind::Table),
            "v" => Ok(RelationKind::View),
            "m" => Err(Unanalyzable::MaterializedView(name)),
            "f" => Err(Unanalyzable::ForeignTable(name)),
            "S" => Err(Unanalyzable::Sequence(name)),
            _ => Err(Unanalyzable::UnknownKind(name)),
        }
    }
}
