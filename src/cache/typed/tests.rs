//! A value is never decoded as another type than it was stored as.

use std::any::type_name;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    Cache, Event, Key, Memory, MissReason, Outcome, Tier, ValuePolicy, ValuePolicyBuilder,
};

trait Value: Serialize + DeserializeOwned + Clone + Send + Sync + PartialEq + Debug + 'static {}

impl<T> Value for T where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + PartialEq + Debug + 'static
{
}

fn cache() -> Cache {
    Cache::new(Memory::new(1 << 20))
}

fn key() -> Key {
    Key::new("account").part("7").finish()
}

fn policy() -> ValuePolicy {
    builder().build().unwrap()
}

fn builder() -> ValuePolicyBuilder {
    ValuePolicy::ttl(Duration::from_mins(1)).early_refresh(0.0)
}

async fn get<T: Value>(cache: &Cache, value: &T) -> T {
    cache.get_or_load(&key(), &policy(), async || Ok::<_, ()>(value.clone())).await.unwrap()
}

fn outcome(cache: &Cache, outcome: Outcome) -> u64 {
    cache.counters().outcome(outcome)
}

fn other_shape(cache: &Cache) -> u64 {
    outcome(cache, Outcome::Miss(MissReason::OtherShape))
}

/// Stores one value and requests another type under the same key: that must be loaded, stored and then found.
async fn is_loaded<A: Value, B: Value>(stored: A, wanted: B) {
    let cache = cache();
    get(&cache, &stored).await;
    assert_eq!(get(&cache, &wanted).await, wanted, "stored: {stored:?}");
    assert_eq!(other_shape(&cache), 1, "{stored:?} as {wanted:?}");
    get(&cache, &wanted).await;
    assert_eq!(outcome(&cache, Outcome::Hit(Tier::Memory)), 1, "it replaced the other");
}

/// Stores a value and finds it.
async fn is_found<T: Value>(stored: T) {
    let cache = cache();
    get(&cache, &stored).await;
    let never = async || Err::<T, ()>(());
    assert_eq!(cache.get_or_load(&key(), &policy(), never).await, Ok(stored));
    assert_eq!(outcome(&cache, Outcome::Hit(Tier::Memory)), 1);
}

/// Each request for the value loads it.
async fn is_never_stored<T: Value>(value: T) {
    let cache = cache();
    for _ in 0..3 {
        assert_eq!(get(&cache, &value).await, value);
    }
    let (stored, refused) = (Event::Stored, Event::NotStored);
    let counted = |event| cache.counters().event(event);
    assert_eq!((counted(stored), counted(refused)), (0, 3), "{value:?}");
}

/// A value of a new local type. Local types of one function share a path, as those of two versions of a service do.
macro_rules! value {
    ($item:item => $value:expr) => {{
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        $item
        $value
    }};
}

mod versions;

#[tokio::test]
async fn a_value_is_never_decoded_as_another_type_under_the_same_key() {
    is_loaded(5_u32, -3_i32).await;
    is_loaded("ann".to_owned(), b"ann".to_vec()).await;
    is_loaded(Some(1_u8), 1_u8).await;
    is_loaded(1_u8, Some(1_u8)).await;
    is_loaded((1_u8, "a".to_owned()), (1_u8, vec![97_u8])).await;
    is_loaded([1_u8, 2], (1_u8, 2_u8)).await;
    is_loaded(vec![5_u32], vec![-3_i32]).await;
}

#[tokio::test]
async fn bytes_left_over_after_decoding_are_a_miss() {
    is_loaded((1_u8, 2_u8, 3_u8), (1_u8, 2_u8)).await;
    is_loaded(vec![0_u8, 9], 2_u8).await;
}

/// To serde both are a plain number.
#[tokio::test]
async fn types_that_serialize_alike_do_not_share_values() {
    #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Cents(i64);
    #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Dollars(i64);
    is_loaded(Cents(100), Dollars(1)).await;
}

/// A field that the type does not serialize is lost, for the call that loads the value and for all later ones.
#[tokio::test]
async fn the_call_that_loads_a_value_gets_the_same_value_as_later_hits() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct User {
        id: u8,
        #[serde(skip)]
        is_blocked: bool,
    }
    let cache = cache();
    let user = User { id: 1, is_blocked: true };
    let loaded = get(&cache, &user).await;
    assert_eq!(loaded, get(&cache, &user).await);
    let load = async |ids: Vec<u8>| {
        Ok::<_, ()>(ids.into_iter().map(|id| (id, user.clone())).collect::<HashMap<_, _>>())
    };
    let of = policy();
    let key = |id: &u8| Key::new("user").part(id.to_string()).finish();
    let many = async || cache.get_many([2_u8], key, &of, load).await.unwrap();
    assert_eq!(many().await, many().await);
}

