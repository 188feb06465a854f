//! Tables, their inheritance tree, and whether every change to them is recorded.
//!
//! A statement fires the triggers of the table that it names, whichever table of the tree holds the rows. So a read is
//! covered if the table, all its ancestors and all its descendants have triggers, or if all that hold rows are
//! published; the tag is the topmost parent's.

use sqlx::PgConnection;

use super::relations::Relation;
use super::search_stop::SearchStop;
use crate::postgres::dependencies::{TrackedTable, Unanalyzable, tag_name};

// A column of type oid can't restrict rows: since Postgres 16, '010' is the oid 8. Nor can one with a nondeterministic
// collation, by which different texts are equal; a column can get such a collation after its triggers were created.
const FAMILY: &str = "
with recursive up (oid) as (
    select $1::int8::oid
    union
    select i.inhparent from pg_catalog.pg_inherits i join up on i.inhrelid = up.oid
), down (oid) as (
    select $1::int8::oid
    union
    select i.inhrelid from pg_catalog.pg_inherits i join down on i.inhparent = down.oid
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    -- Which no statement of ours reads.
    where not pg_catalog.pg_is_other_temp_schema(c.relnamespace)
), family as (
    select oid from up union select oid from down
), published (oid) as (
    select r.prrelid from pg_catalog.pg_publication p
    join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
    where p.pubname = 'tidegate' and p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate and not p.pubviaroot
      -- Postgres 14 has no row filters, and no column for them.
      and pg_catalog.to_jsonb(r) ->> 'prqual' is null
    union
    select i.inhrelid from published p
    join pg_catalog.pg_inherits i on i.inhparent = p.oid and not i.inhdetachpending
    join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relispartition
)
select c.oid::int8, s.nspname::text, c.relname::text, c.relkind::text,
       (select pg_catalog.count(*) from pg_catalog.pg_inherits i where i.inhrelid = c.oid),
       (select pg_catalog.count(distinct t.tgname)
        from pg_catalog.pg_trigger t
        join pg_catalog.pg_proc p on p.oid = t.tgfoid
        join pg_catalog.pg_namespace o on o.oid = p.pronamespace
        where t.tgrelid = c.oid and o.nspname = 'tidegate' and t.tgenabled = 'A'
          and t.tgqual is null and pg_catalog.cardinality(t.tgattr::int2[]) = 0
          and t.tgname in ('tidegate_insert', 'tidegate_update', 'tidegate_delete',
                           'tidegate_truncate')) = 4,
       exists (select from pg_catalog.pg_subscription_rel s where s.srrelid = c.oid),
       array(select a.attname::text
             from pg_catalog.pg_trigger t
             join pg_catalog.pg_proc p on p.oid = t.tgfoid
             join pg_catalog.pg_namespace o on o.oid = p.pronamespace
             cross join lateral pg_catalog.unnest(pg_catalog.string_to_array(
                 pg_catalog.split_part(pg_catalog.encode(t.tgargs, 'escape'), E'\\\\000', 2), ' ')) number
             join pg_catalog.pg_attribute a
               on a.attrelid = t.tgrelid and a.attnum::text = number and not a.attisdropped
             where t.tgrelid = c.oid and o.nspname = 'tidegate'
               and a.atttypid <> 'pg_catalog.oid'::pg_catalog.regtype::oid
               and not exists (select from pg_catalog.pg_collation l
                               where l.oid = a.attcollation and not l.collisdeterministic)
               and t.tgname in ('tidegate_insert', 'tidegate_update', 'tidegate_delete', 'tidegate_published')
             group by a.attname, a.attnum
             having pg_catalog.count(*) = 3 or pg_catalog.bool_or(t.tgname = 'tidegate_published')
             order by not exists (select from pg_catalog.pg_index i
                                  where i.indrelid = c.oid and i.indisprimary
                                    and a.attnum = any (i.indkey::int2[])), a.attnum),
       -- Another access method than heap may not write its changes for logical replication.
       c.relkind <> 'r' or c.relpersistence = 'p' and c.oid in (select p.oid from published p)
           and exists (select from pg_catalog.pg_am m where m.oid = c.relam and m.amname = 'heap')
from family f
join pg_catalog.pg_class c on c.oid = f.oid
join pg_catalog.pg_namespace s on s.oid = c.relnamespace";

struct FamilyMember {
    oid: i64,
    name: String,
    kind: String,
    parents: i64,
    tracked: bool,
    /// Whether a subscription writes to it: what it applies fires no statement trigger.
    subscribed: bool,
    /// The columns that all its triggers tag, by the second of their arguments.
    columns: Vec<String>,
    /// Whether its changes are in the stream of the publication, if it holds rows.
    published: bool,
}

/// The topmost parent of a table: its oid, and the dependency that a result records.
pub(super) async fn tracked(
    conn: &mut PgConnection,
    table: &Relation,
) -> Result<(i64, TrackedTable), SearchStop> {
    let family = family(conn, table.oid).await?;
    if family.iter().any(|member| member.parents > 1) {
        return Err(Unanalyzable::SeveralParents(table.name.clone()).into());
    }
    let unknown = || Unanalyzable::UnknownRelation(table.name.clone());
    let root = family.iter().find(|member| member.parents == 0).ok_or_else(unknown)?;
    let is_published = family.iter().all(|member| member.published);
    for member in &family {
        if member.kind == "f" {
            return Err(Unanalyzable::ForeignTable(member.name.clone()).into());
        }
        if is_published {
            continue;
        }
        if member.subscribed {
            return Err(Unanalyzable::SubscribedTable(member.name.clone()).into());
        }
        if !member.tracked {
            return Err(Unanalyzable::UntrackedTable(member.name.clone(), root.name.clone()).into());
        }
    }
    let tagged = |column: &String| family.iter().all(|member| member.columns.contains(column));
    let columns = root.columns.iter().filter(|column| tagged(column)).cloned().collect();
    Ok((
        root.oid,
        TrackedTable { name: root.name.clone(), columns, by: Vec::new(), compared: Vec::new() },
    ))
}

async fn family(conn: &mut PgConnection, oid: i64) -> Result<Vec<FamilyMember>, sqlx::Error> {
    type Row = (i64, String, String, String, i64, bool, bool, Vec<String>, bool);
    let rows: Vec<Row> = sqlx::query_as(FAMILY).bind(oid).fetch_all(conn).await?;
    let member = |row: Row| {
        let (oid, schema, name, kind, parents, tracked, subscribed, columns, published) = row;
        let name = tag_name(&schema, &name);
        FamilyMember { oid, name, kind, parents, tracked, subscribed, columns, published }
    };
    Ok(rows.into_iter().map(member).collect())
}
