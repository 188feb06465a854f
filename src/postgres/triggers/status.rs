//! Reports the installed schema and triggers, and whether they work.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};

use super::error::{SchemaError, within};
use super::schema::{VERSION, installed_version};
use super::source::ChangeSource;

/// The first version of the schema that has event triggers.
const WITH_EVENT_TRIGGERS: i32 = 5;

/// The installed schema and triggers, and their problems.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SchemaStatus {
    /// The version of the schema.
    pub version: i32,
    /// Whether the next install would replace the schema, or repair its tables.
    pub outdated: bool,
    /// Each tracked family of tables.
    pub tables: Vec<TableStatus>,
    /// Why commits do not wake listeners; `None` if they do. Without wake-ups, nodes poll the log every 100 ms.
    pub no_wakeups: Option<String>,
    /// Why event triggers don't record schema changes; `None` if they do. Only a superuser (on RDS `rds_superuser`) may
    /// create event triggers, and that role must own the schema `tidegate`. Without them, nodes compare the catalogue once
    /// a second.
    pub no_event_trigger: Option<String>,
    /// The tables in schema `tidegate` that have row security, which hides changes from nodes. If it is forced, writes to
    /// tracked tables fail. The next install removes it.
    pub row_security: Vec<String>,
    /// The number of rows in the log.
    pub log_rows: i64,
    /// The age of the oldest mark. Listeners regularly record a mark, which lets a node that starts later use entries
    /// that were stored since then.
    pub oldest_mark: Option<Duration>,
}

impl SchemaStatus {
    /// A tracked table, by the name of its topmost parent.
    pub fn table(&self, name: &str) -> Option<&TableStatus> {
        self.tables.iter().find(|table| table.name == name)
    }
}

/// A table that is tracked, with all that inherits from it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TableStatus {
    /// The name in tags, that of the topmost parent.
    pub name: String,
    /// The columns that changes are keyed by.
    pub columns: Vec<String>,
    /// How nodes find out about its changes.
    pub source: ChangeSource,
    /// Four for each table of the family; none if the family is published.
    pub triggers: Vec<TriggerStatus>,
    /// The tables of a published family that the publication `tidegate` does not cover. Their changes would go
    /// unnoticed, so reads of the family are not cached.
    pub unpublished: Vec<String>,
    /// The subscriptions that write to any table of the family. Replicated changes fire no statement trigger, so unless
    /// the family is published, its reads are not cached.
    pub subscriptions: Vec<String>,
    /// The foreign tables of the family. Their server may change them without a trigger, so reads of the family are not
    /// cached.
    pub foreign_tables: Vec<String>,
    /// Further problems, such as changes that go unnoticed or writes that fail. Each message describes a cause and its
    /// effect.
    pub warnings: Vec<String>,
}

impl TableStatus {
    /// Whether every change is recorded: the family has no foreign table, and either the publication covers all its
    /// tables, or all its triggers fire on every change and no subscription writes to it.
    /// This does not consider [`warnings`](Self::warnings).
    pub fn is_sound(&self) -> bool {
        let always = |trigger: &TriggerStatus| trigger.state == TriggerState::Always;
        self.foreign_tables.is_empty()
            && match self.source {
                ChangeSource::Triggers => {
                    self.subscriptions.is_empty() && self.triggers.iter().all(always)
                }
                ChangeSource::LogicalReplication => self.unpublished.is_empty(),
            }
    }
}

/// One trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TriggerStatus {
    /// The table or partition, by its own name.
    pub table: String,
    /// `insert`, `update`, `delete` or `truncate`.
    pub event: String,
    /// Whether it fires.
    pub state: TriggerState,
}

/// Whether a trigger fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TriggerState {
    /// On every change.
    Always,
    /// It fires on all changes except replicated ones, or only on those.
    Partly,
    /// Never.
    Disabled,
    /// There is no trigger: it was dropped, or the partition was added after the install.
    Missing,
}

/// A trigger that a table should have, with the state of the table's family.
struct TriggerRow {
    root: String,
    member: String,
    event: String,
    enabled: Option<String>,
    published: bool,
    unpublished: bool,
    unidentified: bool,
    columns: Vec<String>,
    warnings: Vec<String>,
    subscriptions: Vec<String>,
    foreign_tables: Vec<String>,
}

