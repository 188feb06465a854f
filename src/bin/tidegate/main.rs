//! The command `tidegate`: installs, inspects and removes what Postgres needs for invalidation.

#![forbid(unsafe_code)]

mod arguments;
#[cfg(feature = "check")]
mod check;
mod status;

use std::process::ExitCode;

use arguments::{Arguments, Command, SchemaCommand, Table};
use clap::Parser;
use tidegate::{DatabaseOptions, Triggers};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidegate: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Schema(command) => on_schema(arguments.url, command).await,
        #[cfg(feature = "check")]
        Command::Check(options) => check::run(options).await,
        #[cfg(feature = "check")]
        Command::CheckNode => check::node::serve().await.map(|()| ExitCode::SUCCESS),
    }
}

async fn on_schema(url: Option<String>, command: SchemaCommand) -> Result<ExitCode, Failure> {
    let url = url.ok_or("say where the primary is: --url or POSTGRES_PRIMARY_URL")?;
    let db = DatabaseOptions::new(url).connections(1).connect().await?;
    let mut conn = db.primary().acquire().await?;
    match command {
        SchemaCommand::Install { tables, row_limit } => {
            triggers(&tables).row_limit(row_limit).install(&mut conn).await?;
            return status::show(&mut conn).await;
        }
        SchemaCommand::Uninstall { all: true, .. } => Triggers::uninstall_all(&mut conn).await?,
        SchemaCommand::Uninstall { tables, .. } => triggers(&tables).uninstall(&mut conn).await?,
        SchemaCommand::Grant { role } => Triggers::grant(&mut conn, &role).await?,
        SchemaCommand::Status => return status::show(&mut conn).await,
        SchemaCommand::Invalidate { tags } => {
            drop(conn);
            db.invalidate(tags).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn triggers(tables: &[Table]) -> Triggers {
    tables.iter().fold(Triggers::new(), |triggers, table| {
        let columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
        triggers.columns(&table.name, &columns)
    })
}
