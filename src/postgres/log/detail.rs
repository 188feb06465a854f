//! The detail in which the log is read, and what one statement may read in each.

/// The detail in which changes are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ChangeDetail {
    /// The changed rows, as far as their writers recorded them.
    #[default]
    Rows = 0,
    /// The changed tables, each as a change of all its rows.
    Tables = 1,
    /// Nothing is read: anything may have changed.
    Nothing = 2,
}

/// The budget of one statement. Time is bounded too, by
/// [`STATEMENT_TIMEOUT`](crate::postgres::deadline::STATEMENT_TIMEOUT).
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Of the log.
    pub(super) rows: i64,
    /// The size of their tags as they are stored, which may be compressed.
    pub(super) bytes: i64,
    /// Tags in all.
    pub(super) keys: i64,
}

/// The maximum number of tags that a node takes at a time.
pub(crate) const MOST_KEYS: i64 = 50_000;

impl ChangeDetail {
    pub(super) const fn budget(self) -> Budget {
        match self {
            Self::Rows => Budget { rows: 50_000, bytes: 8 << 20, keys: MOST_KEYS },
            Self::Tables | Self::Nothing => {
                Budget { rows: 1_000_000, bytes: 8 << 20, keys: MOST_KEYS }
            }
        }
    }

    pub(super) const fn less(self) -> Option<Self> {
        match self {
            Self::Rows => Some(Self::Tables),
            Self::Tables => Some(Self::Nothing),
            Self::Nothing => None,
        }
    }
}
