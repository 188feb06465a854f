//! The decoder decodes what bincode encodes, with the same results, and rejects lengths that claim too much.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use bincode::config::standard;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::{DeserializeOwned, SeqAccess};

use super::input::{TOO_DEEP, TOO_MANY};
use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
enum Shape {
    Point,
    Circle(f64),
    Line(i16, char),
    Text { text: String, marks: Vec<Option<bool>> },
}

#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
struct Wrapped(u128);

#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
struct Tree {
    leaf: i8,
    branches: Vec<Self>,
}

type Everything = (
    (u8, u16, u32, u64, i32, i64, i128, f32),
    (Wrapped, (), [u8; 3], Box<str>),
    HashMap<String, Shape>,
    BTreeMap<u8, Vec<Shape>>,
);

fn shapes() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Point),
        (-1e9..1e9).prop_map(Shape::Circle),
        any::<(i16, char)>().prop_map(|(length, mark)| Shape::Line(length, mark)),
        any::<(String, Vec<Option<bool>>)>().prop_map(|(text, marks)| Shape::Text { text, marks }),
    ]
}

fn everything() -> impl Strategy<Value = Everything> {
    let numbers = any::<(u8, u16, u32, u64, i32, i64, i128, bool)>();
    let numbers = numbers.prop_map(|(a, b, c, d, e, f, g, h)| (a, b, c, d, e, f, g, f32::from(h)));
    let parts = any::<(u128, [u8; 3], String)>();
    let parts = parts.prop_map(|(number, bytes, text)| (Wrapped(number), (), bytes, text.into()));
    let named = prop::collection::hash_map(any::<String>(), shapes(), 0..4);
    let sorted =
        prop::collection::btree_map(any::<u8>(), prop::collection::vec(shapes(), 0..3), 0..3);
    (numbers, parts, named, sorted)
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, standard()).unwrap()
}

/// Decodes with bincode's own decoder; `None` if it fails or bytes are left over.
#[expect(clippy::disallowed_methods, reason = "this is what the reader is compared with")]
fn by_bincode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let config = standard().with_limit::<{ 1 << 20 }>();
    let (value, read) = bincode::serde::decode_from_slice(bytes, config).ok()?;
    (read == bytes.len()).then_some(value)
}

fn reads_alike<T: DeserializeOwned + Debug + PartialEq>(bytes: &[u8]) {
    assert_eq!(decode::<T>(bytes).ok(), by_bincode(bytes));
}

proptest! {
    #[test]
    fn values_encoded_by_bincode_decode_unchanged_and_truncated_ones_fail(value in everything()) {
        let bytes = encode(&value);
        prop_assert_eq!(decode::<Everything>(&bytes).unwrap(), value);
        for cut in 0..bytes.len() {
            prop_assert!(decode::<Everything>(&bytes[..cut]).is_err());
        }
        prop_assert!(decode::<Everything>(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn arbitrary_bytes_decode_as_with_bincode(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        reads_alike::<(String, Option<Vec<u16>>)>(&bytes);
        reads_alike::<Vec<Shape>>(&bytes);
        reads_alike::<BTreeMap<i8, String>>(&bytes);
        reads_alike::<Tree>(&bytes);
        reads_alike::<(bool, char, [i64; 2])>(&bytes);
    }
}

/// The bytes of a length without anything that follows.
fn length(length: u64) -> Vec<u8> {
    encode(&length)
}

fn refuses<T>(decoded: Result<T, DecodeError>, reason: &DecodeError) -> bool {
    decoded.is_err_and(|error| error.to_string() == reason.to_string())
}

#[test]
fn the_number_of_zero_sized_elements_is_bounded() {
    assert_eq!(decode::<Vec<()>>(&encode(&vec![(); 1000])).unwrap().len(), 1000);
    assert!(refuses(decode::<Vec<()>>(&length(u64::MAX)), &TOO_MANY));
    #[expect(clippy::zero_sized_map_values, reason = "that is the point")]
    let entries = decode::<HashMap<(), ()>>(&length(u64::MAX));
    assert!(refuses(entries, &TOO_MANY));
}

#[test]
fn too_deeply_nested_values_are_refused() {
    // Each tree has a leaf and one branch, and takes a structure and a sequence.
    let nested = |depth: usize| [[0, 1].repeat(depth), vec![0, 0]].concat();
    assert!(decode::<Tree>(&nested(100)).is_ok());
    assert!(refuses(decode::<Tree>(&nested(1_000_000)), &TOO_DEEP));
}

#[test]
fn a_claimed_length_is_no_size_hint_unless_enough_bytes_remain() {
    let hint = |bytes: &[u8]| decode::<Hint>(bytes).unwrap().0;
    assert_eq!(hint(&[&length(5)[..], &[0; 5]].concat()), Some(5));
    assert_eq!(hint(&length(60_000)), Some(0));
    assert_eq!(hint(&length(u64::MAX)), Some(0));
}

/// The size hint of a sequence before its first element.
struct Hint(Option<usize>);

impl<'de> Deserialize<'de> for Hint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = Hint;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Hint, A::Error> {
                let hint = elements.size_hint();
                while let Ok(Some(0)) = elements.next_element::<u8>() {}
                Ok(Hint(hint))
            }
        }
        deserializer.deserialize_seq(First)
    }
}
