//! Positions as Postgres prints them.

use std::str::FromStr;

use crate::entry::Position;

/// A text is not an LSN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an LSN: two hexadecimal numbers and a slash, as in 16/B374D848")]
pub struct LsnError(String);

impl FromStr for Position {
    type Err = LsnError;

    /// Reads an LSN in the form that Postgres prints it, such as `16/B374D848`.
    fn from_str(text: &str) -> Result<Self, LsnError> {
        parse(text).ok_or_else(|| LsnError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Position> {
    let (high, low) = text.split_once('/')?;
    Some(Position::new(half(high)? << 32 | half(low)?))
}

fn half(digits: &str) -> Option<u64> {
    // from_str_radix alone would take a sign.
    let hex = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Reads an LSN out of a row.
pub(crate) fn read(text: &str) -> Result<Position, sqlx::Error> {
    text.parse().map_err(|error: LsnError| sqlx::Error::Decode(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_printed_position_parses_back(bytes: u64) {
            let position = Position::new(bytes);
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }
    }

    #[test]
    fn positions_compare_as_numbers_and_not_as_text() {
        let (late, early) = ("1/0".parse::<Position>(), "0/FFFFFFFF".parse::<Position>());
        assert!(late.unwrap() > early.unwrap());
        assert!("10/0".parse::<Position>().unwrap() > "9/0".parse::<Position>().unwrap());
    }

    #[test]
    fn a_text_that_is_not_an_lsn_is_an_error() {
        for bad in ["", "/", "1", "1/", "/1", "G/0", "+1/0", "1/-1", "1/0/0", "100000000/0", " 1/0"]
        {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