#[tokio::test]
async fn values_of_every_kind_are_stored_and_found() {
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Skips {
        id: u8,
        #[serde(skip)]
        cached: u32,
        #[serde(default, alias = "label")]
        name: String,
        #[serde(rename(serialize = "out", deserialize = "in"))]
        renamed: u8,
    }
    is_found(Skips { id: 1, cached: 0, name: "a".into(), renamed: 2 }).await;
    is_found(value! {
        struct Tree { kids: Vec<Tree>, size: u8 }
        => Tree { kids: vec![Tree { kids: vec![], size: 1 }], size: 2 }
    })
    .await;
    is_found((1.5_f32, f64::MIN, 'x', i128::MAX, u128::MAX, true, ())).await;
    is_found((i8::MIN, i16::MIN, i32::MIN, i64::MIN, u16::MAX, u64::MAX)).await;
    // A decoded set or map iterates in another order.
    is_found((0..100).collect::<HashSet<u32>>()).await;
    is_found((0..100).map(|n| (n, n.to_string())).collect::<HashMap<u32, _>>()).await;
    // Types that reject most values.
    is_found((NonZeroU32::MIN, "::1".parse::<IpAddr>().unwrap(), Email("a@b".into()))).await;
    let all = value! {
        enum Status { #[serde(alias = "New")] Open, Frozen { by: u8 }, Held(u8), Both(u8, u8), Unit(()) }
        => [Status::Open, Status::Frozen { by: 1 }, Status::Held(2), Status::Both(3, 4), Status::Unit(())]
    };
    for status in all {
        is_found(Some(status)).await;
    }
}

/// Checked when it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String")]
struct Email(String);

impl TryFrom<String> for Email {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.contains('@') { Ok(Self(text)) } else { Err("no address") }
    }
}

#[tokio::test]
async fn a_value_that_changes_when_decoded_is_not_stored() {
    /// Decoding would take the length of `b` for `a`.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Sparse {
        #[serde(default, skip_serializing_if = "is_zero")]
        a: u8,
        b: Vec<u8>,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Halved {
        #[serde(deserialize_with = "halved")]
        n: u8,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u8),
        Text(String),
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Flat {
        #[serde(flatten)]
        rest: BTreeMap<String, u8>,
    }
    fn halved<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
        u8::deserialize(deserializer).map(|number| number / 2)
    }
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks for it")]
    fn is_zero(number: &u8) -> bool {
        *number == 0
    }
    is_never_stored(Sparse { a: 0, b: vec![1, 7] }).await;
    is_never_stored(Sparse { a: 0, b: vec![] }).await;
    is_found(Sparse { a: 1, b: vec![1, 7] }).await;
    is_never_stored(Halved { n: 4 }).await;
    is_never_stored(serde_json::json!({ "a": 1 })).await;
    is_never_stored(Untagged::Number(1)).await;
    is_never_stored(Flat { rest: [("a".to_owned(), 1)].into() }).await;
}

