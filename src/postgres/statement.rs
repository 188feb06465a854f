//! A statement, and the rows that it returns.

use futures_util::stream::{BoxStream, TryStreamExt};
use sqlx::postgres::{PgArguments, PgQueryResult, PgRow};
use sqlx::{
    Arguments, AssertSqlSafe, Either, Error, Execute, Executor, PgConnection, Postgres, SqlSafeStr,
    SqlStr,
};

/// A statement that can be sent more than once.
pub(super) struct RepeatableStatement {
    pub(super) sql: SqlStr,
    pub(super) arguments: Option<PgArguments>,
    pub(super) persistent: bool,
}

/// Parameters of one statement: the protocol counts them in 16 bits (PostgreSQL manual, "Message Formats": Bind).
const MOST_PARAMETERS: usize = u16::MAX as usize;

/// A row, or the result of one statement at its end.
pub(super) type Row = Either<PgQueryResult, PgRow>;

pub(super) type Rows<'e> = BoxStream<'e, Result<Row, Error>>;

impl RepeatableStatement {
    pub(super) fn take<'q, E: Execute<'q, Postgres>>(mut query: E) -> Result<Self, Error> {
        let arguments = query.take_arguments().map_err(Error::Encode)?;
        // The driver would report this as a protocol error.
        if let Some(count) =
            arguments.as_ref().map(PgArguments::len).filter(|count| *count > MOST_PARAMETERS)
        {
            let why = format!(
                "a statement takes {MOST_PARAMETERS} parameters at most and this one has {count}: send it in parts, or \
                 bind arrays and use unnest"
            );
            return Err(Error::Encode(why.into()));
        }
        let persistent = query.persistent();
        Ok(Self { sql: query.sql(), arguments, persistent })
    }

    /// `plans`: a marker that distinguishes the text from the same text before a schema change.
    pub(super) fn send<'e>(&self, conn: &'e mut PgConnection, plans: Option<u64>) -> Rows<'e> {
        match &self.arguments {
            Some(arguments) => {
                let query = sqlx::query_with(self.text(plans), arguments.clone());
                conn.fetch_many(query.persistent(self.persistent))
            }
            None => conn.fetch_many(sqlx::raw_sql(self.sql.clone())),
        }
    }

    /// The text, followed by a comment with the marker if there is one.
    fn text(&self, plans: Option<u64>) -> SqlStr {
        match plans.filter(|_| self.persistent) {
            Some(plans) => {
                AssertSqlSafe(format!("{}\n/* {plans:x} */", self.sql.as_str())).into_sql_str()
            }
            None => self.sql.clone(),
        }
    }
}

/// The first row. Reads to the end, which is after the commit: a row comes before deferred constraints are checked, and a
/// stream that is dropped rolls its transaction back.
pub(super) async fn first_of_all(mut rows: Rows<'_>) -> Result<Option<PgRow>, Error> {
    let mut first = None;
    while let Some(step) = rows.try_next().await? {
        first = first.or(step.right());
    }
    Ok(first)
}
