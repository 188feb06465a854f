//! The cache settings of one kind of value.

use std::fmt;
use std::sync::{Arc, Once};
use std::time::Duration;

use super::{Policy, PolicyError, freshness_settings};
use crate::cache::template::PolicyTag;

/// The name of a tag's one parameter, which stands for a value's id.
const ID: &str = "id";

/// The settings of cached values: how long they live, what they depend on, and when they may be served stale. Used by
/// [`Cache::get_or_load`](crate::Cache::get_or_load), [`find_or_load`](crate::Cache::find_or_load),
/// [`get_many`](crate::Cache::get_many) and `Database::cached`. Cloning it is cheap.
///
/// ```
/// use std::time::Duration;
/// use tidegate::ValuePolicy;
///
/// # fn main() -> Result<(), tidegate::PolicyError> {
/// let users = ValuePolicy::ttl(Duration::from_secs(300)).tag("users:id={id}").build()?;
/// let prices = ValuePolicy::ttl(Duration::from_secs(60))
///     .untracked()
///     .stale_while_revalidate(Duration::from_secs(10))
///     .build()?;
/// // For one value, by its id or with a tag of its own:
/// let of_one_user = users.for_id(42);
/// let of_one_shop = prices.with_tags([format!("shop:{}", 7)]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ValuePolicy {
    settings: Arc<Policy>,
    /// Additional tags, by [`with_tags`](Self::with_tags).
    tags: Vec<PolicyTag>,
    /// The value's id, by [`for_id`](Self::for_id).
    id: Option<Arc<str>>,
    warned: Arc<Once>,
}

/// Collects the settings of a [`ValuePolicy`]; [`ValuePolicy::ttl`] makes one.
#[derive(Clone, Debug)]
pub struct ValuePolicyBuilder(Policy);

freshness_settings!(ValuePolicyBuilder);

impl ValuePolicy {
    /// Begins a policy whose values live for at most `ttl`. If reads are tracked, a change in the database makes a
    /// value invalid as soon as the node has read the change from the change log. The TTL then only limits how long an
    /// unchanged value is stored.
    pub fn ttl(ttl: Duration) -> ValuePolicyBuilder {
        ValuePolicyBuilder(Policy::ttl(ttl))
    }

    /// The same policy with additional tags for one value. The names are taken literally, braces included.
    #[must_use]
    pub fn with_tags<I>(&self, tags: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let mut policy = self.clone();
        policy.tags.extend(tags.into_iter().map(|tag| PolicyTag::new(tag.into())));
        policy
    }

    /// The same policy for the value with this id, which replaces `{id}` in the tags. If a tag uses `{id}`,
    /// [`get_or_load`](crate::Cache::get_or_load) and [`find_or_load`](crate::Cache::find_or_load) need it: without an
    /// id, the value is loaded each time and not stored, and an error is logged once.
    #[must_use]
    pub fn for_id(&self, id: impl fmt::Display) -> Self {
        Self { id: Some(id.to_string().into()), ..self.clone() }
    }

    pub(crate) fn settings(&self) -> &Arc<Policy> {
        &self.settings
    }

    /// Whether a tag uses `{id}`, and there is no id.
    pub(crate) fn lacks_id(&self) -> bool {
        self.id.is_none() && self.settings.parameters().next().is_some()
    }

    /// The tags of the value with this id; `None` if a tag uses `{id}` and there is no id.
    pub(crate) fn tags(&self, id: Option<&str>) -> Option<Vec<PolicyTag>> {
        let id = id.or(self.id.as_deref());
        let mut tags = self.settings.tags_with(|_| id.map(Into::into))?;
        tags.extend(self.tags.iter().cloned());
        Some(tags)
    }

    /// Warns once that values of this policy are not stored.
    pub(crate) fn warn_of_missing_id(&self) {
        self.warned.call_once(|| {
            let tags = self.settings.tag_names_with(|_| Some("{id}".into()));
            tracing::error!(
                ?tags,
                "values are not stored: a tag has {{id}}, which only get_many fills in; use ValuePolicy::for_id"
            );
        });
    }
}

impl ValuePolicyBuilder {
    /// Adds a tag, the name of something that the values depend on. `{id}` stands for a value's id:
    /// [`Cache::get_many`](crate::Cache::get_many) fills it in, and elsewhere [`ValuePolicy::for_id`] does.
    ///
    /// A tag of the form `table:column={id}` narrows the dependency: the value then depends on that table's rows with
    /// this id, not on the whole table. The tag must cover everything that is read from the table. If the triggers do
    /// not record changes by the values of this column (see `tidegate install`), the value still depends on the whole
    /// table.
    #[must_use]
    pub fn tag(mut self, template: &str) -> Self {
        self.0 = self.0.tag(template);
        self
    }

    /// Builds the policy.
    ///
    /// # Errors
    ///
    /// If a setting is invalid: a TTL or `max_staleness` of zero, a jitter outside 0 to 1, a negative `early_refresh`,
    /// or a tag that is empty, has an unmatched brace, or has a parameter other than `{id}`.
    pub fn build(self) -> Result<ValuePolicy, PolicyError> {
        let other = self.0.parameters().find(|name| *name != ID);
        let other = other
            .map(|name| format!("a tag uses {{{name}}}, but a value's only parameter is {{{ID}}}"));
        match self.0.fault().or(other) {
            Some(fault) => Err(PolicyError(vec![format!("the ValuePolicy is invalid: {fault}")])),
            None => Ok(ValuePolicy {
                settings: Arc::new(self.0),
                tags: Vec::new(),
                id: None,
                warned: Arc::new(Once::new()),
            }),
        }
    }

    fn settings(&mut self) -> &mut Policy {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_value_policy_is_refused_with_the_reason() {
        let ttl = || ValuePolicy::ttl(Duration::from_secs(1));
        for (fault, policy) in [
            ("TTL", ValuePolicy::ttl(Duration::ZERO)),
            ("jitter", ttl().jitter(3.0)),
            ("β", ttl().early_refresh(-1.0)),
            ("{user}", ttl().tag("carts:user={user}")),
            ("brace", ttl().tag("carts:user={user")),
            ("empty", ttl().tag("")),
        ] {
            let error = policy.build().expect_err(fault).to_string();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn tags_given_for_one_value_are_used_verbatim() {
        let policy = ValuePolicy::ttl(Duration::from_secs(1)).tag("shops").build().expect("policy");
        let tags = policy.with_tags(["cart:{7}", "user:{id}"]).tags(None).expect("tags");
        let tags: Vec<_> = tags.iter().map(PolicyTag::tag).collect();
        assert_eq!(tags, ["shops", "cart:{7}", "user:{id}"].map(crate::Tag::named));
    }

    #[test]
    fn the_id_placeholder_is_filled_and_without_an_id_there_are_no_tags() {
        let policy = ValuePolicy::ttl(Duration::from_secs(1)).tag("users:id={id}");
        let policy = policy.build().expect("policy");
        let tag = |tags: Option<Vec<PolicyTag>>| tags.map(|tags| tags[0].tag());
        assert_eq!(tag(policy.tags(None)), None);
        assert_eq!(tag(policy.tags(Some("7"))), Some(crate::Tag::named("users:id=7")));
        assert_eq!(tag(policy.for_id(7).tags(None)), Some(crate::Tag::named("users:id=7")));
    }
}