/// The request gets its value even if storing it fails.
#[tokio::test]
async fn a_value_whose_encoding_or_decoding_panics_is_not_stored() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(from = "Parts")]
    struct List {
        #[serde(skip_serializing_if = "Option::is_none")]
        chosen: Option<u8>,
        first: u8,
        all: Vec<u8>,
    }
    #[derive(Deserialize)]
    struct Parts {
        chosen: Option<u8>,
        first: u8,
        all: Vec<u8>,
    }
    impl From<Parts> for List {
        fn from(Parts { chosen, first, all }: Parts) -> Self {
            assert!(chosen.is_none_or(|chosen| all.contains(&chosen)));
            Self { chosen, first, all }
        }
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Odd {
        #[serde(serialize_with = "odd")]
        n: u8,
    }
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks for it")]
    fn odd<S: serde::Serializer>(n: &u8, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(n % 2 == 1);
        serializer.serialize_u8(*n)
    }
    // Decoding takes `first` for the beginning of `Some`, and what follows for other fields.
    is_never_stored(List { chosen: None, first: 1, all: vec![5, 1, 7] }).await;
    is_found(List { chosen: Some(9), first: 1, all: vec![9] }).await;
    is_never_stored(Odd { n: 2 }).await;
    is_found(Odd { n: 1 }).await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_never_gets_a_value_of_another_type_loaded_under_the_same_key() {
    let cache = cache();
    let one = value! { struct Name { name: u8 } => Name { name: 1 } };
    let other = value! { struct Name { title: u8 } => Name { title: 2 } };
    let slow = async || {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, ()>(one.clone())
    };
    let (key, policy) = (key(), policy());
    let found = tokio::join!(cache.get_or_load(&key, &policy, slow), get(&cache, &other));
    assert_eq!(found, (Ok(one.clone()), other));
}

#[tokio::test]
async fn a_stored_none_of_one_type_is_a_miss_for_another_type() {
    let (cache, key) = (cache(), key());
    let policy = builder().negative_ttl(Duration::from_mins(1)).build().unwrap();
    let none = async || Ok::<_, ()>(None::<u8>);
    assert_eq!(cache.find_or_load(&key, &policy, none).await, Ok(None));
    let never = async || -> Result<Option<u8>, ()> { unreachable!("it is stored") };
    assert_eq!(cache.find_or_load(&key, &policy, never).await, Ok(None));
    let some = async || Ok::<_, ()>(Some("ada".to_owned()));
    assert_eq!(cache.find_or_load(&key, &policy, some).await, Ok(Some("ada".to_owned())));
    assert_eq!(other_shape(&cache), 1);
}

async fn get_many<T: Value>(cache: &Cache, ids: &[u8], make: impl Fn(u8) -> T) -> HashMap<u8, T> {
    let key = |id: &u8| Key::new("user").part([*id]).finish();
    let load = async |ids: Vec<u8>| {
        Ok::<_, ()>(ids.into_iter().map(|id| (id, make(id))).collect::<HashMap<_, _>>())
    };
    cache.get_many(ids.iter().copied(), key, &policy(), load).await.unwrap()
}

#[tokio::test]
async fn get_many_checks_the_shape_of_each_value() {
    let cache = cache();
    let one = value! { struct Range { from: u8, to: u8 } => |id| Range { from: id, to: 0 } };
    let other = value! { struct Range { to: u8, from: u8 } => |id| Range { from: id, to: 0 } };
    get_many(&cache, &[1, 2], one).await;
    assert_eq!(get_many(&cache, &[1, 2, 3], other).await[&2], other(2));
    assert_eq!(other_shape(&cache), 2);
    get_many(&cache, &[1, 2, 3], other).await;
    assert_eq!(outcome(&cache, Outcome::Hit(Tier::Memory)), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stale_value_of_another_shape_never_replaces_an_error() {
    let (cache, policy) = (cache(), builder().stale_if_error(Duration::from_mins(9)));
    let policy = policy.build().unwrap();
    let one = value! { struct Range { from: u8, to: u8 } => Range { from: 1, to: 2 } };
    let mut other = value! { struct Range { to: u8, from: u8 } => Some(Range { from: 1, to: 2 }) };
    let load = async || Ok::<_, &str>(one.clone());
    cache.get_or_load(&key(), &policy, load).await.unwrap();
    tokio::time::advance(Duration::from_mins(2)).await;
    let down = async || other.take().filter(|_| false).ok_or("down");
    assert_eq!(cache.get_or_load(&key(), &policy, down).await.err(), Some("down"));
    let down = async || Some(one.clone()).filter(|_| false).ok_or("down");
    assert_eq!(cache.get_or_load(&key(), &policy, down).await, Ok(one.clone()));
}

#[tokio::test]
async fn a_stored_none_is_a_miss_for_a_type_without_none() {
    let (cache, policy) = (cache(), builder().negative_ttl(Duration::from_mins(1)));
    let policy = policy.build().unwrap();
    let none = async || Ok::<Option<u32>, ()>(None);
    assert_eq!(cache.find_or_load(&key(), &policy, none).await, Ok(None));
    assert_eq!(get(&cache, &5_u32).await, 5);
    let never = async || Err::<Option<u32>, ()>(());
    assert_eq!(cache.find_or_load(&key(), &policy, never).await, Ok(Some(5)), "it is stored now");
}

#[tokio::test]
async fn a_value_whose_tag_lacks_its_id_is_loaded_and_not_stored() {
    let cache = cache();
    let policy = builder().untracked().tag("carts").tag("carts:user={id}").build().unwrap();
    for value in 1..3 {
        let loaded = cache.get_or_load(&key(), &policy, async || Ok::<_, ()>(value)).await;
        assert_eq!(loaded, Ok(value));
    }
    let many = async |ids: Vec<u8>| Ok::<_, ()>(ids.into_iter().map(|id| (id, 3)).collect());
    let of_ids = |id: &u8| Key::new("cart").part([*id]).finish();
    cache.get_many([7], of_ids, &policy, many).await.unwrap();
    let again = async |_: Vec<u8>| Err::<HashMap<u8, i32>, _>("loaded");
    assert_eq!(cache.get_many([7], of_ids, &policy, again).await.unwrap()[&7], 3, "it has its id");
    cache.invalidate(["carts:user=7"]).await.unwrap();
    let gone = cache
        .get_many([7], of_ids, &policy, async |_: Vec<u8>| Err::<HashMap<u8, i32>, _>("loaded"));
    assert_eq!(gone.await, Err("loaded"));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_gone_is_not_served_stale() {
    let hour = Duration::from_hours(1);
    for policy in [builder().stale_while_revalidate(hour), builder().stale_if_error(hour)] {
        let (cache, policy) = (cache(), policy.build().unwrap());
        let find = async |found: Result<Option<u8>, ()>| {
            cache.find_or_load(&key(), &policy, async || found).await
        };
        assert_eq!(find(Ok(Some(1))).await, Ok(Some(1)));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(find(Ok(None)).await, Ok(None));
        assert_eq!(find(Err(())).await, Err(()), "{policy:?}");
    }
}
