//! Two versions of one type: if decoding could go wrong, one version reloads a value that the other has stored.

use super::*;

/// Like [`is_loaded`], for two versions of one type.
async fn is_loaded_anew<A: Value, B: Value>(stored: A, wanted: B) {
    assert_eq!(type_name::<A>(), type_name::<B>(), "else their paths differ");
    is_loaded(stored, wanted).await;
}

#[tokio::test]
async fn a_type_with_its_fields_in_another_order_is_a_miss() {
    is_loaded_anew(
        value! {
            struct Account { id: u32, balance: i64, limit: i64, admin: bool }
            => Account { id: 7, balance: -5, limit: 100_000, admin: true }
        },
        value! {
            struct Account { id: u32, limit: i64, balance: i64 }
            => Account { id: 7, limit: 100_000, balance: -5 }
        },
    )
    .await;
    is_loaded_anew(
        value! { struct Range { from: u8, to: u8 } => Range { from: 1, to: 2 } },
        value! { struct Range { to: u8, from: u8 } => Range { to: 2, from: 1 } },
    )
    .await;
}

#[tokio::test]
async fn a_type_with_a_field_added_or_removed_is_a_miss() {
    is_loaded_anew(
        value! { struct Range { from: u8, to: u8 } => Range { from: 1, to: 0 } },
        value! { struct Range { from: u8 } => Range { from: 1 } },
    )
    .await;
    is_loaded_anew(
        value! { struct Range { from: u8 } => Range { from: 1 } },
        value! { struct Range { from: u8, to: u8 } => Range { from: 1, to: 0 } },
    )
    .await;
    // Even with a default: bincode can't tell that a field is missing.
    is_loaded_anew(
        value! { struct User { id: u8, tags: Vec<u8> } => User { id: 1, tags: vec![] } },
        value! { struct User { id: u8, #[serde(default)] note: Option<u8> } => User { id: 1, note: None } },
    )
    .await;
    is_loaded_anew(
        value! { struct User { id: u8, note: u8 } => User { id: 1, note: 2 } },
        value! { struct User { id: u8, #[serde(skip)] note: u8 } => User { id: 1, note: 0 } },
    )
    .await;
}

#[tokio::test]
async fn a_type_with_a_field_renamed_or_retyped_is_a_miss() {
    let named = || "ann".to_owned();
    is_loaded_anew(
        value! { struct Name { name: String } => Name { name: named() } },
        value! { struct Name { title: String } => Name { title: "Dr".into() } },
    )
    .await;
    is_loaded_anew(
        value! { struct Name { name: String } => Name { name: named() } },
        value! { struct Name { name: Vec<u8> } => Name { name: named().into() } },
    )
    .await;
    is_loaded_anew(
        value! { struct Price { cents: u32 } => Price { cents: 5 } },
        value! { struct Price { cents: i32 } => Price { cents: 5 } },
    )
    .await;
    is_loaded_anew(
        value! { struct Price { cents: u32 } => Price { cents: 5 } },
        value! { struct Price { cents: u64 } => Price { cents: 5 } },
    )
    .await;
    // The same byte.
    is_loaded_anew(
        value! { struct Price { cents: u8 } => Price { cents: 255 } },
        value! { struct Price { cents: i8 } => Price { cents: 1 } },
    )
    .await;
    is_loaded_anew(
        value! { struct Price { cents: Option<u8> } => Price { cents: Some(5) } },
        value! { struct Price { cents: u8 } => Price { cents: 5 } },
    )
    .await;
    is_loaded_anew(
        value! { struct Pair(u8, u8); => Pair(1, 2) },
        value! { struct Pair(u8); => Pair(1) },
    )
    .await;
}

#[tokio::test]
async fn an_enum_with_variants_reordered_or_renamed_is_a_miss() {
    is_loaded_anew(
        value! { enum Status { Open, Closed } => Status::Open },
        value! { enum Status { Closed, Open } => Status::Open },
    )
    .await;
    is_loaded_anew(
        value! { enum Status { Open } => Status::Open },
        value! { enum Status { New, Open } => Status::New },
    )
    .await;
    is_loaded_anew(
        value! { enum Status { Held(u8) } => Status::Held(1) },
        value! { enum Status { Kept(u8) } => Status::Kept(1) },
    )
    .await;
    is_loaded_anew(
        value! { enum Status { Frozen { by: u8 } } => Status::Frozen { by: 1 } },
        value! { enum Status { Frozen { at: u8 } } => Status::Frozen { at: 1 } },
    )
    .await;
    is_loaded_anew(
        value! { enum Status { Frozen(u8, u8) } => Status::Frozen(1, 2) },
        value! { enum Status { Frozen { by: u8, at: u8 } } => Status::Frozen { by: 1, at: 2 } },
    )
    .await;
}

#[tokio::test]
async fn a_change_in_a_nested_type_is_a_miss() {
    is_loaded_anew(
        value! { struct Name { name: u8 } => vec![(1_u8, Name { name: 1 })] },
        value! { struct Name { title: u8 } => vec![(1_u8, Name { title: 1 })] },
    )
    .await;
    is_loaded_anew(
        value! { struct Name { name: u8 } => BTreeMap::from([(1_u8, Name { name: 1 })]) },
        value! { struct Name { title: u8 } => BTreeMap::from([(1_u8, Name { title: 1 })]) },
    )
    .await;
    is_loaded_anew(
        value! { struct Page<T> { items: Vec<T>, next: Option<u8> } => Page { items: vec![2_u8], next: None } },
        value! { struct Page<T> { next: Option<u8>, items: Vec<T> } => Page { items: vec![1_u8], next: None } },
    )
    .await;
    is_loaded_anew(
        value! { struct By { by: HashMap<u8, u8> } => By { by: HashMap::from([(1, 2)]) } },
        value! { struct By { by: Vec<(u8, u8)> } => By { by: vec![(1, 2)] } },
    )
    .await;
    is_loaded_anew(
        value! {
            struct Tree { kids: Vec<Tree>, size: u8, depth: u8 }
            => Tree { kids: vec![Tree { kids: vec![], size: 1, depth: 0 }], size: 2, depth: 1 }
        },
        value! {
            struct Tree { kids: Vec<Tree>, depth: u8, size: u8 }
            => Tree { kids: vec![Tree { kids: vec![], depth: 1, size: 2 }], depth: 1, size: 2 }
        },
    )
    .await;
}

/// Decoding gives the right value all the same.
#[tokio::test]
async fn a_type_change_that_does_not_affect_the_stored_value_is_a_hit() {
    let cache = cache();
    let stored = value! { enum Status { Open, Closed } => (Status::Open, None::<u32>) };
    let wanted = value! { enum Status { Open, Closed, Held } => (Status::Open, None::<u32>) };
    get(&cache, &stored).await;
    assert_eq!(get(&cache, &wanted).await, wanted);
    assert_eq!(outcome(&cache, Outcome::Hit(Tier::Memory)), 1);
}

#[tokio::test]
async fn a_panic_while_decoding_another_versions_value_fails_no_request() {
    is_loaded_anew(
        value! { struct Rate { percent: u8 } => Rate { percent: 200 } },
        value! {
            struct Rate { #[serde(deserialize_with = "percent")] percent: u8 }
            => Rate { percent: 50 }
        },
    )
    .await;
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let percent = u8::deserialize(deserializer)?;
    assert!(percent <= 100);
    Ok(percent)
}
