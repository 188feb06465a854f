//! Tags: names of what an entry depends on.

use std::borrow::Cow;
use std::fmt;

use super::position::first_u64;
use super::text::Text;

/// The name of something that an entry depends on: a table (`users`), the rows of a table with a value in a column
/// (`users:id=42`), or a custom name of the application's (`front-page`).
///
/// Only a hash of the name is stored. Two names with the same hash share a fence, which can cost an unnecessary miss, and
/// never causes a stale response. Values are normalized first, so that the path `/users/042` and the row with `id = 42`
/// have the same tag: surrounding white space and letter case are ignored, integers lose their plus sign and leading
/// zeros, and UUIDs their punctuation.
///
/// ```
/// use tidegate::Tag;
///
/// assert_eq!(Tag::named("users:id=042"), Tag::column("users", "id", "42"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u64);

impl Tag {
    /// The tag with this name, in any of the three forms. Everything after the first `=` is normalized as a value,
    /// even if that `=` is part of a table's or a column's name. Nodes read the names of changed tags in the change
    /// log, and turn them into tags by this function. So each of the other constructors joins its arguments into a
    /// name, and returns the tag that `named` returns for this name.
    pub fn named(name: &str) -> Self {
        match name.split_once('=') {
            Some((column, value)) => Self::from_pieces(&[column, "=", &canonical_parts(value)]),
            None => Self::from_pieces(&[name]),
        }
    }

    /// The tag of a whole table.
    pub fn table(table: &str) -> Self {
        Self::named(table)
    }

    /// The tag of the rows that have `value` in `column`, before or after a change.
    pub fn column(table: &str, column: &str, value: &str) -> Self {
        if table.contains('=') || column.contains('=') {
            return Self::named(&[table, ":", column, "=", value].concat());
        }
        Self::from_pieces(&[table, ":", column, "=", &canonical_parts(value)])
    }

    /// The tag of changes to a table that are too large to be recorded row by row, such as TRUNCATE. An entry that depends
    /// on rows of the table has this tag too.
    pub fn bulk(table: &str) -> Self {
        if table.contains('=') {
            return Self::named(&[table, "!"].concat());
        }
        Self::from_pieces(&[table, "!"])
    }

    /// Whether a value normalizes to the same form as in a change to its rows. Changes contain values as Postgres prints
    /// them. But Postgres also accepts integers in other notations (since version 16 in another base, or with underscores),
    /// and an application may accept numbers with a fraction or an exponent.
    pub(crate) fn is_exact(value: &str) -> bool {
        let value = value.trim();
        let digits = value.strip_prefix(['-', '+']).unwrap_or(value);
        let starts = |marks: [&str; 2]| marks.iter().any(|mark| digits.starts_with(mark));
        let has_base = |base: u32| {
            let rest = &digits[2..];
            !rest.is_empty() && rest.chars().all(|c| c == '_' || c.is_digit(base))
        };
        let in_base = starts(["0x", "0X"]) && has_base(16)
            || starts(["0o", "0O"]) && has_base(8)
            || starts(["0b", "0B"]) && has_base(2);
        let is_grouped = digits.starts_with(|c: char| c.is_ascii_digit())
            && digits.contains('_')
            && digits.chars().all(|c| c == '_' || c.is_ascii_digit());
        let is_fraction = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && integer(value).is_none()
            && digits.parse::<f64>().is_ok();
        !(in_base || is_grouped || is_fraction)
    }

    /// The hash of the name.
    pub const fn hash(self) -> u64 {
        self.0
    }

    #[cfg(any(feature = "postgres", feature = "redis", feature = "__internals"))]
    pub(crate) const fn from_hash(hash: u64) -> Self {
        Self(hash)
    }

    fn from_pieces(pieces: &[&str]) -> Self {
        let mut text = Text::new();
        for piece in pieces {
            text.extend(piece.as_bytes());
        }
        Self(first_u64(blake3::hash(text.as_slice()).as_bytes()))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({:016x})", self.0)
    }
}

/// Normalizes each part between two `=` on its own, since the first part may be the rest of a name.
fn canonical_parts(value: &str) -> Cow<'_, str> {
    if !value.contains('=') {
        return canonical(value);
    }
    let parts: Vec<Cow<'_, str>> = value.split('=').map(canonical).collect();
    parts.join("=").into()
}

/// Normalizes a value. Merging two values that Postgres distinguishes costs an unnecessary miss, but distinguishing two
/// values that a handler treats as equal would hide a change. So this merges freely.
fn canonical(value: &str) -> Cow<'_, str> {
    let value = value.trim();
    if let Some(integer) = integer(value) {
        return integer;
    }
    if let Some(uuid) = uuid(value) {
        return uuid.into();
    }
    if value.is_ascii() {
        return value.to_ascii_lowercase().into();
    }
    let mut form = String::with_capacity(value.len());
    value.chars().flat_map(folded).for_each(|c| push(&mut form, c));
    form.into()
}

