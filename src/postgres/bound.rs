//! Reads the values that a statement's parameters are bound to, for use in tags.
//!
//! sqlx does not expose single arguments. So a probe is bound after them: when it is encoded, it sees the buffer with all
//! earlier values (each preceded by its length, as in the Bind message, manual chapter "Message Formats"). The types are
//! visible only in the debug text. If anything has an unexpected form, the values count as unknown, and the statement
//! depends on whole tables.

use std::cell::RefCell;
use std::fmt::{self, Write};

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo};
use sqlx::{Arguments, Encode, Postgres, Type};

use super::dependencies::{CastType, Equality, ValueSource, value_mentions_clock};
use crate::cache::PolicyTag;

/// The maximum number of array elements that become tags.
const ELEMENTS: usize = 100;

/// Whether any of the arguments may depend on the time of day, such as `today` bound to `$1::date`.
pub(super) fn mentions_clock(arguments: &PgArguments) -> bool {
    // If the arguments can't be read, assume that they do.
    written(arguments).is_none_or(|buffer| value_mentions_clock(&buffer))
}

/// All arguments as they are sent, each after its length.
fn written(arguments: &PgArguments) -> Option<Vec<u8>> {
    let buffer = RefCell::new(Vec::new());
    arguments.clone().add(ArgumentProbe(&buffer)).ok()?;
    Some(buffer.into_inner())
}

/// The type of an argument.
#[derive(Clone, Copy, Debug)]
struct ArgumentType {
    /// The type of the value, or of an array's elements.
    value: CastType,
    is_array: bool,
}

/// The arguments of a statement.
#[derive(Debug)]
pub(super) struct BoundArguments {
    /// The type of each argument; `None` for types that can't be used in tags.
    kinds: Vec<Option<ArgumentType>>,
    buffer: Vec<u8>,
}

impl BoundArguments {
    pub(super) fn from_arguments(arguments: &PgArguments) -> Option<Self> {
        let kinds = kinds(arguments)?;
        let buffer = written(arguments)?;
        (kinds.len() == arguments.len()).then_some(Self { kinds, buffer })
    }

    /// The tags of the rows of a table that meet a condition; `None` if they are unknown or too many.
    pub(super) fn rows(bound: Option<&Self>, table: &str, by: &Equality) -> Option<Vec<PolicyTag>> {
        let mut rows = Vec::new();
        for given in &by.values {
            let texts = match given {
                ValueSource::Literal(text) => vec![text.clone()],
                ValueSource::Parameter(parameter) => {
                    let (kind, texts) = bound?.texts(parameter.number, parameter.is_array)?;
                    let text = |text| parameter.text(kind, text, by.family);
                    texts.into_iter().map(text).collect::<Option<_>>()?
                }
            };
            rows.extend(texts.iter().map(|text| PolicyTag::for_column(table, &by.column, text)));
        }
        (rows.len() <= ELEMENTS).then_some(rows)
    }

    /// The type of a parameter's value, or of its elements, and how Postgres writes it, or them. NULL is no value.
    fn texts(&self, number: u16, is_array: bool) -> Option<(CastType, Vec<String>)> {
        let at = usize::from(number).checked_sub(1)?;
        let argument = (*self.kinds.get(at)?).filter(|argument| argument.is_array == is_array)?;
        let kind = argument.value;
        let mut left = ByteReader(&self.buffer);
        for _ in 0..at {
            left.value().ok()?;
        }
        let Some(value) = left.value().ok()? else { return Some((kind, Vec::new())) };
        let texts = if is_array { elements(kind, value)? } else { vec![text(kind, value)?] };
        Some((kind, texts))
    }
}

/// Bytes end before they should.
struct Short;

/// Bytes that are read from their beginning.
struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(bytes)?;
        self.0 = left;
        Some(taken)
    }

    fn number(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A value after its length; `None` for NULL.
    fn value(&mut self) -> Result<Option<&'a [u8]>, Short> {
        match self.number().ok_or(Short)? {
            -1 => Ok(None),
            length => {
                let length = length.try_into().map_err(|_| Short)?;
                self.take(length).map(Some).ok_or(Short)
            }
        }
    }
}

/// How Postgres writes a value that is in its binary form.
fn text(kind: CastType, value: &[u8]) -> Option<String> {
    Some(match kind {
        CastType::Int2 => i16::from_be_bytes(value.try_into().ok()?).to_string(),
        CastType::Int4 => i32::from_be_bytes(value.try_into().ok()?).to_string(),
        CastType::Int8 => i64::from_be_bytes(value.try_into().ok()?).to_string(),
        CastType::Text | CastType::Varchar => std::str::from_utf8(value).ok()?.to_owned(),
        CastType::Uuid => uuid(value.try_into().ok()?),
    })
}

