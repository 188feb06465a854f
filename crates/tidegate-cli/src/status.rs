//! `tidegate status`: the tracked tables, the change log, the replicas and a node.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;
use sqlx::PgConnection;
use tidegate::{ChangeSource, SchemaStatus, TableStatus, TriggerState, TriggerStatus, Triggers};

use super::facts::{Facts, Standby};
use super::output::Output;
use super::service::{Node, Page};
use super::{Failure, UNSOUND};

/// The status, in the form that `--json` prints.
#[derive(Serialize)]
struct Report {
    version: i32,
    outdated: bool,
    /// Whether every change of a tracked table is recorded, as far as the catalogue shows.
    sound: bool,
    log_rows: i64,
    /// A node that was down for less than this many seconds starts warm.
    warm_start_seconds: Option<u64>,
    no_wakeups: Option<String>,
    no_event_trigger: Option<String>,
    /// Tables of the schema `tidegate` that have row security.
    row_security: Vec<String>,
    #[serde(flatten)]
    facts: Facts,
    replicas: Vec<Standby>,
    tables: Vec<Table>,
    /// A node of the running service, if one was named.
    node: Option<Node>,
}

#[derive(Serialize)]
struct Table {
    name: String,
    columns: Vec<String>,
    /// `triggers`, or `wal` if nodes read its changes from the write-ahead log.
    source: &'static str,
    sound: bool,
    /// Triggers that do not fire on every change.
    unsound_triggers: Vec<Trigger>,
    /// Tables of a published family that are not in the publication.
    unpublished: Vec<String>,
    /// Subscriptions that write to it without firing the triggers.
    subscriptions: Vec<String>,
    /// Its children and partitions that are foreign tables, whose changes no trigger records.
    foreign_tables: Vec<String>,
    warnings: Vec<String>,
    /// How to fix it.
    mend: String,
}

#[derive(Serialize)]
struct Trigger {
    table: String,
    event: String,
    state: &'static str,
}

/// Prints the status. The exit code is [`UNSOUND`] if changes can go unrecorded.
pub(crate) async fn show(
    conn: &mut PgConnection,
    page: Option<&Page>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let status = Triggers::status(conn).await?;
    let facts = Facts::read(conn).await?;
    let mut report = Report::new(status, facts, Standby::all(conn).await?);
    if let Some(page) = page {
        match page.node().await {
            Ok(node) => {
                report.sound &= node.untracked.is_empty();
                report.node = Some(node);
            }
            Err(error) => eprintln!("tidegate: the node's status is unknown: {error}"),
        }
    }
    output.print(&report)?;
    Ok(if report.sound { ExitCode::SUCCESS } else { ExitCode::from(UNSOUND) })
}

impl Report {
    fn new(status: SchemaStatus, facts: Facts, replicas: Vec<Standby>) -> Self {
        let tables: Vec<Table> = status.tables.into_iter().map(Table::from).collect();
        Self {
            version: status.version,
            outdated: status.outdated,
            sound: !status.outdated && tables.iter().all(|table| table.sound),
            log_rows: status.log_rows,
            warm_start_seconds: status.oldest_mark.map(|age| age.as_secs()),
            no_wakeups: status.no_wakeups,
            no_event_trigger: status.no_event_trigger,
            row_security: status.row_security,
            facts,
            replicas,
            tables,
            node: None,
        }
    }
}

/// How to fix a table some of whose changes are not recorded.
pub(crate) fn mend(table: &TableStatus) -> String {
    let is_published = table.source == ChangeSource::LogicalReplication;
    if let Some(subscription) = table.subscriptions.first().filter(|_| !is_published) {
        return format!(
            "use Tidegate with the server on which the rows are written, or drop subscription {subscription}"
        );
    }
    if !table.foreign_tables.is_empty() {
        return format!("tidegate uninstall {}", table.name);
    }
    let source = if is_published { "--source wal " } else { "" };
    format!("tidegate install {source}{}:{}", table.name, table.columns.join(","))
}

