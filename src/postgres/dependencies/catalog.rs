//! Resolves the names in a query by querying the server's catalogue.
//!
//! These declarations are trusted: the volatility of an IMMUTABLE function, unless the catalogue shows that its body reads
//! something ([`bodies`]); the input and output functions and index support functions of user-defined types; the
//! constraints of domains; and casts from a user-defined type if only a parameter has this type. It is assumed that the
//! search path and all settings that affect how a value is written (`TimeZone`, `DateStyle`) are the same on all
//! connections of a pool, and that no connection has a temporary table that hides a real one or inherits from one.

mod bodies;
mod functions;
mod operators;
mod printed;
mod relations;
mod search_stop;
mod stable;
mod statement_parts;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use super::clock::mentions_clock;
use super::parse::{Analysis, analyze};
use super::references::References;
use super::tracked_table::{Dependencies, TrackedTable};
use super::unanalyzable::Unanalyzable;
use relations::{Relation, RelationKind};
use search_stop::SearchStop;
use statement_parts::StatementParts;

/// Resolves `references`, as [`resolve_with_clock`] does.
#[cfg(test)]
pub(crate) async fn resolve(
    conn: &mut PgConnection,
    references: &References,
) -> Result<Dependencies, sqlx::Error> {
    Ok(resolve_with_clock(conn, references).await?.0)
}

/// Resolves `references` on this connection, and returns whether a view, a default or a function's body may read the time
/// of day. It runs its own statements, so the connection must not be in a failed transaction.
///
/// # Errors
///
/// If the server can't be queried. A query that can't be cached is not an error.
pub(crate) async fn resolve_with_clock(
    conn: &mut PgConnection,
    references: &References,
) -> Result<(Dependencies, bool), sqlx::Error> {
    let (seen, tables, parts) = (BTreeSet::new(), BTreeMap::new(), StatementParts::default());
    let mut search = CatalogSearch { conn, seen, tables, parts, reads_clock: false };
    match search.run(references.clone()).await {
        Ok(()) => {
            let tables = search.tables.into_values().collect();
            Ok((Dependencies::Tables(tables), search.reads_clock))
        }
        Err(SearchStop::Unanalyzable(unanalyzable)) => {
            Ok((Dependencies::Unanalyzable(unanalyzable), false))
        }
        Err(SearchStop::Database(error)) => Err(error),
    }
}

struct CatalogSearch<'a> {
    conn: &'a mut PgConnection,
    /// Visited relations and functions, by oid.
    seen: BTreeSet<i64>,
    /// Topmost tables, by oid.
    tables: BTreeMap<i64, TrackedTable>,
    parts: StatementParts,
    /// A view, the default of an argument or the body of a function may read the time of day.
    reads_clock: bool,
}

impl CatalogSearch<'_> {
    /// Follows views and the defaults of arguments until only tables are left.
    async fn run(&mut self, references: References) -> Result<(), SearchStop> {
        operators::settings(self.conn).await?;
        let mut texts = vec![references];
        while let Some(references) = texts.pop() {
            self.parts.add(&references);
            let functions = functions::named(self.conn, &references).await?;
            self.functions(functions, &references, &mut texts).await?;
            let relations = relations::named(self.conn, &references.relations).await?;
            self.relations(relations, &mut texts).await?;
        }
        printed::judge(self.conn, &self.parts).await?;
        self.reads_clock |= operators::judge(self.conn, &self.parts).await?;
        Ok(())
    }

    async fn functions(
        &mut self,
        functions: Vec<functions::Function>,
        references: &References,
        texts: &mut Vec<References>,
    ) -> Result<(), SearchStop> {
        // A function that writes must not be hidden by another reason.
        let reasons = functions.iter().filter_map(|one| one.judge(&references.calls).err());
        if let Some(worst) = reasons.max_by_key(Unanalyzable::severity) {
            return Err(worst.into());
        }
        let mut found = Vec::new();
        for function in functions {
            self.parts.functions.insert(function.oid);
            if !self.seen.insert(function.oid) {
                continue;
            }
            found.push(function.oid);
            if let Some(defaults) = function.defaults {
                self.reads_clock |= mentions_clock(&defaults);
                texts.push(read(&format!("select {defaults}"))?);
            }
        }
        self.reads_clock |= bodies::check(self.conn, &found).await?;
        Ok(())
    }

    async fn relations(
        &mut self,
        mut relations: Vec<Relation>,
        texts: &mut Vec<References>,
    ) -> Result<(), SearchStop> {
        while let Some(relation) = relations.pop() {
            self.parts.relations.insert(relation.oid);
            match relation.judge()? {
                _ if !self.seen.insert(relation.oid) => {}
                RelationKind::Table => {
                    let (root, table) = tables::tracked(self.conn, &relation).await?;
                    self.tables.insert(root, table);
                }
                RelationKind::View => {
                    let view = relations::view(self.conn, &relation).await?;
                    let functions = functions::by_oid(self.conn, &view.functions).await?;
                    self.functions(functions, &References::default(), texts).await?;
                    relations.extend(relations::by_oid(self.conn, &view.relations).await?);
                    self.reads_clock |= mentions_clock(&view.text);
                    texts.push(read(&view.text)?);
                }
            }
        }
        Ok(())
    }
}

fn read(sql: &str) -> Result<References, Unanalyzable> {
    match analyze(sql) {
        Analysis::Read(references) => Ok(references),
        Analysis::Other(unanalyzable) => Err(unanalyzable),
    }
}
