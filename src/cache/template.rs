//! The tags that a policy names.

use std::sync::Arc;

use crate::entry::Tag;

/// A tag with places for the route's parameters.
#[derive(Clone, Debug)]
pub(crate) struct TagTemplate {
    source: String,
    pieces: Vec<TemplatePiece>,
    /// The tag itself, if it has no parameters.
    fixed: Option<PolicyTag>,
    /// The tags of the table that it narrows, if the name of the table has no parameters.
    table: Option<TableTags>,
}

#[derive(Clone, Debug)]
enum TemplatePiece {
    Text(String),
    Parameter(String),
}

impl TagTemplate {
    pub(super) fn parse(source: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = source;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else { break };
            pieces.push(TemplatePiece::Text(before.into()));
            pieces.push(TemplatePiece::Parameter(name.trim_start_matches('*').into()));
            rest = after;
        }
        pieces.push(TemplatePiece::Text(rest.into()));
        let fixed = (pieces.len() == 1).then(|| PolicyTag::new(rest));
        let table = match &pieces[..] {
            [TemplatePiece::Text(text), ..] => {
                ends(text).map(|(table, _)| TableTags::new(&text[..table]))
            }
            _ => None,
        };
        Self { source: source.into(), pieces, fixed, table }
    }

    /// The names of its parameters.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            TemplatePiece::Parameter(name) => Some(name.as_str()),
            TemplatePiece::Text(_) => None,
        })
    }

    pub(super) fn fault(&self) -> Option<String> {
        let unbalanced = self.pieces.iter().any(|piece| match piece {
            TemplatePiece::Text(text) => text.contains(['{', '}']),
            TemplatePiece::Parameter(name) => name.is_empty(),
        });
        if self.source.trim().is_empty() {
            return Some("it has an empty tag".into());
        }
        unbalanced.then(|| format!("its tag `{}` has an unmatched brace", self.source))
    }

    pub(super) fn fill<'a>(
        &self,
        parameter: impl Fn(&str) -> Option<std::borrow::Cow<'a, str>>,
    ) -> Option<PolicyTag> {
        match &self.fixed {
            Some(tag) => Some(tag.clone()),
            None => Some(PolicyTag::in_table(self.name(parameter)?.into(), self.table)),
        }
    }

    /// The tag's name, with the parameters in it.
    pub(super) fn name<'a>(
        &self,
        parameter: impl Fn(&str) -> Option<std::borrow::Cow<'a, str>>,
    ) -> Option<String> {
        let mut name = String::with_capacity(2 * self.source.len());
        for piece in &self.pieces {
            match piece {
                TemplatePiece::Text(text) => name.push_str(text),
                TemplatePiece::Parameter(wanted) => name.push_str(&parameter(wanted)?),
            }
        }
        Some(name)
    }
}

/// A longer value (in bytes) may be one that the triggers do not record by itself (`postgres/sql/note.sql`): they record
/// all values of more than 2,000 bytes in the server's encoding, in which a character has at most four, under one tag.
const MAY_BE_LONG: usize = 400;

/// A tag that a policy names, with the table and the column that it narrows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyTag {
    tag: Tag,
    name: Arc<str>,
    /// The ends of the table and of the column in the name, if it has the form `table:column=value`.
    ends: Option<(usize, usize)>,
    /// Whether Postgres prints the value in the same form, after normalization. Otherwise the tag of a change to these rows
    /// is unknown, so a response depends on the whole table instead.
    is_exact: bool,
    /// The tag of its table that it comes with, if it narrows one.
    of_table: Option<Tag>,
}

/// The tags of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TableTags {
    /// Of any change.
    all: Tag,
    /// Of changes that are too large to be recorded row by row.
    bulk: Tag,
}

impl TableTags {
    fn new(table: &str) -> Self {
        Self { all: Tag::table(table), bulk: Tag::bulk(table) }
    }
}

/// The ends of the table and of the column in the name of a tag, if it has the form `table:column=value`.
fn ends(name: &str) -> Option<(usize, usize)> {
    let column = name.find('=')?;
    Some((name[..column].rfind(':')?, column))
}

impl PolicyTag {
    pub(crate) fn new(name: impl Into<Arc<str>>) -> Self {
        Self::in_table(name.into(), None)
    }

