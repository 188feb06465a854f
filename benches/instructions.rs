//! Instructions of one operation, to be counted by callgrind: `scripts/instructions`.
//!
//! Runs one case as often as it is told to. Two counts, for two numbers of runs, give the instructions of one
//! run without those of the start.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod cases;

use std::hint::black_box;

use axum::http::Uri;
use cases::{App, Encoded, Failure, entry, flight, is_hit, policy, request, values};
use tidegate::{Key, Tag, internals};

/// Every case, by its name.
const CASES: [(&str, Case); 10] = [
    ("axum alone", |runs| ask(App::bare()?, "/items/1", runs)),
    ("memory hit", |runs| ask(App::cached()?, "/items/1", runs)),
    ("memory hit, 5 parameters", |runs| ask(App::cached()?, "/search?e=5&d=4&c=3&b=2&a=1", runs)),
    ("shared hit", |runs| ask(App::over(Encoded::default())?, "/items/1", runs)),
    ("miss and fill", miss),
    ("flight of 100", flights),
    ("key", key),
    ("encode", encode),
    ("decode", decode),
    ("judge by 5 tags", judge),
];

/// Does its work as often as it is told to.
type Case = fn(u64) -> Result<(), Failure>;

fn main() -> Result<(), Failure> {
    // cargo bench adds an argument of its own.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|said| !said.starts_with("--")).collect();
    if let [name, runs] = &arguments[..] {
        let case = CASES.iter().find(|(known, _)| known == name);
        return case.ok_or("there is no such case")?.1(runs.parse()?);
    }
    for (name, _) in CASES {
        println!("{name}");
    }
    Ok(())
}

fn ask(mut app: App, path: &str, runs: u64) -> Result<(), Failure> {
    app.ask(request(path));
    let is_cached = is_hit(&app.ask(request(path)));
    for _ in 0..runs {
        let response = black_box(app.ask(request(path)));
        if response.body().len() != 1024 || is_hit(&response) != is_cached {
            return Err("an answer is not what it was".into());
        }
    }
    Ok(())
}

fn miss(runs: u64) -> Result<(), Failure> {
    let mut app = App::cached()?;
    for run in 0..runs {
        let path = format!("/items/{}", 1_000_000 + run);
        assert!(!is_hit(&black_box(app.ask(request(&path)))));
    }
    Ok(())
}

fn flights(runs: u64) -> Result<(), Failure> {
    let (app, policy) = (App::cached()?, values());
    for run in 0..runs {
        let key = Key::new("flight").part(run.to_le_bytes()).finish();
        assert_eq!(flight(&app, &key, &policy), 1);
    }
    Ok(())
}

fn key(runs: u64) -> Result<(), Failure> {
    let (request, policy) = (request("/items/1"), policy());
    let uri: Uri = "/items/1".parse()?;
    for _ in 0..runs {
        black_box(internals::key(black_box(&uri), request.headers(), &policy));
    }
    Ok(())
}

fn encode(runs: u64) -> Result<(), Failure> {
    let (_, entry) = entry(1024, 5)?;
    for _ in 0..runs {
        black_box(internals::encode(black_box(&entry)));
    }
    Ok(())
}

fn decode(runs: u64) -> Result<(), Failure> {
    let (_, entry) = entry(1024, 5)?;
    let bytes = internals::encode(&entry);
    for _ in 0..runs {
        black_box(internals::decode(black_box(&bytes)).ok_or("unreadable")?);
    }
    Ok(())
}

fn judge(runs: u64) -> Result<(), Failure> {
    let (cache, entry) = entry(1024, 5)?;
    assert_eq!(entry.tags().len(), 5);
    assert!(entry.tags().contains(&Tag::named("tag-0")));
    for _ in 0..runs {
        black_box(internals::judge(&cache, black_box(&entry)));
    }
    Ok(())
}
