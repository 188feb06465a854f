//! The cost for writers of recording changes: `pgbench` on tables that differ only in what records their changes.

use std::fmt::{Display, Formatter};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::PgListener;
use sqlx::{Connection, PgConnection};
use tidegate::{Cache, ChangeSource, DatabaseOptions, Listener, Memory, Triggers};
use tidegate_testing::Postgres;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::pgbench::{Done, Load};
use super::spread::{Spread, quantile};
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
    /// Then also write at half the rate that the untriggered table has reached, and measure latencies
    #[arg(long)]
    half_rate: bool,
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
    /// As fast as the clients can.
    tables: Vec<Measured>,
    at_half_rate: Option<HalfRate>,
}

#[derive(Debug, Serialize)]
struct HalfRate {
    /// The rate at which transactions are due: half of the median rate of the untriggered table.
    due: f64,
    tables: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    table: Table,
    /// Transactions per second, each with one UPDATE of one row.
    rate: Spread,
    /// The ratio to the rate of the untriggered table in the same round.
    ratio: Spread,
    /// Processor time of all server processes per transaction, in microseconds.
    processor_us: Option<Spread>,
    p50_ms: Spread,
    p99_ms: Spread,
    /// The untriggered table's 99th percentile in the same round, divided by this table's.
    p99_ratio: Spread,
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
    rows: u32,
}

/// The listener to a table's changes during the writes. There is no other one, since every notification wakes all
/// listeners of the database.
enum Audience {
    Nobody,
    Node(Listener, Cache),
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
        Ok(Self { postgres, rows: options.rows })
    }

    async fn measure(&self, clients: u32, options: &Options) -> Result<Clients, Failure> {
        let tables = self.rounds(clients, None, options).await?;
        let mut at_half_rate = None;
        if options.half_rate
            && let Some(untriggered) = tables.first()
        {
            let due = untriggered.rate.median / 2.0;
            at_half_rate =
                Some(HalfRate { due, tables: self.rounds(clients, Some(due), options).await? });
        }
        Ok(Clients { clients, tables, at_half_rate })
    }

    async fn rounds(
        &self,
        clients: u32,
        rate: Option<f64>,
        options: &Options,
    ) -> Result<Vec<Measured>, Failure> {
        let mut rounds = Vec::new();
        for round in 0..options.rounds.max(1) {
            let mut order = TABLES;
            order.rotate_left(round % TABLES.len());
            let mut of_round = Vec::new();
            for table in order {
                of_round.push(self.write(table, clients, rate, options.seconds).await?);
            }
            of_round.rotate_right(round % TABLES.len());
            rounds.push(of_round);
        }
        let measured = TABLES.iter().enumerate();
        Ok(measured.filter_map(|(at, &table)| Measured::of(table, at, &rounds)).collect())
    }

    async fn write(
        &self,
        table: Table,
        clients: u32,
        rate: Option<f64>,
        seconds: u32,
    ) -> Result<Done, Failure> {
        let url = self.url(table);
        let prepare = format!("vacuum analyze {}; checkpoint", table.name());
        self.postgres.psql_at(&url, &prepare).await?;
        let script = update(table.name(), self.rows);
        self.postgres.psql(ALONE).await?;
        let audience = self.audience(table).await?;
        let load = Load { url: &url, script: &script, clients, seconds, rate };
        let done = load.run(&self.postgres, audience.followed(&self.postgres)).await;
        audience.leave();
        done
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
                Audience::Node(Listener::spawn(&db, &cache).await?, cache)
            }
            Table::Notifying => {
                let mut listener = PgListener::connect(&url).await?;
                listener.listen("naive").await?;
                Audience::Naive(tokio::spawn(async move { while listener.recv().await.is_ok() {} }))
            }
        })
    }
}

/// Waits until nobody else is connected: the audience before may still be leaving.
const ALONE: &str = "do $$ begin while exists (select from pg_stat_activity \
    where backend_type in ('client backend', 'walsender') and pid <> pg_backend_pid()) loop \
    perform pg_sleep(0.01), pg_stat_clear_snapshot(); end loop; end $$";

