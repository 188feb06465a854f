//! What is tracked, for people.

use std::process::ExitCode;

use sqlx::PgConnection;
use tidegate::{Status, TableStatus, TriggerState, Triggers};

use super::Failure;

/// Prints the status; the exit code tells whether every change is seen.
pub(crate) async fn show(conn: &mut PgConnection) -> Result<ExitCode, Failure> {
    let status = Triggers::status(conn).await?;
    print(&status);
    let sound = status.tables.iter().all(TableStatus::is_sound) && !status.outdated;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn print(status: &Status) {
    let outdated =
        if status.outdated { ", outdated: run `tidegate install TABLE...` again" } else { "" };
    println!("schema version {}{outdated}", status.version);
    println!("log: {} rows", status.log_rows);
    if let Some(age) = status.oldest_mark {
        println!("nodes that were away for less than {} s start warm", age.as_secs());
    }
    if let Some(why) = &status.no_wakeups {
        println!("commits wake nobody: {why}; changes are seen within 100 ms");
    }
    if status.tables.is_empty() {
        println!("no table is tracked");
    }
    status.tables.iter().for_each(print_table);
}

fn print_table(table: &TableStatus) {
    let columns = match &table.columns[..] {
        [] => "as a whole".to_owned(),
        columns => format!("by {}", columns.join(", ")),
    };
    println!("{}: tracked {columns}", table.name);
    for trigger in &table.triggers {
        let state = match trigger.state {
            TriggerState::Always => continue,
            TriggerState::Partly => "does not fire on every change",
            TriggerState::Disabled => "is disabled",
            _ => "is missing",
        };
        println!("  {}: the trigger on {} {state}", trigger.table, trigger.event);
        println!("    mend: tidegate install {}:{}", table.name, table.columns.join(","));
    }
    for warning in &table.warnings {
        println!("  {warning}");
    }
}