/// Maps a character and everything that `lower` or `upper` of any language turns it into to one form, at any place in a
/// word. The exception is ICU's `upper` in Greek, which drops accents.
fn folded(c: char) -> impl Iterator<Item = char> {
    let upper = c.to_lowercase().flat_map(char::to_uppercase);
    upper.flat_map(char::to_lowercase)
}

/// Drops the combining dot above and splits accents off `i`: Turkish takes the dot of an `i` away, and Lithuanian puts one
/// between an `i` and its accent.
fn push(form: &mut String, c: char) {
    match c {
        '\u{307}' => {}
        'ì' => form.push_str("i\u{300}"),
        'í' => form.push_str("i\u{301}"),
        'ĩ' => form.push_str("i\u{303}"),
        _ => form.push(c),
    }
}

fn integer(value: &str) -> Option<Cow<'_, str>> {
    let (sign, digits) = match value.as_bytes().first()? {
        b'-' => ("-", &value[1..]),
        b'+' => ("", &value[1..]),
        _ => ("", value),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    Some(match (sign, digits) {
        (_, "") => "0".into(),
        ("", digits) => digits.into(),
        (sign, digits) => format!("{sign}{digits}").into(),
    })
}

fn uuid(value: &str) -> Option<String> {
    let value = value.to_ascii_lowercase();
    let value = value.strip_prefix("urn:uuid:").unwrap_or(&value);
    let hex: String = value.chars().filter(|c| !matches!(c, '-' | '{' | '}')).collect();
    (hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then_some(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_bulk_and_column_tags_equal_the_tags_of_their_names() {
        assert_eq!(Tag::named("users"), Tag::table("users"));
        assert_eq!(Tag::named("users!"), Tag::bulk("users"));
        assert_eq!(Tag::named("users:id=42"), Tag::column("users", "id", "42"));
        assert_ne!(Tag::named("users:id=42"), Tag::named("users:id=43"));
    }

    #[test]
    fn all_spellings_of_a_value_make_one_tag() {
        for same in ["42", " 42", "+42", "0042"] {
            assert_eq!(Tag::column("t", "c", same), Tag::column("t", "c", "42"), "{same}");
        }
        assert_eq!(Tag::column("t", "c", "-007"), Tag::column("t", "c", "-7"));
        assert_eq!(Tag::column("t", "c", "-0"), Tag::column("t", "c", "0"));
        assert_eq!(Tag::column("t", "c", "Ada"), Tag::column("t", "c", "ADA"));
        let plain = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for same in [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
            "urn:uuid:a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ] {
            assert_eq!(Tag::column("t", "c", same), Tag::column("t", "c", plain), "{same}");
        }
    }

    #[test]
    fn values_that_lower_maps_together_in_any_locale_make_one_tag() {
        for same in [["ΟΔΟΣ", "οδος", "οδοσ"], ["İI", "ii", "ıi"], ["STRASSE", "straße", "STRAẞE"]]
        {
            for value in same {
                let tag = Tag::column("t", "c", value);
                assert_eq!(tag, Tag::column("t", "c", same[0]), "{value}");
            }
        }
        assert_ne!(Tag::column("t", "c", "é"), Tag::column("t", "c", "è"));
    }

    #[test]
    fn a_value_may_contain_the_separators() {
        assert_eq!(Tag::named("t:c=a=b:c"), Tag::column("t", "c", "a=b:c"));
        assert_eq!(Tag::named("t:c="), Tag::column("t", "c", ""));
    }

    #[test]
    fn tags_equal_those_of_their_names_even_if_names_contain_separators() {
        for table in ["a=B", "s.a=007", "a=", "=", "a:b=C", "A= b =c", "users"] {
            assert_eq!(Tag::named(table), Tag::table(table), "{table}");
            assert_eq!(Tag::named(&format!("{table}!")), Tag::bulk(table), "{table}");
            for column in ["id", "X=Y", "="] {
                for value in ["042", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", " Ada", "a=B", ""] {
                    let name = format!("{table}:{column}={value}");
                    assert_eq!(Tag::named(&name), Tag::column(table, column, value), "{name}");
                }
                let (long, plain) =
                    (Tag::column(table, column, "+042"), Tag::column(table, column, "42"));
                assert_eq!(long, plain, "{table}:{column}");
            }
        }
        assert_ne!(Tag::table("a=B"), Tag::bulk("a=B"));
        assert_ne!(Tag::column("a=B", "id", "1"), Tag::column("a=B", "id", "2"));
    }
}
