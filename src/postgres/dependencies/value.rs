//! The values that a condition compares a column with, in the form that tags use.
//!
//! Parts of a statement's text are never sent to the server, only the whole statement. So a literal is read here, and only
//! if it is spelled exactly as Postgres writes the value. Any other spelling may be of a value that is written differently
//! (`'0x1'` and `1_000` are integers since Postgres 16, `'a''b'` and `E'a\'b'` are the same string), so the condition is
//! ignored. The value of a parameter is read by `postgres/bound.rs`.

use sqlparser::ast::{ArrayElemTypeDef, CastKind, DataType, Expr, UnaryOperator, Value};

/// Types whose values are equal if, and only if, Postgres writes them the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Integer,
    Text,
    Uuid,
}

/// A type that a cast may name, without a length, which would cut values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CastType {
    Int2,
    Int4,
    Int8,
    Text,
    Varchar,
    Uuid,
}

/// The right side of a comparison with a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ComparedWith {
    value: Spelled,
    /// Innermost first.
    casts: Vec<CastType>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Spelled {
    String(String),
    Number(String),
    Parameter(u16),
    /// One whose elements are meant.
    Array(u16),
}

/// Where the value's text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueSource {
    /// It is this.
    Literal(String),
    /// It is the value that a parameter is bound to.
    Parameter(Parameter),
}

/// A parameter of the statement, cast to types in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    /// From 1 on.
    pub(crate) number: u16,
    casts: Vec<CastType>,
    /// It is an array, and each of its elements is meant; the casts are of elements.
    pub(crate) is_array: bool,
}

impl Family {
    /// The family of a type by its number in the catalogue, which is fixed (`pg_type.dat`).
    pub(crate) fn from_oid(oid: i64) -> Option<Self> {
        match oid {
            20 | 21 | 23 => Some(Self::Integer),
            25 | 1043 => Some(Self::Text),
            2950 => Some(Self::Uuid),
            _ => None,
        }
    }

    /// A value's text after a cast from this family to a type, unless the cast fails in the statement. `None` if Postgres
    /// may write the value differently.
    fn cast(self, text: String, kind: CastType) -> Option<String> {
        match (self, kind.family()) {
            (from, to) if from == to => Some(text),
            (Self::Text, to) => to.written(&text),
            (_, Self::Text) => Some(text),
            _ => None,
        }
    }

    /// A literal's text as Postgres writes the value, if it is spelled so.
    fn written(self, text: &str) -> Option<String> {
        let is_so = match self {
            Self::Integer => is_integer(text),
            Self::Text => !text.contains(|c: char| matches!(c, '\'' | '\\') || c.is_control()),
            Self::Uuid => is_uuid(text),
        };
        is_so.then(|| if self == Self::Uuid { text.to_ascii_lowercase() } else { text.to_owned() })
    }
}

impl CastType {
    /// The words of the types, some of which a search path could lead elsewhere.
    pub(super) const WORDS: [&str; 6] = ["int2", "int4", "int8", "text", "varchar", "uuid"];

    fn named(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Int2(None) | DataType::SmallInt(None) => Some(Self::Int2),
            DataType::Int(None) | DataType::Int4(None) | DataType::Integer(None) => {
                Some(Self::Int4)
            }
            DataType::Int8(None) | DataType::BigInt(None) => Some(Self::Int8),
            DataType::Text => Some(Self::Text),
            DataType::Varchar(None) | DataType::CharacterVarying(None) => Some(Self::Varchar),
            DataType::Uuid => Some(Self::Uuid),
            _ => None,
        }
    }

    pub(crate) fn family(self) -> Family {
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 => Family::Integer,
            Self::Text | Self::Varchar => Family::Text,
            Self::Uuid => Family::Uuid,
        }
    }
}

impl ComparedWith {
    /// A literal, a parameter, or one of these as another type.
    pub(super) fn read(expr: &Expr) -> Option<Self> {
        let plain = |value| Some(Self { value, casts: Vec::new() });
        match expr {
            Expr::Nested(inner) => Self::read(inner),
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
                ..
            } => {
                let mut compared = Self::read(expr)?;
                compared.casts.push(CastType::named(data_type)?);
                Some(compared)
            }
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match literal(expr)? {
                Spelled::Number(digits) => plain(Spelled::Number(format!("-{digits}"))),
                _ => None,
            },
            _ => plain(literal(expr)?),
        }
    }

    /// A parameter that is an array, or one of these as an array of another type, for `ANY`.
    pub(super) fn read_array(expr: &Expr) -> Option<Self> {
        match expr {
            Expr::Nested(inner) => Self::read_array(inner),
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(element, None)),
                format: None,
                ..
            } => {
                let mut compared = Self::read_array(expr)?;
                compared.casts.push(CastType::named(element)?);
                Some(compared)
            }
            _ => match literal(expr)? {
                Spelled::Parameter(number) => {
                    Some(Self { value: Spelled::Array(number), casts: Vec::new() })
                }
                _ => None,
            },
        }
    }

    /// The source of the text that a column of a family is compared with; `None` if it is compared as another type, or if
    /// the text could differ from the one that Postgres writes.
    pub(super) fn given(&self, column: Family) -> Option<ValueSource> {
        let is_column = |kind: &CastType| kind.family() == column;
        match &self.value {
            Spelled::Parameter(number) | Spelled::Array(number) => {
                let is_array = matches!(self.value, Spelled::Array(_));
                let (number, casts) = (*number, self.casts.clone());
                let is_comparable = casts.last().is_none_or(is_column);
                is_comparable.then_some(ValueSource::Parameter(Parameter {
                    number,
                    casts,
                    is_array,
                }))
            }
            Spelled::Number(_) if column != Family::Integer => None,
            Spelled::String(text) | Spelled::Number(text) => {
                let is_comparable = self.casts.iter().all(is_column);
                column.written(text).filter(|_| is_comparable).map(ValueSource::Literal)
            }
        }
    }
}

