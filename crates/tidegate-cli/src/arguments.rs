//! What can be said on the command line.

use std::convert::Infallible;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use crate::service::Page;

/// Installs what a cache needs in Postgres, checks it, and says what a running service's cache does.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version)]
pub(crate) struct Arguments {
    /// The primary, as postgres://user:password@host:port/database
    #[arg(long, env = "POSTGRES_PRIMARY_URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    /// Prints JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Schema(SchemaCommand),
    /// Prints what install does as SQL, for tools that run migrations
    Migration {
        #[command(flatten)]
        tables: Tables,
    },
    /// Checks the servers, the rights and the settings that a service needs, and says what to mend
    Doctor(Servers),
    /// Says what would become of a GET request to a running service, and why; the request is not sent
    Explain {
        /// Path and query; with scheme and host, if answers differ by that
        request: String,
        /// A header that the request has, as "Name: value"
        #[arg(short = 'H', long = "header")]
        headers: Vec<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Says which routes and queries of a running service are worth caching, by what it has seen
    Suggest(Page),
    /// Prints a script that completes commands in a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, in the form that man reads
    Man,
    /// Measures a running service, or replays recorded accesses
    #[command(subcommand)]
    Bench(crate::bench::Bench),
}

/// What is done to a database.
#[derive(Debug, Subcommand)]
pub(crate) enum SchemaCommand {
    /// Tracks tables; can be run again at any time
    Install {
        #[command(flatten)]
        tables: Tables,
    },
    /// Tracks tables no more
    Uninstall {
        /// Their names
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        tables: Vec<Table>,
        /// Drops the schema tidegate and every trigger with it
        #[arg(long)]
        all: bool,
    },
    /// Lets a role follow the log, as the service's listener does
    Grant {
        /// The role
        role: String,
    },
    /// Shows what is tracked, how far behind replicas are, and with --admin which tables the service reads that
    /// are not; fails if changes can go unseen
    Status(Page),
    /// Shows changes as they become visible
    Watch {
        /// Ends after this many
        #[arg(long)]
        count: Option<u64>,
    },
    /// Makes what depends on these tags stale on every node
    Invalidate {
        /// Tags, as TABLE, TABLE:COLUMN=VALUE, or a word of the service's own
        #[arg(required = true)]
        tags: Vec<String>,
    },
}

/// What to track.
#[derive(Debug, Args)]
pub(crate) struct Tables {
    /// Tables, as NAME or NAME:COLUMN,COLUMN to tell changes by these columns too
    #[arg(required = true)]
    pub(crate) tables: Vec<Table>,
    /// The most rows that one statement's change is told by
    #[arg(long, default_value_t = 100)]
    pub(crate) row_limit: u32,
}

/// What a service connects to beside the primary.
#[derive(Debug, Args)]
pub(crate) struct Servers {
    /// A replica; several with commas between
    #[arg(long, env = "POSTGRES_REPLICA_URL", hide_env_values = true, value_delimiter = ',')]
    pub(crate) replica: Vec<String>,
    /// The primary, past any proxy
    #[arg(long, env = "POSTGRES_LISTEN_URL", hide_env_values = true)]
    pub(crate) listen: Option<String>,
    /// Redis, its cluster or its sentinels
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub(crate) redis: Option<String>,
}

/// A table and the columns that its changes are told by, beside the primary key.
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
