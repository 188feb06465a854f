//! The command `tidegate`: installs, inspects and removes what Postgres needs for invalidation, and asks a
//! running service what its cache does.

#![forbid(unsafe_code)]

mod arguments;
mod bench;
mod doctor;
mod facts;
mod output;
mod progress;
mod service;
mod status;
mod watch;

use std::process::ExitCode;

use arguments::{Arguments, Command, SchemaCommand, Table, Tables};
use clap::{CommandFactory, Parser};
use output::{Output, text};
use sqlx::{Connection, PgConnection};
use tidegate::{DatabaseOptions, Triggers};

type Failure = Box<dyn std::error::Error>;

/// The exit code if a check found something to fix. 1 means that the command itself failed.
const UNSOUND: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        // The reader closed the pipe, as `head` does.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let output = Output::new(arguments.json);
    match arguments.command {
        Command::Schema(command) => on_schema(arguments.url, command, output).await,
        Command::Migration { tables } if !tables.auto => text(&named(&tables).migration()),
        Command::Migration { tables } => {
            let mut conn = PgConnection::connect(&url(arguments.url)?).await?;
            text(&triggers(&tables, &mut conn).await?.migration())
        }
        Command::Doctor(servers) => doctor::examine(&url(arguments.url)?, servers, output).await,
        Command::Explain { request, headers, page } => {
            page.explain(&request, &headers, output).await
        }
        Command::Suggest(page) => page.suggest(output).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "tidegate", &mut script);
            text(&String::from_utf8_lossy(&script))
        }
        Command::Man => text(&manual()?),
        Command::Bench(bench) => bench::run(bench, output).await,
    }
}

async fn on_schema(
    given: Option<String>,
    command: SchemaCommand,
    output: Output,
) -> Result<ExitCode, Failure> {
    let db = DatabaseOptions::new(url(given)?).connections(1).connect().await?;
    let mut conn = db.primary().acquire().await?;
    match command {
        SchemaCommand::Install { tables } => {
            triggers(&tables, &mut conn).await?.install(&mut conn).await?;
            return status::show(&mut conn, None, output).await;
        }
        SchemaCommand::Uninstall { all: true, .. } => Triggers::uninstall_all(&mut conn).await?,
        SchemaCommand::Uninstall { tables, .. } => {
            add(Triggers::new(), &tables).uninstall(&mut conn).await?;
        }
        SchemaCommand::Grant { role } => Triggers::grant(&mut conn, &role).await?,
        SchemaCommand::Status(page) => {
            let page = page.is_known().then_some(&page);
            return status::show(&mut conn, page, output).await;
        }
        SchemaCommand::Watch { count } => {
            drop(conn);
            return watch::follow(&db, count, output).await;
        }
        SchemaCommand::Invalidate { tags } => {
            drop(conn);
            db.invalidate(tags).await?;
        }
    }
    output.done()
}

fn url(given: Option<String>) -> Result<String, Failure> {
    Ok(given.ok_or("name the primary with --url or POSTGRES_PRIMARY_URL")?)
}

/// The tables that the arguments name, or all of them.
async fn triggers(tables: &Tables, conn: &mut PgConnection) -> Result<Triggers, Failure> {
    if !tables.auto {
        return Ok(named(tables));
    }
    if !tables.tables.is_empty() {
        return Ok(named(tables).foreign_keys(conn).await?);
    }
    let (found, untrackable) = Triggers::discover(conn).await?;
    for reason in untrackable {
        eprintln!("not tracked: {reason}");
    }
    Ok(found.row_limit(tables.row_limit).source(tables.source.into()))
}

fn named(tables: &Tables) -> Triggers {
    let triggers = Triggers::new().row_limit(tables.row_limit).source(tables.source.into());
    add(triggers, &tables.tables)
}

fn add(triggers: Triggers, tables: &[Table]) -> Triggers {
    tables.iter().fold(triggers, |triggers, table| {
        let columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
        triggers.columns(&table.name, &columns)
    })
}

/// The manual page, with a section for each command.
fn manual() -> Result<String, Failure> {
    let mut page = Vec::new();
    let mut command = Arguments::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let man = clap_mangen::Man::new(command.clone());
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    Ok(String::from_utf8(page)?)
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
