//! Where a body ends (RFC 9112, sections 6 and 7).

/// The rest of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// This many bytes.
    Length(u64),
    Chunked(Chunk),
    /// Everything until the server closes the connection.
    UntilClose,
}

/// A position in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// In the digits of a chunk's size; whether there has been a digit.
    Size(u64, bool),
    /// In a chunk extension, which is skipped.
    Extension(u64),
    /// In the data and the line end that follows it.
    Data(u64),
    /// In the trailer section; whether the current line has any content.
    Trailer(bool),
}

/// A malformed chunk size.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadChunk;

impl Body {
    pub(super) const CHUNKED: Self = Self::Chunked(Chunk::Size(0, false));

    pub(super) fn is_over(self) -> bool {
        self == Self::Length(0)
    }

    /// Consumes the bytes at the front that belong to the body, and returns how many.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let mut taken = 0;
        while taken < bytes.len() && !self.is_over() {
            taken += self.step(&bytes[taken..])?;
        }
        Ok(taken)
    }

    fn step(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        match self {
            Self::UntilClose => Ok(bytes.len()),
            Self::Length(left) => Ok(skip(left, bytes)),
            Self::Chunked(Chunk::Data(left)) => {
                let skipped = skip(left, bytes);
                if *left == 0 {
                    *self = Self::CHUNKED;
                }
                Ok(skipped)
            }
            Self::Chunked(chunk) => {
                *self = chunk.after(bytes[0])?.map_or(Self::Length(0), Self::Chunked);
                Ok(1)
            }
        }
    }
}

impl Chunk {
    /// The position after one more byte; `None` at the end of the body.
    fn after(self, byte: u8) -> Result<Option<Self>, BadChunk> {
        let next = match (self, byte) {
            (Self::Size(size, true) | Self::Extension(size), b'\n') => Self::begun(size)?,
            (Self::Size(size, has_digits), byte) => match char::from(byte).to_digit(16) {
                Some(digit) => Self::Size(longer(size, digit).ok_or(BadChunk)?, true),
                None if has_digits && matches!(byte, b'\r' | b';' | b' ' | b'\t') => {
                    Self::Extension(size)
                }
                None => return Err(BadChunk),
            },
            (Self::Trailer(false), b'\n') => return Ok(None),
            (Self::Trailer(_), b'\n') => Self::Trailer(false),
            (Self::Trailer(has), byte) => Self::Trailer(has || byte != b'\r'),
            (unread, _) => unread,
        };
        Ok(Some(next))
    }

    /// The position after the line with the chunk's size.
    fn begun(size: u64) -> Result<Self, BadChunk> {
        match size {
            0 => Ok(Self::Trailer(false)),
            size => Ok(Self::Data(size.checked_add(2).ok_or(BadChunk)?)),
        }
    }
}

fn longer(size: u64, digit: u32) -> Option<u64> {
    size.checked_mul(16)?.checked_add(u64::from(digit))
}

fn skip(left: &mut u64, bytes: &[u8]) -> usize {
    let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *left -= skipped as u64;
    skipped
}
