//! The requests of readers, and the parts of their responses.
//!
//! A response is text: for each part a line that names it (`? row 3`), then a line for each row (`3 17 5`: its number, its
//! version, its group) or for each property of the schema (`label home`). Each part is judged by itself, whichever
//! cache it came from.

use std::fmt;

use super::{GROUPS, ROWS};

/// Pages, which handlers compute from other cached results.
pub(crate) const PAGES: usize = 12;
/// The number of rows of one `get_many`.
const MANY: usize = 5;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Row(usize),
    Group(u32),
    All,
    /// A cached route whose handler uses other caches.
    Page(usize),
    /// One piece, from a route without a policy: only the results that its handler uses are cached.
    Value(Piece),
    /// The text that shows the schema, from a cached route; `SchemaValues` is from cached queries.
    Schema,
    SchemaValues,
}

/// A result that a handler uses, by how it obtains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A read of the database
    Read(usize),
    /// Another cached router
    Route(&'static Question),
    Page(usize),
    Row(usize),
    /// `db.cached`
    Query(u32),
    /// `get_or_load`
    One(usize),
    /// `get_or_load` whose loader uses `get_or_load` and a cached router
    Nested(usize),
    /// `get_many`
    Many(usize),
}

/// One part of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Row(usize),
    Group(u32),
    All,
    Schema,
}

impl Question {
    pub(crate) fn path(self) -> String {
        match self {
            Self::Row(row) => format!("/rows/{row}"),
            Self::Group(group) => format!("/groups/{group}"),
            Self::All => "/rows".into(),
            Self::Page(page) => format!("/pages/{page}"),
            Self::Value(piece) => piece.path(),
            Self::Schema => "/schema".into(),
            Self::SchemaValues => "/schema/values".into(),
        }
    }

    /// Its name in the report.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::Row(_) | Self::Group(_) | Self::All => "a route",
            Self::Page(_) => "a route computed from other cached results",
            Self::Value(Piece::Query(_)) => "db.cached",
            Self::Value(Piece::One(_)) => "get_or_load",
            Self::Value(Piece::Nested(_)) => "get_or_load that uses other cached results",
            Self::Value(Piece::Many(_)) => "get_many",
            Self::Value(_) => "db.reader(), not cached",
            Self::Schema => "the schema, by a route",
            Self::SchemaValues => "the schema, by db.cached",
        }
    }

    /// The parts of the response, in order.
    pub(crate) fn parts(self) -> Vec<Part> {
        match self {
            Self::Row(row) => vec![Part::Row(row)],
            Self::Group(group) => vec![Part::Group(group)],
            Self::All => vec![Part::All],
            Self::Page(page) => pieces(page).into_iter().flat_map(Piece::parts).collect(),
            Self::Value(piece) => piece.parts(),
            Self::Schema | Self::SchemaValues => vec![Part::Schema],
        }
    }
}

impl Piece {
    fn path(self) -> String {
        match self {
            Self::Read(row) => format!("/values/read/{row}"),
            Self::Route(question) => question.path(),
            Self::Page(page) => Question::Page(page).path(),
            Self::Row(row) => Question::Row(row).path(),
            Self::Query(group) => format!("/values/query/{group}"),
            Self::One(row) => format!("/values/one/{row}"),
            Self::Nested(row) => format!("/values/nested/{row}"),
            Self::Many(row) => format!("/values/many/{row}"),
        }
    }

    /// The piece that a path `/values/{way}/{number}` names.
    pub(crate) fn named(way: &str, number: u32) -> Option<Self> {
        let row = usize::try_from(number).ok().filter(|row| *row < ROWS);
        match way {
            "read" => row.map(Self::Read),
            "query" => Some(number).filter(|group| *group < GROUPS).map(Self::Query),
            "one" => row.map(Self::One),
            "nested" => row.map(Self::Nested),
            "many" => row.map(Self::Many),
            _ => None,
        }
    }

    fn parts(self) -> Vec<Part> {
        match self {
            Self::Read(row) | Self::One(row) | Self::Row(row) => vec![Part::Row(row)],
            Self::Route(question) => question.parts(),
            Self::Page(page) => Question::Page(page).parts(),
            Self::Query(group) => vec![Part::Group(group)],
            Self::Nested(row) => vec![Part::Row(row), Part::Row(next(row))],
            Self::Many(row) => many(row).map(Part::Row).collect(),
        }
    }
}

/// What a page is computed from. The last ones use other pages.
pub(crate) fn pieces(page: usize) -> Vec<Piece> {
    let row = |offset: usize| (page * 3 + offset) % ROWS;
    let group = u32::try_from(page).unwrap_or_default() % GROUPS;
    match page {
        0..5 => {
            vec![Piece::Row(row(0)), Piece::Query(group), Piece::One(row(7)), Piece::Many(row(11))]
        }
        5..9 => {
            let schema = Piece::Route(&Question::Schema);
            vec![Piece::One(row(0)), schema, Piece::Nested(row(1)), Piece::Read(row(4))]
        }
        _ => vec![Piece::Page(page - 9), Piece::Many(row(0)), Piece::Page(page - 4)],
    }
}

/// The rows of a `get_many`.
pub(crate) fn many(first: usize) -> impl Iterator<Item = usize> {
    (first..first + MANY).map(|row| row % ROWS)
}

pub(crate) const fn next(row: usize) -> usize {
    (row + 1) % ROWS
}

impl Part {
    /// The part that a line names.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("? ")?.split(' ');
        match (words.next()?, words.next()) {
            ("row", Some(row)) => row.parse().ok().map(Self::Row),
            ("group", Some(group)) => group.parse().ok().map(Self::Group),
            ("all", None) => Some(Self::All),
            ("schema", None) => Some(Self::Schema),
            _ => None,
        }
    }
}

/// The line that names the part.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row(row) => writeln!(f, "? row {row}"),
            Self::Group(group) => writeln!(f, "? group {group}"),
            Self::All => writeln!(f, "? all"),
            Self::Schema => writeln!(f, "? schema"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_parses_back_from_its_printed_line() {
        for part in [Part::Row(7), Part::Group(2), Part::All, Part::Schema] {
            assert_eq!(Part::parse(part.to_string().trim_end()), Some(part));
        }
        assert_eq!(Part::parse("7 1 2"), None);
    }

    #[test]
    fn the_generated_pages_use_every_kind_of_piece() {
        let all: Vec<Piece> = (0..PAGES).flat_map(pieces).collect();
        for name in ["Read", "Route", "Page", "Row", "Query", "One", "Nested", "Many"] {
            assert!(all.iter().any(|piece| format!("{piece:?}").starts_with(name)), "{name}");
        }
        assert!(Question::Page(PAGES - 1).parts().contains(&Part::Schema));
    }
}