impl Parameter {
    /// The text, as a trigger would write it, of a value that the parameter is bound to; `None` if it is compared as
    /// another family than the column's, or may be written differently.
    pub(crate) fn text(&self, kind: CastType, text: String, column: Family) -> Option<String> {
        let cast = |(family, text): (Family, String), to: &CastType| {
            Some((to.family(), family.cast(text, *to)?))
        };
        let (family, text) = self.casts.iter().try_fold((kind.family(), text), cast)?;
        (family == column).then_some(text)
    }
}

fn literal(expr: &Expr) -> Option<Spelled> {
    let Expr::Value(value) = expr else { return None };
    match &value.value {
        Value::SingleQuotedString(text) => Some(Spelled::String(text.clone())),
        Value::Number(digits, false) => Some(Spelled::Number(digits.clone())),
        Value::Placeholder(name) => Some(Spelled::Parameter(number(name)?)),
        _ => None,
    }
}

fn number(name: &str) -> Option<u16> {
    let digits = name.strip_prefix('$')?;
    let number = digits.parse().ok().filter(|number| *number > 0)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then_some(number)
}

/// Digits as Postgres writes a `bigint`, and few enough to be one.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_short = (1..=18).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    is_short && (text == "0" || !digits.starts_with('0'))
}

/// Hexadecimal digits in five groups, RFC 9562, section 4.
fn is_uuid(text: &str) -> bool {
    let is_right = |(at, b): (usize, u8)| match at {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(is_right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_integer_spelling_is_accepted() {
        for text in ["0", "1", "-1", "42", "999999999999999999", "-999999999999999999"] {
            assert_eq!(Family::Integer.written(text), Some(text.to_owned()));
        }
        for text in [
            "",
            "-",
            "-0",
            "00",
            "01",
            "+1",
            " 1",
            "1 ",
            "0x1",
            "0b1",
            "0o7",
            "1_000",
            "1.0",
            "1e0",
            "1000000000000000000",
            "--1",
            "１",
            "٣",
        ] {
            assert_eq!(Family::Integer.written(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_hyphenated_uuid_spelling_is_accepted() {
        let plain = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        assert_eq!(Family::Uuid.written(&plain.to_uppercase()), Some(plain.to_owned()));
        for text in
            ["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc999c0b4ef8bb6d6bb9bd380a11", ""]
        {
            assert_eq!(Family::Uuid.written(text), None, "{text}");
        }
    }

    #[test]
    fn a_bound_value_is_read_as_the_type_that_it_is_cast_to() {
        let bound = |casts: &[CastType], kind, text: &str, column| {
            let parameter = Parameter { number: 1, casts: casts.to_vec(), is_array: false };
            parameter.text(kind, text.to_owned(), column)
        };
        let (integer, text) = (Family::Integer, Family::Text);
        assert_eq!(bound(&[], CastType::Int8, "7", integer).as_deref(), Some("7"));
        assert_eq!(bound(&[CastType::Int4], CastType::Int8, "7", integer).as_deref(), Some("7"));
        assert_eq!(bound(&[CastType::Int4], CastType::Text, "7", integer).as_deref(), Some("7"));
        assert_eq!(bound(&[CastType::Int4], CastType::Text, "07", integer), None);
        assert_eq!(bound(&[CastType::Text], CastType::Int4, "7", text).as_deref(), Some("7"));
        assert_eq!(bound(&[CastType::Uuid], CastType::Int4, "7", Family::Uuid), None);
        assert_eq!(bound(&[], CastType::Int4, "7", text), None);
    }

    #[test]
    fn only_a_dollar_and_a_positive_number_is_a_parameter() {
        assert_eq!(number("$7"), Some(7));
        for name in ["$0", "$", "$1x", "$+1", "$99999", "?", ":1"] {
            assert_eq!(number(name), None, "{name}");
        }
    }
}
