//! The cost for writers of recording changes: `pgbench` on tables that differ only in what records their changes.

use std::fmt::{Display, Formatter};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use sqlx::postgres::PgListener;
use sqlx::{Connection, PgConnection};
use tidegate::{Cache, ChangeSource, DatabaseOptions, Listener, Memory, Triggers};
use tidegate_testing::{Postgres, Scratch};
use tokio::task::JoinHandle;

use super::pgbench::pgbench;
use super::spread::Spread;
use crate::Failure;
use crate::output::Output;

/// The write load.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of concurrent clients; separate several with commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    clients: Vec<u32>,
    /// Rounds for each number of clients, in alternating order
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Duration of the writes to each table in a round, in seconds
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Number of rows of each table
    #[arg(long, default_value_t = 100_000)]
    rows: u32,
    /// Turn fsync off: commits do not wait for the disk, so the share of the triggers is larger
    #[arg(long)]
    no_fsync: bool,
}

/// What records a table's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Table {
    Untriggered,
    /// Tidegate's triggers, and a node that follows the log.
    Tracked,
    /// A trigger that sends a `NOTIFY` for each changed row, as is often advised, and a listener.
    Notifying,
    /// No trigger: a node that reads the write-ahead log. Its table is in a database of its own, since a node reads either
    /// all of a database's sources or none.
    Published,
}

const TABLES: [Table; 4] = [Table::Untriggered, Table::Tracked, Table::Notifying, Table::Published];

#[derive(Debug, Serialize)]
struct Found {
    bench: &'static str,
    fsync: bool,
    rows: u32,
    server: String,
    clients: Vec<Clients>,
}

#[derive(Debug, Serialize)]
struct Clients {
    clients: u32,
    tables: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    table: Table,
    /// Transactions per second, each with one UPDATE of one row.
    rate: Spread,
    /// The ratio to the rate of the untriggered table in the same round.
    ratio: Spread,
}

pub(crate) async fn run(options: Options, output: Output) -> Result<ExitCode, Failure> {
    let bench = Bench::start(&options).await?;
    let mut clients = Vec::new();
    for &count in &options.clients {
        clients.push(bench.measure(count, &options).await?);
    }
    output.print(&Found {
        bench: "writes",
        fsync: !options.no_fsync,
        rows: options.rows,
        server: bench.postgres.psql("show server_version").await?,
        clients,
    })?;
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    postgres: Postgres,
    scripts: Scratch,
}

/// The listener to a table's changes during the writes. There is no other one, since every notification wakes all
/// listeners of the database.
enum Audience {
    Nobody,
    Node(Listener),
    Naive(JoinHandle<()>),
}

impl Bench {
    async fn start(options: &Options) -> Result<Self, Failure> {
        let fsync = if options.no_fsync { "off" } else { "on" };
        // The stream needs it, and it adds a little to what every table's changes write.
        let logical = ("wal_level", "logical");
        let settings =
            [logical, ("fsync", fsync), ("shared_buffers", "256MB"), ("max_wal_size", "4GB")];
        let postgres = Postgres::start_with(&settings).await?;
        postgres.psql(&schema(options.rows)).await?;
        let mut conn = PgConnection::connect(&postgres.url()).await?;
        Triggers::new().table("tracked").install(&mut conn).await?;
        let published = postgres.create_database("published").await?;
        postgres.psql_at(&published, &schema(options.rows)).await?;
        let mut conn = PgConnection::connect(&published).await?;
        let source = ChangeSource::LogicalReplication;
        Triggers::new().source(source).table("published").install(&mut conn).await?;
        let scripts = Scratch::new()?;
        for table in TABLES {
            std::fs::write(script(&scripts, table), update(table.name(), options.rows))?;
        }
        Ok(Self { postgres, scripts })
    }

