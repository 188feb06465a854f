//! Why a search of the catalogue ends early.

use crate::postgres::dependencies::Unanalyzable;

/// Why a search ended early.
pub(super) enum SearchStop {
    Unanalyzable(Unanalyzable),
    Database(sqlx::Error),
}

impl From<Unanalyzable> for SearchStop {
    fn from(unanalyzable: Unanalyzable) -> Self {
        Self::Unanalyzable(unanalyzable)
    }
}

impl From<sqlx::Error> for SearchStop {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}