    /// With the tags of its table, if they are known.
    fn in_table(name: Arc<str>, table: Option<TableTags>) -> Self {
        let ends = ends(&name);
        let is_exact = ends.is_none_or(|(_, column)| Tag::is_exact(&name[column + 1..]));
        let of_table = ends.map(|(end, _)| match (table, is_exact) {
            (Some(table), true) => table.bulk,
            (Some(table), false) => table.all,
            (None, true) => Tag::bulk(&name[..end]),
            (None, false) => Tag::table(&name[..end]),
        });
        Self { tag: Tag::named(&name), name, ends, is_exact, of_table }
    }

    pub(crate) fn tag(&self) -> Tag {
        self.tag
    }

    /// The tag together with its table's bulk tag, or with the table's tag if the value is not exact. For a long value,
    /// also the tag that all long values of the column share.
    pub(crate) fn with_bulk(&self) -> impl Iterator<Item = Tag> + use<> {
        [self.tag].into_iter().chain(self.of_table).chain(self.long_values())
    }

    fn long_values(&self) -> Option<Tag> {
        let (_, column) = self.ends?;
        let (name, value) = self.name.split_at_checked(column)?;
        (value.len() > MAY_BE_LONG).then(|| Tag::named(&format!("{name}>")))
    }
}

#[cfg(feature = "postgres")]
impl PolicyTag {
    /// Table and column.
    fn column_of(&self) -> Option<(&str, &str)> {
        let (table, column) = self.ends?;
        Some((&self.name[..table], &self.name[table + 1..column]))
    }

    /// The tag of the rows with `value` in a column; the value is in the form in which Postgres prints it.
    pub(crate) fn for_column(table: &str, column: &str, value: &str) -> Self {
        let name: Arc<str> = format!("{table}:{column}={value}").into();
        let ends = Some((table.len(), table.len() + 1 + column.len()));
        let of_table = Some(Tag::bulk(table));
        Self { tag: Tag::named(&name), name, ends, is_exact: true, of_table }
    }

    /// Whether changes to the rows that it names have this tag.
    pub(crate) fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// Whether this names one of the `tagged` columns of `table`.
    pub(crate) fn is_column_of(&self, table: &str, tagged: &[String]) -> bool {
        self.column_of()
            .is_some_and(|(of, column)| of == table && tagged.iter().any(|t| t == column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str, value: &str) -> Option<PolicyTag> {
        TagTemplate::parse(template).fill(|name| (name == "id").then(|| value.to_owned().into()))
    }

    #[test]
    fn a_tag_template_is_filled_from_route_parameters() {
        assert_eq!(fill("users:id={id}", "42"), Some(PolicyTag::new("users:id=42")));
        assert_eq!(fill("front-page", "42"), Some(PolicyTag::new("front-page")));
        assert_eq!(fill("users:id={other}", "42"), None);
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_value_cannot_change_which_column_a_tag_names() {
        let tag = fill("users:id={id}", "1:name=ada").unwrap();
        assert!(tag.is_column_of("users", &["id".into()]));
    }

    #[test]
    fn a_long_value_depends_on_all_long_values_of_its_column() {
        let shared = Tag::named("users:id>");
        let long = fill("users:id={id}", &"x".repeat(401)).unwrap();
        assert!(long.with_bulk().any(|tag| tag == shared));
        assert!(long.with_bulk().any(|tag| tag == long.tag()));
        let short = fill("users:id={id}", &"x".repeat(399)).unwrap();
        assert!(short.with_bulk().all(|tag| tag != shared));
    }

    #[test]
    fn a_value_that_postgres_may_spell_otherwise_also_depends_on_the_whole_table() {
        for value in ["0x1", "1_000", "-0b1", " 0O7 ", "1e3", "1.0", "+1_0"] {
            let tag = fill("users:id={id}", value).unwrap();
            assert!(tag.with_bulk().any(|tag| tag == Tag::table("users")), "{value}");
            // An application invalidates by the name that it has given.
            assert!(tag.with_bulk().any(|tag| tag == Tag::named(&format!("users:id={value}"))));
        }
        for value in
            ["1", "-1", " 042 ", "ada", "0xyz", "2024-news", "5f3a9c", "ΟΔΟΣ", "", "-", "_"]
        {
            let tag = fill("users:id={id}", value).unwrap();
            assert!(tag.with_bulk().all(|tag| tag != Tag::table("users")), "{value}");
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_tag_of_a_column_with_separators_in_its_name_is_recognized() {
        let tag = PolicyTag::for_column("a:b", "c=d", "1");
        assert!(tag.is_column_of("a:b", &["c=d".into()]));
        assert_eq!(tag.tag(), Tag::named("a:b:c=d=1"));
    }
}