    async fn measure(&self, clients: u32, options: &Options) -> Result<Clients, Failure> {
        let mut rates = Vec::new();
        for round in 0..options.rounds.max(1) {
            let mut order = TABLES;
            order.rotate_left(round % TABLES.len());
            let mut of_round = [0.0; TABLES.len()];
            for table in order {
                of_round[table as usize] = self.rate(table, clients, options.seconds).await?;
            }
            rates.push(of_round);
        }
        let measured = TABLES.iter().filter_map(|&table| {
            let rate = Spread::of(rates.iter().map(|of| of[table as usize]))?;
            let ratio = Spread::of(rates.iter().map(|of| of[table as usize] / of[0]))?;
            Some(Measured { table, rate, ratio })
        });
        Ok(Clients { clients, tables: measured.collect() })
    }

    /// Runs the writes; returns transactions per second.
    async fn rate(&self, table: Table, clients: u32, seconds: u32) -> Result<f64, Failure> {
        let url = self.url(table);
        let prepare = format!("vacuum analyze {}; checkpoint", table.name());
        self.postgres.psql_at(&url, &prepare).await?;
        let (script, clients, seconds) = (
            script(&self.scripts, table).display().to_string(),
            clients.to_string(),
            seconds.max(1).to_string(),
        );
        let audience = self.audience(table).await?;
        let options = ["-c", &clients, "-T", &seconds, "-f", &script];
        let rate = pgbench(&self.postgres, &url, &options).await;
        audience.leave();
        rate
    }

    fn url(&self, table: Table) -> String {
        match table {
            Table::Published => self.postgres.url_of("published"),
            _ => self.postgres.url(),
        }
    }

    async fn audience(&self, table: Table) -> Result<Audience, Failure> {
        let url = self.url(table);
        Ok(match table {
            Table::Untriggered => Audience::Nobody,
            Table::Tracked | Table::Published => {
                let db = DatabaseOptions::new(url).connect().await?;
                let cache = Cache::new(Memory::new(1 << 20));
                Audience::Node(Listener::spawn(&db, &cache).await?)
            }
            Table::Notifying => {
                let mut listener = PgListener::connect(&url).await?;
                listener.listen("naive").await?;
                Audience::Naive(tokio::spawn(async move { while listener.recv().await.is_ok() {} }))
            }
        })
    }
}

impl Audience {
    /// Ends it.
    fn leave(self) {
        match self {
            Self::Nobody => {}
            Self::Node(node) => node.stop(),
            Self::Naive(task) => task.abort(),
        }
    }
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Untriggered => "untriggered",
            Self::Tracked => "tracked",
            Self::Notifying => "notifying",
            Self::Published => "published",
        }
    }
}

/// Equal tables.
fn schema(rows: u32) -> String {
    let tables = TABLES.map(|table| {
        let name = table.name();
        format!(
            "create table {name} (id int primary key, balance bigint not null) with (fillfactor = 50); \
             insert into {name} select id, 0 from generate_series(1, {rows}) id;"
        )
    });
    let naive = "create function naive() returns trigger language plpgsql as $$ \
                 begin perform pg_notify('naive', tg_table_name || ':' || new.id); return null; end $$; \
                 create trigger naive after update on notifying for each row execute function naive();";
    tables.concat() + naive
}

fn update(table: &str, rows: u32) -> String {
    format!(
        "\\set id random(1, {rows})\nupdate {table} set balance = balance + 1 where id = :id;\n"
    )
}

fn script(scripts: &Scratch, table: Table) -> PathBuf {
    scripts.path().join(format!("{}.sql", table.name()))
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (fsync, rows) = (if self.fsync { "on" } else { "off" }, self.rows);
        writeln!(
            f,
            "transactions per second, each one UPDATE of one of {rows} rows; Postgres {}, fsync {fsync}",
            self.server
        )?;
        write!(
            f,
            "{:>7}  {:<12} {:>8} {:>17}  {:>13} {:>13}",
            "clients", "table", "median", "least to most", "of untriggered", ""
        )?;
        for Clients { clients, tables } in &self.clients {
            for Measured { table, rate, ratio } in tables {
                let table = table.name();
                write!(f, "\n{clients:>7}  {table:<12} {:>8.0} ", rate.median)?;
                write!(f, "{:>8.0} {:>8.0}  ", rate.min, rate.max)?;
                write!(f, "{:>14.2} {:>6.2} {:>6.2}", ratio.median, ratio.min, ratio.max)?;
            }
        }
        Ok(())
    }
}
