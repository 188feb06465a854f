#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// A row's values, as they are sent.
fn tuple(values: &[Option<&str>]) -> Vec<u8> {
    let mut bytes = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        match value {
            None => bytes.push(b'n'),
            Some("<unchanged>") => bytes.push(b'u'),
            Some(text) => {
                bytes.push(b't');
                bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                bytes.extend(text.as_bytes());
            }
        }
    }
    bytes
}

fn row<'a>(values: &[Option<&'a str>]) -> Tuple<'a> {
    let value = |value: Option<&'a str>| match value {
        None => TupleValue::Null,
        Some("<unchanged>") => TupleValue::Unchanged,
        Some(text) => TupleValue::Text(text.as_bytes()),
    };
    Tuple(values.iter().copied().map(value).collect())
}

const OLD: [Option<&str>; 3] = [Some("1"), None, Some("")];
const NEW: [Option<&str>; 3] = [Some("2"), Some("x"), Some("<unchanged>")];

fn message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[kind], &7_u32.to_be_bytes()[..], &parts.concat()].concat()
}

/// One message of each kind.
fn messages() -> [Vec<u8>; 6] {
    let relation = message(
        b'R',
        &[
            b"public\0items\0d\0\x02",
            b"\x01id\0\0\0\0\x17\xff\xff\xff\xff",
            b"\0name\0\0\0\0\x19\xff\xff\xff\xff",
        ],
    );
    let truncate = [b"T\0\0\0\x02\0", &7_u32.to_be_bytes()[..], &8_u32.to_be_bytes()].concat();
    [
        relation,
        message(b'I', &[b"N", &tuple(&NEW)]),
        message(b'U', &[b"N", &tuple(&NEW)]),
        message(b'U', &[b"O", &tuple(&OLD), b"N", &tuple(&NEW)]),
        message(b'D', &[b"K", &tuple(&OLD)]),
        truncate,
    ]
}

#[test]
fn each_kind_of_message_is_decoded() {
    let messages = messages();
    let decoded = messages.each_ref().map(|bytes| RowMessage::decode(bytes).unwrap());
    let column = |name, is_identified| Column { name, is_identified };
    let (relation, new) = (7, || row(&NEW));
    assert_eq!(
        decoded,
        [
            RowMessage::Relation(RelationMessage {
                relation,
                identity: ReplicaIdentity::Part,
                columns: vec![column("id", true), column("name", false)],
            }),
            RowMessage::Insert { relation, new: new() },
            RowMessage::Update { relation, old: None, new: new() },
            RowMessage::Update { relation, old: Some(row(&OLD)), new: new() },
            RowMessage::Delete { relation, old: row(&OLD) },
            RowMessage::Truncate { relations: vec![7, 8] },
        ]
    );
    for ignored in [&b"Y\0\0\0\x01x\0"[..], b"O\0"] {
        assert_eq!(RowMessage::decode(ignored).unwrap(), RowMessage::Other);
    }
}

#[test]
fn a_message_that_ends_too_early_is_an_error() {
    for bytes in messages() {
        for length in 0..bytes.len() {
            assert!(RowMessage::decode(&bytes[..length]).is_err(), "{length} of {bytes:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(
        kind in prop::sample::select(b"RIUDTYO?".to_vec()),
        rest in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        drop(RowMessage::decode(&[&[kind], &rest[..]].concat()));
    }

    #[test]
    fn a_changed_byte_makes_no_decoder_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for mut bytes in messages() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            drop(RowMessage::decode(&bytes));
        }
    }
}

/// Where transactions begin and end, and what was written into the log.
#[test]
fn each_other_message_is_decoded() {
    let position = |number: u64| number.to_be_bytes();
    let begin = [b"B", &position(8)[..], &position(9), &7_u32.to_be_bytes()].concat();
    assert_eq!(Message::decode(&begin).unwrap(), Message::Begin { commit: 8, xid: 7 });
    let commit = [b"C\0", &position(8)[..], &position(9), &position(10)].concat();
    assert_eq!(Message::decode(&commit).unwrap(), Message::Commit { end: 9 });
    let written = [b"M\x01", &position(8)[..], b"who\0", &2_u32.to_be_bytes(), b"hi"].concat();
    let (prefix, content) = ("who", &b"hi"[..]);
    let expected = Message::Written { is_transactional: true, prefix, content };
    assert_eq!(Message::decode(&written).unwrap(), expected);
    for whole in [begin, commit, written] {
        // The end of a commit is its time, which is not read.
        let read = if whole[0] == b'C' { whole.len() - 8 } else { whole.len() };
        for length in 0..read {
            assert!(Message::decode(&whole[..length]).is_err(), "{length} of {whole:?}");
        }
    }
}
