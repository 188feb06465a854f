//! The changes of a Postgres database, read from its write-ahead log by logical replication (PostgreSQL manual, chapter 49).
//! No trigger runs, and no row is added to a log table.
//!
//! The server delivers transactions in the order of their commit records. That is not the order in which they become
//! visible: a commit can be delivered while no snapshot sees it yet, for example while it waits for a synchronous
//! standby, and a snapshot can see a commit that has not been delivered. So [`Stream::announce`] takes a *watermark*
//! on the primary: a snapshot, then a position, and then a message in the write-ahead log. Once the stream has
//! delivered that message, [`Stream::reach`] returns each change that this snapshot sees, and that the snapshot of no
//! earlier watermark saw. Changes that are not visible yet are part of a later watermark.
//!
//! The stream does not contain changes that change no row: attaching, detaching or dropping a partition, or changing a
//! column's type or a publication. Each watermark notices a changed publication. The application must notice the
//! others.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sqlx::{Connection, PgConnection};
//! use tidegate_wal::{KeyColumns, Stream, StreamOptions};
//!
//! let url = "postgres://postgres@127.0.0.1:5432/shop";
//! let mut primary = PgConnection::connect(url).await?;
//! let orders = 16_402; // The oid of the table.
//! let mut stream = Stream::start(&StreamOptions::from_url(url)?).await?;
//! stream.key_by(KeyColumns::default().with(orders, "customer", "customer"));
//! loop {
//!     stream.changed().await?;
//!     stream.announce(&mut primary).await?;
//!     let watermark = stream.reach().await?;
//!     println!("up to {}: {:?}", watermark.fence, watermark.changes);
//! }
//! # }
//! ```

#![forbid(unsafe_code)]

mod change;
mod connection;
mod error;
#[cfg(feature = "__internals")]
#[doc(hidden)]
pub mod fuzzing;
mod kept_slot;
mod options;
mod pending;
mod pgoutput;
mod publication;
mod relation;
mod snapshot;
mod socket;
mod state;
mod stream;
mod tls;
mod transaction;
mod watermark;

pub use change::{KeyValue, RowKey, TableChange};
pub use error::StreamError;
pub use kept_slot::{StreamPoint, kept_slot_name};
pub use options::{KeyColumns, StreamOptions};
pub use snapshot::{Snapshot, SnapshotError};
pub use stream::Stream;
pub use transaction::Change;
pub use watermark::Watermark;
