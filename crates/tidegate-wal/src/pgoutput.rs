//! Decodes the messages of the plugin pgoutput (PostgreSQL manual, section 54.9, version 1 of the protocol).

use crate::error::StreamError;

/// A message of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// All messages up to the next commit are part of this transaction.
    Begin {
        /// The position of its commit record.
        commit: u64,
        xid: u32,
    },
    Commit {
        /// The position after its commit record.
        end: u64,
    },
    /// Content that a session wrote into the log.
    Written {
        /// Whether it was delivered because its transaction has committed.
        is_transactional: bool,
        prefix: &'a str,
        content: &'a [u8],
    },
    Row(RowMessage<'a>),
}

/// A message within a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RowMessage<'a> {
    Relation(RelationMessage<'a>),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<Tuple<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Tuple<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// A type's name, or where a transaction originated.
    Other,
}

/// A table, as it was when the changes that follow were made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RelationMessage<'a> {
    pub(crate) relation: u32,
    pub(crate) identity: ReplicaIdentity,
    pub(crate) columns: Vec<Column<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Column<'a> {
    pub(crate) name: &'a str,
    /// Whether the replica identity contains it.
    pub(crate) is_identified: bool,
}

/// Which old values the server writes (PostgreSQL manual, `ALTER TABLE … REPLICA IDENTITY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplicaIdentity {
    /// All.
    Full,
    /// Those of an index, or none.
    Part,
}

/// A row's values, in the order of the relation's columns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tuple<'a>(Vec<TupleValue<'a>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TupleValue<'a> {
    Null,
    /// It is stored out of line, and has not changed.
    Unchanged,
    Text(&'a [u8]),
}

impl<'a> Tuple<'a> {
    pub(crate) fn value(&self, place: usize) -> Option<TupleValue<'a>> {
        self.0.get(place).copied()
    }
}

impl<'a> Message<'a> {
    /// # Errors
    ///
    /// If the bytes are no message of the plugin, or end too early.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, StreamError> {
        let mut reader = MessageReader(bytes);
        match reader.byte()? {
            b'B' => {
                let (commit, _time, xid) = (reader.u64()?, reader.u64()?, reader.u32()?);
                Ok(Self::Begin { commit, xid })
            }
            b'C' => {
                let (_flags, _commit, end) = (reader.byte()?, reader.u64()?, reader.u64()?);
                Ok(Self::Commit { end })
            }
            b'M' => {
                let is_transactional = reader.byte()? & 1 == 1;
                let (_position, prefix) = (reader.u64()?, reader.text()?);
                let content = reader.counted()?;
                Ok(Self::Written { is_transactional, prefix, content })
            }
            _ => RowMessage::decode(bytes).map(Self::Row),
        }
    }
}

impl<'a> RowMessage<'a> {
    /// # Errors
    ///
    /// If the bytes are no such message, or end too early.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, StreamError> {
        let mut reader = MessageReader(bytes);
        match reader.byte()? {
            b'R' => reader.relation().map(Self::Relation),
            b'I' => {
                let relation = reader.u32()?;
                reader.expect(b'N')?;
                Ok(Self::Insert { relation, new: reader.tuple()? })
            }
            b'U' => {
                let relation = reader.u32()?;
                let old = match reader.byte()? {
                    b'K' | b'O' => {
                        let old = reader.tuple()?;
                        reader.expect(b'N')?;
                        Some(old)
                    }
                    b'N' => None,
                    _ => return Err(StreamError::Decode("an update without a new row")),
                };
                Ok(Self::Update { relation, old, new: reader.tuple()? })
            }
            b'D' => {
                let relation = reader.u32()?;
                match reader.byte()? {
                    b'K' | b'O' => Ok(Self::Delete { relation, old: reader.tuple()? }),
                    _ => Err(StreamError::Decode("a deletion without an old row")),
                }
            }
            b'T' => {
                let count = reader.u32()?;
                let _options = reader.byte()?;
                let relations = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
                Ok(Self::Truncate { relations })
            }
            b'Y' | b'O' => Ok(Self::Other),
            _ => Err(StreamError::Decode("an unknown message")),
        }
    }
}

/// The unread rest of a message.
struct MessageReader<'a>(&'a [u8]);

impl<'a> MessageReader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], StreamError> {
        let split = self.0.split_at_checked(length);
        let (taken, rest) = split.ok_or(StreamError::Decode("a message that ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| StreamError::Decode("a message that ends too early"))
    }

    fn byte(&mut self) -> Result<u8, StreamError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, StreamError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, StreamError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, StreamError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Bytes after their number.
    fn counted(&mut self) -> Result<&'a [u8], StreamError> {
        let length = usize::try_from(self.u32()?);
        self.take(length.map_err(|_| StreamError::Decode("a value that is too long"))?)
    }

    fn expect(&mut self, byte: u8) -> Result<(), StreamError> {
        match self.byte()? == byte {
            true => Ok(()),
            false => Err(StreamError::Decode("a change without a new row")),
        }
    }

    fn text(&mut self) -> Result<&'a str, StreamError> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let end = end.ok_or(StreamError::Decode("a name that does not end"))?;
        let text = self.take(end)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_| StreamError::Decode("a name that is not in UTF-8"))
    }

    fn relation(&mut self) -> Result<RelationMessage<'a>, StreamError> {
        let (relation, _schema, _table) = (self.u32()?, self.text()?, self.text()?);
        let identity = match self.byte()? {
            b'f' => ReplicaIdentity::Full,
            _ => ReplicaIdentity::Part,
        };
        let count = self.u16()?;
        let column = |_| {
            let is_identified = self.byte()? & 1 == 1;
            let name = self.text()?;
            let (_type, _modifier) = (self.u32()?, self.u32()?);
            Ok::<_, StreamError>(Column { name, is_identified })
        };
        let columns = (0..count).map(column).collect::<Result<_, _>>()?;
        Ok(RelationMessage { relation, identity, columns })
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, StreamError> {
        let count = self.u16()?;
        let value = |_| match self.byte()? {
            b'n' => Ok(TupleValue::Null),
            b'u' => Ok(TupleValue::Unchanged),
            b't' => self.counted().map(TupleValue::Text),
            _ => Err(StreamError::Decode("a value of an unknown format")),
        };
        (0..count).map(value).collect::<Result<_, _>>().map(Tuple)
    }
}

/// A table of one column, which is its replica identity.
#[cfg(test)]
pub(crate) fn relation_of_one_column(relation: u32, name: &str) -> RowMessage<'_> {
    RowMessage::Relation(RelationMessage {
        relation,
        identity: ReplicaIdentity::Part,
        columns: vec![Column { name, is_identified: true }],
    })
}

#[cfg(test)]
impl<'a> Tuple<'a> {
    /// A row of one column.
    pub(crate) fn from_text(text: &'a [u8]) -> Self {
        Self(vec![TupleValue::Text(text)])
    }
}

#[cfg(test)]
mod tests;