/// RFC 9562, section 4.
fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The elements of an array of one dimension in its binary form (`array_send` of Postgres): dimensions, whether there
/// are NULLs, the type, and for each dimension its length and its lower bound.
fn elements(kind: CastType, array: &[u8]) -> Option<Vec<String>> {
    let mut array = ByteReader(array);
    let dimensions = array.number()?;
    array.take(8)?;
    if dimensions == 0 {
        return Some(Vec::new());
    }
    let elements = usize::try_from(array.number()?).ok()?;
    array.take(4)?;
    if dimensions != 1 || elements > ELEMENTS {
        return None;
    }
    let mut texts = Vec::with_capacity(elements);
    for _ in 0..elements {
        if let Some(value) = array.value().ok()? {
            texts.push(text(kind, value)?);
        }
    }
    array.0.is_empty().then_some(texts)
}

/// An argument that encodes as NULL and copies the values bound before it.
struct ArgumentProbe<'a>(&'a RefCell<Vec<u8>>);

impl Type<Postgres> for ArgumentProbe<'_> {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for ArgumentProbe<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.0.borrow_mut().extend_from_slice(buffer);
        Ok(IsNull::Yes)
    }
}

/// The types of arguments, by how they show: `PgArguments { types: [PgTypeInfo(Int4), ..], ..`.
fn kinds(arguments: &PgArguments) -> Option<Vec<Option<ArgumentType>>> {
    /// Takes no more than the types, since the values after them may be long.
    struct Shown(String);
    impl Write for Shown {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.push_str(text);
            if self.0.contains("buffer:") { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut shown = Shown(String::new());
    // It ends early.
    let _ = write!(shown, "{arguments:?}");
    let (types, _) = shown.0.strip_prefix("PgArguments { types: [")?.split_once("], buffer:")?;
    Some(types.split(", ").filter(|name| !name.is_empty()).map(kind).collect())
}

fn kind(shown: &str) -> Option<ArgumentType> {
    let name = shown.strip_prefix("PgTypeInfo(")?.strip_suffix(')')?;
    let (name, is_array) = name.strip_suffix("Array").map_or((name, false), |name| (name, true));
    let value = match name {
        "Int2" => CastType::Int2,
        "Int4" => CastType::Int4,
        "Int8" => CastType::Int8,
        "Text" => CastType::Text,
        "Varchar" => CastType::Varchar,
        "Uuid" => CastType::Uuid,
        _ => return None,
    };
    Some(ArgumentType { value, is_array })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bound() -> BoundArguments {
        let mut arguments = PgArguments::default();
        arguments.add(7_i32).unwrap();
        arguments.add("it's, PgTypeInfo(Int4)], buffer: ").unwrap();
        arguments.add(Option::<i64>::None).unwrap();
        arguments.add(vec![-1_i64, 2]).unwrap();
        arguments.add(vec![Some("a"), None, Some("")]).unwrap();
        arguments.add(1.5_f64).unwrap();
        arguments.add(Vec::<i16>::new()).unwrap();
        arguments.add(-3_i16).unwrap();
        arguments.add(vec![0_i32; ELEMENTS + 1]).unwrap();
        BoundArguments::from_arguments(&arguments).unwrap()
    }

    #[test]
    fn bound_values_are_read_by_their_number_and_type() {
        let bound = bound();
        let texts = |number| bound.texts(number, false);
        assert_eq!(texts(1), Some((CastType::Int4, vec!["7".into()])));
        assert_eq!(texts(2).unwrap().1, ["it's, PgTypeInfo(Int4)], buffer: "]);
        assert_eq!(texts(3), Some((CastType::Int8, vec![])), "NULL is in no row");
        assert_eq!(texts(8), Some((CastType::Int2, vec!["-3".into()])));
        for other in [0, 4, 6, 10] {
            assert_eq!(texts(other), None, "{other}");
        }
    }

    #[test]
    fn elements_of_a_bound_array_are_read_one_by_one() {
        let bound = bound();
        let texts = |number| bound.texts(number, true);
        assert_eq!(texts(4), Some((CastType::Int8, vec!["-1".into(), "2".into()])));
        assert_eq!(texts(5), Some((CastType::Text, vec!["a".into(), String::new()])));
        assert_eq!(texts(7), Some((CastType::Int2, vec![])));
        assert_eq!(texts(9), None, "there are too many");
        assert_eq!(texts(1), None, "it is no array");
    }

    #[test]
    fn a_bound_argument_that_names_a_relative_date_reads_the_clock() {
        let mut arguments = PgArguments::default();
        assert!(!mentions_clock(&arguments));
        arguments.add(7_i32).unwrap();
        arguments.add(vec!["2026-11-29"]).unwrap();
        assert!(!mentions_clock(&arguments));
        arguments.add(vec!["2026-11-29", "Today"]).unwrap();
        assert!(mentions_clock(&arguments));
    }

    #[test]
    fn a_uuid_is_written_in_five_groups() {
        let bytes = [0xA0, 0xEE, 0xBC, 0x99, 0x9C, 0x0B, 0x4E, 0xF8];
        let bytes = [bytes, [0xBB, 0x6D, 0x6B, 0xB9, 0xBD, 0x38, 0x0A, 0x11]].concat();
        assert_eq!(text(CastType::Uuid, &bytes).unwrap(), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
    }
}
