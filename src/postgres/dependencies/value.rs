//! What a condition compares a column with, as a tag has it.
//!
//! Nothing of a statement's text is ever given to the server but the statement: a literal is read here, and only
//! if it is spelled in the one way in which Postgres writes that value too. Any other spelling may be of a value
//! that is written differently (`'0x1'` and `1_000` are integers since Postgres 16, `'a''b'` and `E'a\'b'` are one
//! string), so it tells no rows apart. A parameter is asked of the server by its number.

use sqlparser::ast::{CastKind, DataType, Expr, UnaryOperator, Value};

/// Types whose values are equal if, and only if, Postgres writes them the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Integer,
    Text,
    Uuid,
}

/// A type that a cast may name, without a length, which would cut values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Int2,
    Int4,
    Int8,
    Text,
    Varchar,
    Uuid,
}

/// What a column is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Compared {
    value: Spelled,
    /// Innermost first.
    casts: Vec<Kind>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Spelled {
    String(String),
    Number(String),
    Parameter(u16),
}

/// Where the value's text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given {
    /// It is this.
    Literal(String),
    /// The server says what it makes of a parameter.
    Parameter(Parameter),
}

/// A parameter of the statement, cast to types in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    number: u16,
    casts: Vec<Kind>,
}

impl Family {
    /// The family of a type by its number in the catalogue, which is fixed (`pg_type.dat`).
    pub(crate) fn of(oid: i64) -> Option<Self> {
        match oid {
            20 | 21 | 23 => Some(Self::Integer),
            25 | 1043 => Some(Self::Text),
            2950 => Some(Self::Uuid),
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

impl Kind {
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

    fn sql(self) -> &'static str {
        match self {
            Self::Int2 => "pg_catalog.int2",
            Self::Int4 => "pg_catalog.int4",
            Self::Int8 => "pg_catalog.int8",
            Self::Text => "pg_catalog.text",
            Self::Varchar => "pg_catalog.varchar",
            Self::Uuid => "pg_catalog.uuid",
        }
    }

    fn family(self) -> Family {
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 => Family::Integer,
            Self::Text | Self::Varchar => Family::Text,
            Self::Uuid => Family::Uuid,
        }
    }
}

impl Compared {
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
                compared.casts.push(Kind::named(data_type)?);
                Some(compared)
            }
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match literal(expr)? {
                Spelled::Number(digits) => plain(Spelled::Number(format!("-{digits}"))),
                _ => None,
            },
            _ => plain(literal(expr)?),
        }
    }

    /// Where the text comes from by which a column of a family is compared; `None` if it is compared as another
    /// type, or the text could differ from what Postgres writes.
    pub(super) fn given(&self, column: Family) -> Option<Given> {
        let is_column = |kind: &Kind| kind.family() == column;
        match &self.value {
            Spelled::Parameter(number) => {
                let (number, casts) = (*number, self.casts.clone());
                let is_comparable = casts.last().is_none_or(is_column);
                is_comparable.then_some(Given::Parameter(Parameter { number, casts }))
            }
            Spelled::Number(_) if column != Family::Integer => None,
            Spelled::String(text) | Spelled::Number(text) => {
                let is_comparable = self.casts.iter().all(is_column);
                column.written(text).filter(|_| is_comparable).map(Given::Literal)
            }
        }
    }
}

impl Parameter {
    /// A query for the number of the value's type, and for its text as a trigger would write it; made of a number
    /// and words of ours alone.
    pub(crate) fn query(&self) -> String {
        let cast = |value: String, kind: &Kind| format!("({value})::{}", kind.sql());
        let value = self.casts.iter().fold(format!("${}", self.number), cast);
        format!(
            "select pg_catalog.pg_typeof(given.value)::pg_catalog.oid::pg_catalog.int8,
                case when given.value is not null then pg_catalog.concat(given.value) end
            from (select {value}) given (value)"
        )
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
    fn only_the_spelling_that_postgres_writes_is_an_integer() {
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
    fn only_the_usual_spelling_is_a_uuid() {
        let plain = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        assert_eq!(Family::Uuid.written(&plain.to_uppercase()), Some(plain.to_owned()));
        for text in
            ["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc999c0b4ef8bb6d6bb9bd380a11", ""]
        {
            assert_eq!(Family::Uuid.written(text), None, "{text}");
        }
    }

    #[test]
    fn a_parameter_is_asked_for_by_a_number_and_words_of_ours() {
        let parameter = Parameter { number: 7, casts: vec![Kind::Text, Kind::Uuid] };
        assert!(parameter.query().contains("(select (($7)::pg_catalog.text)::pg_catalog.uuid)"));
        for name in ["$0", "$", "$1x", "$+1", "$99999", "?", ":1"] {
            assert_eq!(number(name), None, "{name}");
        }
    }
}