impl From<TableStatus> for Table {
    fn from(status: TableStatus) -> Self {
        let sound = status.is_sound();
        let mend = mend(&status);
        let triggers = status.triggers.into_iter();
        let unsound = triggers.filter(|trigger| trigger.state != TriggerState::Always);
        let is_published = status.source == ChangeSource::LogicalReplication;
        Self {
            sound,
            source: if is_published { "wal" } else { "triggers" },
            unpublished: status.unpublished,
            unsound_triggers: unsound.map(Trigger::from).collect(),
            subscriptions: if is_published { Vec::new() } else { status.subscriptions },
            foreign_tables: status.foreign_tables,
            mend,
            name: status.name,
            columns: status.columns,
            warnings: status.warnings,
        }
    }
}

impl From<TriggerStatus> for Trigger {
    fn from(status: TriggerStatus) -> Self {
        let state = match status.state {
            TriggerState::Partly => "does not fire on every change",
            TriggerState::Disabled => "is disabled",
            _ => "is missing",
        };
        Self { table: status.table, event: status.event, state }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outdated =
            if self.outdated { ", outdated: run `tidegate install TABLE...` again" } else { "" };
        writeln!(f, "schema version {}{outdated}", self.version)?;
        writeln!(f, "log: {} rows, {} bytes", self.log_rows, self.facts.log_bytes)?;
        if let Some(seconds) = self.warm_start_seconds {
            writeln!(f, "nodes that were down for less than {seconds} s start warm")?;
        }
        if let Some(why) = &self.no_wakeups {
            writeln!(f, "commits do not wake nodes ({why}), so nodes poll every 100 ms")?;
        }
        if let Some(why) = &self.no_event_trigger {
            writeln!(
                f,
                "nodes detect schema changes by comparing the catalogue once a second: {why}"
            )?;
        }
        for table in &self.row_security {
            writeln!(
                f,
                "{table} has row security, which hides changes and, if forced, makes writes fail"
            )?;
        }
        writeln!(f, "connections from nodes: {}", self.facts.connections)?;
        if let Some((seconds, pid)) =
            self.facts.oldest_writer_seconds.zip(self.facts.oldest_writer_pid)
        {
            writeln!(f, "oldest transaction with writes: open for {seconds:.1} s, process {pid}")?;
        }
        self.replicas.iter().try_for_each(|replica| writeln!(f, "{replica}"))?;
        if self.tables.is_empty() {
            write!(f, "no table is tracked")?;
        }
        let tables: Vec<String> = self.tables.iter().map(ToString::to_string).collect();
        write!(f, "{}", tables.join("\n"))?;
        let Some(node) = &self.node else { return Ok(()) };
        write!(f, "\n{node}")?;
        let mut untracked = node.untracked.iter();
        untracked.try_for_each(|name| {
            write!(
                f,
                "\n{name}: read by the service, but not tracked\n    fix: tidegate install {name}"
            )
        })
    }
}

impl fmt::Display for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.as_deref().unwrap_or("local");
        let state = self.state.as_deref().unwrap_or("state unknown");
        write!(f, "replica {} ({address}): {state}", self.name)?;
        if let Some(bytes) = self.lag_bytes {
            write!(f, ", {bytes} bytes behind")?;
        }
        self.lag_seconds.iter().try_for_each(|lag| write!(f, ", replay lag {lag:.3} s"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.columns[..] {
            [] => write!(f, "{}: tracked as a whole", self.name)?,
            columns => write!(f, "{}: tracked by {}", self.name, columns.join(", "))?,
        }
        if self.source == "wal" {
            write!(f, ", from the write-ahead log")?;
        }
        for table in &self.unpublished {
            let why = "so its changes go unnoticed and reads are not cached";
            write!(
                f,
                "\n  {table} is not in the publication tidegate, {why}\n    fix: {}",
                self.mend
            )?;
        }
        for Trigger { table, event, state } in &self.unsound_triggers {
            write!(f, "\n  {table}: the trigger on {event} {state}\n    fix: {}", self.mend)?;
        }
        for subscription in &self.subscriptions {
            let why = "without firing triggers, so reads of the table are not cached";
            write!(
                f,
                "\n  subscription {subscription} writes to it {why}\n    fix: {}",
                self.mend
            )?;
        }
        for foreign in &self.foreign_tables {
            let why = "its server may change it unnoticed, so reads are not cached";
            write!(f, "\n  {foreign} is a foreign table: {why}\n    fix: {}", self.mend)?;
        }
        self.warnings.iter().try_for_each(|warning| write!(f, "\n  {warning}"))
    }
}
