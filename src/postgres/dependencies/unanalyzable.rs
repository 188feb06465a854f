//! Why the result of a query can't be cached.

use thiserror::Error;

/// Why the result of a query can't be cached. Each message says how to fix it, if that is possible.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Unanalyzable {
    /// It writes, or is no query at all.
    #[error("the statement is not a plain read")]
    NotARead,
    /// FOR UPDATE and its kin.
    #[error("the query locks rows")]
    Locking,
    /// TABLESAMPLE.
    #[error("TABLESAMPLE reads other rows each time")]
    Sampled,
    /// More than one statement in one text.
    #[error("the text holds several statements")]
    SeveralStatements,
    /// Longer or deeper than we are ready to read.
    #[error("the statement is too long or too deeply nested to be analysed")]
    TooLarge,
    /// The parser stopped, or two readings of the text disagree.
    #[error("the statement is not understood: {0}")]
    NotUnderstood(String),
    /// The result depends on the role or on the settings of the connection.
    #[error("{0} depends on the connection, not on data")]
    SessionDependent(String),
    /// Something of Postgres' own: catalogues, system columns, names of relations as values.
    #[error("{0} belongs to the system and changes without a trigger")]
    System(String),
    /// No triggers, or not all of them.
    #[error("table {0} is not tracked; run `tidegate install {1}`")]
    UntrackedTable(String, String),
    /// Changes that a subscription replicates fire no statement trigger.
    #[error(
        "a subscription writes to table {0}, and replicated changes fire no trigger; \
         use Tidegate with the server on which the rows are written"
    )]
    SubscribedTable(String),
    /// Changes only at REFRESH, which fires no trigger.
    #[error("{0} is a materialized view, whose refresh fires no trigger; read its tables")]
    MaterializedView(String),
    /// Its data changes on another server.
    #[error("{0} is a foreign table, whose changes are not seen here")]
    ForeignTable(String),
    /// Seen by one connection only.
    #[error("{0} is temporary")]
    TemporaryTable(String),
    /// The visible rows depend on the role.
    #[error("{0} has row-level security: the result depends on the role")]
    RowSecurity(String),
    /// Several parents; a tag names the only topmost parent.
    #[error("{0}, or a table in its inheritance tree, has several parents, which can't be tracked")]
    SeveralParents(String),
    /// Nothing by this name on this connection's search path.
    #[error("no relation {0} is visible on this connection: check the name and search_path")]
    UnknownRelation(String),
    /// Advances without a trigger.
    #[error("{0} is a sequence")]
    Sequence(String),
    /// A relation of a kind that we don't know.
    #[error("{0} is neither a table nor a view")]
    UnknownKind(String),
    /// Its result may differ at each call.
    #[error("function {0} is volatile")]
    VolatileFunction(String),
    /// It may read tables that the text doesn't show.
    #[error(
        "function {0} is stable, so it may read tables unseen; mark it IMMUTABLE if it doesn't"
    )]
    StableFunction(String),
    /// Stable, of Postgres' own, and not on the list of those that are known to be harmless.
    #[error(
        "the statement possibly calls function {0}, whose result depends on the catalogue or the connection; \
         if another overload would do, call that one"
    )]
    SystemFunction(String),
    /// Declared IMMUTABLE, although its body reads something. Postgres itself may use outdated results: a reused plan
    /// contains the value that the function once returned.
    #[error(
        "function {0} is declared IMMUTABLE or called by one that is, but its body reads tables, \
         the catalogue or the connection, or can't be understood; put its query into the statement"
    )]
    ReadingFunction(String),
    /// No function by this name on this connection's search path.
    #[error("no function {0} is visible on this connection: check the name and search_path")]
    UnknownFunction(String),
    /// An operator whose function is not trusted.
    #[error("operator {0} runs a function that is not immutable; mark that function IMMUTABLE")]
    Operator(String),
    /// A cast whose function is not trusted; casts happen without being written.
    #[error("the cast {0} runs a function that is not immutable; mark that function IMMUTABLE")]
    Cast(String),
    /// Postgres would interpret backslashes differently than the analysis does.
    #[error("standard_conforming_strings is off on this connection")]
    OldStrings,
    /// Another schema could redefine system names, in statements and in Tidegate's own queries.
    #[error(
        "search_path has schema {0} before pg_catalog, so objects in {0} may replace those of the system; \
         leave pg_catalog out of search_path, or name it first"
    )]
    SystemLater(String),
}

impl Unanalyzable {
    /// One word for a header or a label.
    pub(crate) fn token(&self) -> &'static str {
        match self {
            Self::NotARead => "not-a-read",
            Self::Locking => "locking-read",
            Self::Sampled => "sampled-read",
            Self::SeveralStatements => "several-statements",
            Self::TooLarge => "sql-too-large",
            Self::NotUnderstood(_) => "sql-not-understood",
            Self::SessionDependent(_) => "session-dependent",
            Self::System(_) => "system-catalog",
            Self::UntrackedTable(..) => "untracked-table",
            Self::SubscribedTable(_) => "subscribed-table",
            Self::MaterializedView(_) => "materialized-view",
            Self::ForeignTable(_) => "foreign-table",
            Self::TemporaryTable(_) => "temporary-table",
            Self::RowSecurity(_) => "row-security",
            Self::SeveralParents(_) => "several-parents",
            Self::UnknownRelation(_) => "unknown-relation",
            Self::Sequence(_) => "sequence",
            Self::UnknownKind(_) => "unknown-kind",
            Self::VolatileFunction(_) => "volatile-function",
            Self::StableFunction(_) => "stable-function",
            Self::SystemFunction(_) => "system-function",
            Self::ReadingFunction(_) => "reading-function",
            Self::UnknownFunction(_) => "unknown-function",
            Self::Operator(_) => "operator",
            Self::Cast(_) => "cast",
            Self::OldStrings => "old-strings",
            Self::SystemLater(_) => "search-path",
        }
    }

    /// How much it shows about the effects of a call: a function of the application that is volatile may write.
    pub(super) fn severity(&self) -> u8 {
        match self {
            Self::VolatileFunction(name) if name.starts_with("pg_catalog.") => 1,
            Self::VolatileFunction(_) => 2,
            _ => 0,
        }
    }

    pub(super) fn not_understood(what: impl Into<String>) -> Self {
        Self::NotUnderstood(what.into())
    }
}
