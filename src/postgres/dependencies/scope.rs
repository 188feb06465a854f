//! Which CTEs a place in a query can see.

use std::collections::BTreeSet;
use std::ptr;

use sqlparser::ast::Query;

use super::name::fold;

/// The queries around the present place, outermost first. A name that one of them defines hides
/// a table of the same name, from the place of its definition on.
#[derive(Debug, Default)]
pub(super) struct QueryScopes(Vec<QueryScope>);

#[derive(Debug, Default)]
struct QueryScope {
    visible: BTreeSet<String>,
    /// CTEs that are not visible until their own query has ended.
    coming: Vec<(*const Query, String)>,
}

impl QueryScopes {
    /// Goes into a query. With RECURSIVE all its CTEs see each other; without, only later ones
    /// see earlier ones.
    pub(super) fn enter(&mut self, query: &Query) {
        let mut scope = QueryScope::default();
        for (with, cte) in
            query.with.iter().flat_map(|with| with.cte_tables.iter().map(move |cte| (with, cte)))
        {
            let name = &cte.alias.name;
            let name = fold(&name.value, name.quote_style.is_some());
            if with.recursive {
                scope.visible.insert(name);
            } else {
                scope.coming.push((ptr::from_ref(&*cte.query), name));
            }
        }
        self.0.push(scope);
    }

    /// Comes out of a query.
    pub(super) fn leave(&mut self, query: &Query) {
        self.0.pop();
        let Some(around) = self.0.last_mut() else { return };
        let ended = |(coming, _): &mut (*const Query, String)| ptr::eq(*coming, query);
        around.visible.extend(around.coming.extract_if(.., ended).map(|(_, name)| name));
    }

    /// Whether a bare name is a CTE here.
    pub(super) fn sees(&self, name: &str) -> bool {
        self.0.iter().any(|scope| scope.visible.contains(name))
    }
}
