//! What all drivers share: the declaration of a read, and arguments in the form in which a driver sends them.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo};
use sqlx::types::Uuid;
use sqlx::{AssertSqlSafe, Encode, Postgres, Type};
use tidegate::{Database, DeclareError, DeclaredRead};

/// The server that a pool leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Primary,
    Replica,
}

/// A read that may run now.
#[must_use = "call `end` once the rows have arrived"]
#[derive(Debug)]
pub struct Declared(Option<DeclaredRead>);

impl Declared {
    /// All rows have arrived.
    pub fn end(self) {
        if let Some(read) = self.0 {
            read.end();
        }
    }
}

/// Declares a read. `position` is what [`Database::POSITION`] returned on the connection that will serve the read.
///
/// # Errors
///
/// If this server must not serve the read. A replica's reads can go to the primary. If the primary must not serve it
/// either, the statement writes, or this is an old primary that still runs after a failover.
pub async fn declare(
    (db, server): (&Database, Server),
    position: &str,
    sql: &str,
    arguments: PgArguments,
) -> Result<Declared, DeclareError> {
    // sqlx does not run the statement: its text and arguments show what it reads.
    let statement = sqlx::query_with(AssertSqlSafe(sql), arguments);
    let error = match db.declare_read(position, statement).await {
        Ok(read) => return Ok(Declared(Some(read))),
        Err(error @ (DeclareError::Behind | DeclareError::NotARead)) => return Err(error),
        Err(error) => error,
    };
    tracing::warn!(%error, "a read could not be declared");
    match server {
        // It is unknown whether the replica has what the read must see.
        Server::Replica => Err(error),
        // The response is not stored.
        Server::Primary => Ok(Declared(None)),
    }
}

/// An argument as another driver sends it: in the binary form of its type, or NULL.
///
/// Tidegate narrows a read to certain rows by arguments of the types below. It does not interpret the values of other
/// types, but they must be present: without one, those after it would have wrong numbers. NULL is no substitute for a
/// value either: `id in (7, NULL)` depends on row 7 alone.
#[derive(Debug)]
pub struct Argument {
    /// The type's object identifier (OID); 0 if it is unknown, or if the value is not in the binary form.
    pub oid: u32,
    pub value: Option<Vec<u8>>,
}

impl Argument {
    /// The OIDs of built-in types never change: see `pg_type.dat` of PostgreSQL.
    fn kind(&self) -> PgTypeInfo {
        match self.oid {
            20 => <i64 as Type<Postgres>>::type_info(),
            21 => <i16 as Type<Postgres>>::type_info(),
            23 => <i32 as Type<Postgres>>::type_info(),
            25 | 1043 => <String as Type<Postgres>>::type_info(),
            2950 => <Uuid as Type<Postgres>>::type_info(),
            1005 => <Vec<i16> as Type<Postgres>>::type_info(),
            1007 => <Vec<i32> as Type<Postgres>>::type_info(),
            1016 => <Vec<i64> as Type<Postgres>>::type_info(),
            1009 | 1015 => <Vec<String> as Type<Postgres>>::type_info(),
            2951 => <Vec<Uuid> as Type<Postgres>>::type_info(),
            other => PgTypeInfo::with_oid(Oid(other)),
        }
    }
}

impl Type<Postgres> for Argument {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Argument {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let Some(value) = &self.value else { return Ok(IsNull::Yes) };
        buffer.extend_from_slice(value);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.kind())
    }

    fn size_hint(&self) -> usize {
        self.value.as_ref().map_or(0, Vec::len)
    }
}
