//! The command-line arguments.

use std::convert::Infallible;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tidegate::ChangeSource;

use crate::service::Page;

/// Install and check what the cache needs in Postgres, and inspect the cache of a running service.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version)]
pub(crate) struct Arguments {
    /// URL of the primary, as postgres://user:password@host:port/database
    #[arg(long, env = "POSTGRES_PRIMARY_URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Schema(SchemaCommand),
    /// Print SQL that does the same as install, for migration tools
    Migration {
        #[command(flatten)]
        tables: Tables,
    },
    /// Check the servers, rights and settings that a service needs, and say what to fix
    Doctor(Servers),
    /// Explain how a running service's cache would handle a GET request, without sending the request
    Explain {
        /// Path and query of the request; add scheme and host if responses depend on them
        request: String,
        /// A request header, as "Name: value"; can be repeated
        #[arg(short = 'H', long = "header")]
        headers: Vec<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Suggest routes and queries of a running service that are worth caching, based on its traffic so far
    Suggest(Page),
    /// Print a completion script for a shell
    Completions {
        /// Shell to generate the script for
        shell: clap_complete::Shell,
    },
    /// Print the manual page in roff format, as man reads it
    Man,
    /// Measure a running service, or replay recorded accesses
    #[command(subcommand)]
    Bench(crate::bench::Bench),
}

/// Commands that connect to the primary.
#[derive(Debug, Subcommand)]
pub(crate) enum SchemaCommand {
    /// Track tables, by triggers or in the write-ahead log; can be run again at any time
    Install {
        #[command(flatten)]
        tables: Tables,
    },
    /// Stop tracking tables
    Uninstall {
        /// Names of the tables
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        tables: Vec<Table>,
        /// Drop the schema tidegate and all of Tidegate's triggers: no table is tracked any more
        #[arg(long)]
        all: bool,
    },
    /// Grant a role the rights that a service's listener needs to follow the change log
    Grant {
        /// Name of the role
        role: String,
    },
    /// Show tracked tables and replica lag, and with --admin also the untracked tables that the service reads; exit with
    /// status 2 if changes can go unrecorded
    Status(Page),
    /// Print changes as they become visible
    Watch {
        /// Exit after this many lines; changes that become visible together share one line
        #[arg(long)]
        count: Option<u64>,
    },
    /// Invalidate everything that depends on these tags, on every node
    Invalidate {
        /// Tags, as TABLE, TABLE:COLUMN=VALUE, or a tag that the service defines
        #[arg(required = true)]
        tags: Vec<String>,
    },
}

/// The tables to track.
#[derive(Debug, Args)]
pub(crate) struct Tables {
    /// Tables, as NAME, or as NAME:COLUMN,COLUMN to identify changed rows by the values of these columns too, not only by the primary key
    #[arg(required_unless_present = "auto")]
    pub(crate) tables: Vec<Table>,
    /// Identify changed rows by their foreign keys too; without TABLES, track all tables that the role owns and that can be tracked
    #[arg(long)]
    pub(crate) auto: bool,
    /// With triggers, the maximum number of changed rows per statement to record one by one; a larger change counts as
    /// a change of the whole table
    #[arg(long, default_value_t = 100)]
    pub(crate) row_limit: u32,
    /// How nodes find out about changes: from triggers, or from the write-ahead log by logical replication
    #[arg(long, default_value = "triggers")]
    pub(crate) source: Source,
}

/// The value of `--source`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Source {
    Triggers,
    Wal,
}

impl From<Source> for ChangeSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Triggers => Self::Triggers,
            Source::Wal => Self::LogicalReplication,
        }
    }
}

/// The servers that a service connects to, besides the primary.
#[derive(Debug, Args)]
pub(crate) struct Servers {
    /// URL of a replica; separate several with commas
    #[arg(long, env = "POSTGRES_REPLICA_URL", hide_env_values = true, value_delimiter = ',')]
    pub(crate) replica: Vec<String>,
    /// URL for the listener's connection to the primary, if the primary's URL leads through a proxy
    #[arg(long, env = "POSTGRES_LISTEN_URL", hide_env_values = true)]
    pub(crate) listen: Option<String>,
    /// URL of Redis: one server, a cluster or sentinels
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub(crate) redis: Option<String>,
}

/// A table, and the columns by which its changes are recorded, besides the primary key.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
}

impl FromStr for Table {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let (name, columns) = text.split_once(':').unwrap_or((text, ""));
        let columns = columns.split(',').filter(|column| !column.is_empty());
        Ok(Self { name: name.to_owned(), columns: columns.map(str::to_owned).collect() })
    }
}