/// How long a node may take to follow what was written. At full load it may be behind.
const FOLLOW_WITHIN: Duration = Duration::from_secs(60);

impl Audience {
    /// Waits until a node knows all that was written.
    async fn followed(&self, postgres: &Postgres) -> Result<(), Failure> {
        match self {
            Self::Node(_, cache) => {
                let written =
                    postgres.psql("select pg_current_wal_lsn() - '0/0'").await?.parse()?;
                let is_followed = || {
                    let followed = cache.fences().followed();
                    followed.is_some_and(|followed| followed.position.get() >= written)
                };
                let waited = timeout(FOLLOW_WITHIN, async {
                    while !is_followed() {
                        sleep(Duration::from_millis(1)).await;
                    }
                });
                waited.await.map_err(|_| "the node does not follow the writes".into())
            }
            Self::Naive(task) if task.is_finished() => Err("the listener has ended".into()),
            Self::Nobody | Self::Naive(_) => Ok(()),
        }
    }

    /// Ends it.
    fn leave(self) {
        match self {
            Self::Nobody => {}
            Self::Node(node, _) => node.stop(),
            Self::Naive(task) => task.abort(),
        }
    }
}

impl Measured {
    /// Of one table, which is at this place of each round. The untriggered one is at the first.
    fn of(table: Table, at: usize, rounds: &[Vec<Done>]) -> Option<Self> {
        let spread = |value: &dyn Fn(&[Done]) -> f64| Spread::of(rounds.iter().map(|of| value(of)));
        let millis = |done: &Done, per_mille| {
            let sorted = &done.latencies;
            if sorted.is_empty() { f64::NAN } else { f64::from(quantile(sorted, per_mille)) / 1e3 }
        };
        let processor: Option<Vec<f64>> = rounds.iter().map(|of| of[at].processor).collect();
        Some(Self {
            table,
            rate: spread(&|of| of[at].rate)?,
            ratio: spread(&|of| of[at].rate / of[0].rate)?,
            processor_us: processor.and_then(Spread::of),
            p50_ms: spread(&|of| millis(&of[at], 500))?,
            p99_ms: spread(&|of| millis(&of[at], 990))?,
            p99_ratio: spread(&|of| millis(&of[0], 990) / millis(&of[at], 990))?,
        })
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

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (fsync, rows) = (if self.fsync { "on" } else { "off" }, self.rows);
        writeln!(
            f,
            "transactions per second, each one UPDATE of one of {rows} rows; Postgres {}, fsync {fsync};\n\
             processor time of all server processes, and latency, per transaction",
            self.server
        )?;
        write!(
            f,
            "{:>7}  {:<12} {:>8} {:>17} {:>14} {:>13} {:>7} {:>7} {:>7} {:>14}",
            "clients",
            "table",
            "median",
            "least to most",
            "of untriggered",
            "",
            "µs",
            "p50 ms",
            "p99 ms",
            "of untriggered"
        )?;
        for of in &self.clients {
            for measured in &of.tables {
                write!(f, "\n{:>7}  {measured}", of.clients)?;
            }
            if let Some(HalfRate { due, tables }) = &of.at_half_rate {
                write!(f, "\n         at {due:.0} a second:")?;
                for measured in tables {
                    write!(f, "\n{:>7}  {measured}", of.clients)?;
                }
            }
        }
        Ok(())
    }
}

impl Display for Measured {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { table, rate, ratio, processor_us, p50_ms, p99_ms, p99_ratio } = self;
        write!(
            f,
            "{:<12} {:>8.0} {:>8.0} {:>8.0} ",
            table.name(),
            rate.median,
            rate.min,
            rate.max
        )?;
        write!(f, "{:>14.2} {:>6.2} {:>6.2} ", ratio.median, ratio.min, ratio.max)?;
        match processor_us {
            Some(micros) => write!(f, "{:>7.0} ", micros.median)?,
            None => write!(f, "{:>7} ", "-")?,
        }
        write!(f, "{:>7.2} {:>7.2} {:>14.2}", p50_ms.median, p99_ms.median, p99_ratio.median)
    }
}