impl FromRow<'_, PgRow> for TriggerRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            root: row.try_get("root")?,
            member: row.try_get("member")?,
            event: row.try_get("event")?,
            enabled: row.try_get("enabled")?,
            published: row.try_get("published")?,
            unpublished: row.try_get("unpublished")?,
            unidentified: row.try_get("unidentified")?,
            columns: row.try_get("columns")?,
            warnings: row.try_get("warnings")?,
            subscriptions: row.try_get("subscriptions")?,
            foreign_tables: row.try_get("foreign_tables")?,
        })
    }
}

pub(super) async fn read(conn: &mut PgConnection) -> Result<SchemaStatus, SchemaError> {
    let version = installed_version(conn).await?.ok_or(SchemaError::NotInstalled)?;
    let triggers: Vec<TriggerRow> =
        sqlx::query_as(include_str!("../sql/status.sql")).fetch_all(&mut *conn).await?;
    let guarded = version < 5 || {
        let guarded =
            sqlx::query_scalar("select tidegate.is_guarded()").fetch_one(&mut *conn).await;
        guarded.map_err(within("the schema tidegate"))?
    };
    let no_event_trigger = no_event_trigger(&mut *conn, version).await?;
    let facts = "select tidegate.no_wakeups(), (select count(*) from tidegate.log),
        (select extract(epoch from clock_timestamp() - min(at))::float8 from tidegate.own_marks),
        array(select 'tidegate.' || relname from pg_catalog.pg_class where relnamespace = 'tidegate'::regnamespace
            and relkind = 'r' and (relrowsecurity or relforcerowsecurity) order by 1)";
    let facts = sqlx::query_as(facts).fetch_one(conn).await.map_err(within("the schema tidegate"));
    let (no_wakeups, log_rows, oldest, row_security): (_, _, Option<f64>, _) = facts?;
    let oldest_mark = oldest.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)));
    let (outdated, tables) = (version < VERSION || !guarded, families(triggers));
    Ok(SchemaStatus {
        version,
        outdated,
        tables,
        no_wakeups,
        no_event_trigger,
        row_security,
        log_rows,
        oldest_mark,
    })
}

async fn no_event_trigger(
    conn: &mut PgConnection,
    version: i32,
) -> Result<Option<String>, SchemaError> {
    if version < WITH_EVENT_TRIGGERS {
        return Ok(Some(
            "the installed version of the schema has none: run `tidegate install` again".to_owned(),
        ));
    }
    let why = sqlx::query_scalar("select tidegate.no_event_trigger()").fetch_one(conn).await;
    why.map_err(within("the schema tidegate"))
}

fn families(triggers: Vec<TriggerRow>) -> Vec<TableStatus> {
    let mut families: BTreeMap<String, TableStatus> = BTreeMap::new();
    for trigger in triggers {
        let source = match trigger.published {
            true => ChangeSource::LogicalReplication,
            false => ChangeSource::Triggers,
        };
        let family = families.entry(trigger.root.clone()).or_insert_with(|| TableStatus {
            name: trigger.root,
            columns: trigger.columns,
            source,
            triggers: Vec::new(),
            unpublished: Vec::new(),
            subscriptions: trigger.subscriptions,
            foreign_tables: trigger.foreign_tables,
            warnings: trigger.warnings,
        });
        if trigger.published {
            // Each table comes once for each event.
            if trigger.event == "insert" {
                if trigger.unidentified {
                    family.warnings.push(format!(
                        "{} does not have REPLICA IDENTITY FULL: a change of it may count as a change of all rows, and \
                         UPDATE and DELETE fail if it has no replica identity at all",
                        trigger.member
                    ));
                }
                family.unpublished.extend(trigger.unpublished.then_some(trigger.member));
            }
            continue;
        }
        let state = state(trigger.enabled.as_deref());
        family.triggers.push(TriggerStatus { table: trigger.member, event: trigger.event, state });
    }
    families.into_values().collect()
}

fn state(enabled: Option<&str>) -> TriggerState {
    match enabled {
        Some("A") => TriggerState::Always,
        Some("D") => TriggerState::Disabled,
        Some(_) => TriggerState::Partly,
        None => TriggerState::Missing,
    }
}
