//! Comparing a response with the history.

use tokio::time::Instant;

use super::history::{Demand, Wrong};
use super::question::Part;
use super::schema::PROPERTIES;
use super::{ROWS, Run};

/// Judges each part of a response by itself. Returns since when its content has been out of date, if it is.
pub(crate) fn judge(
    run: &Run,
    expected: &[Part],
    body: &str,
    demand: &Demand,
) -> Result<Option<Instant>, Wrong> {
    let mut lines = body.lines().peekable();
    let mut outdated = None;
    for part in expected {
        let named = lines.next().unwrap_or_default();
        if Part::parse(named) != Some(*part) {
            return Err(Wrong::Form { line: named.into() });
        }
        let mut content = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('?')) {
            content.push(line);
        }
        let since = match part {
            Part::Schema => judge_schema(run, &content, demand).map(|()| None)?,
            _ => judge_rows(run, *part, &content, demand)?,
        };
        outdated = outdated.into_iter().chain(since).min();
    }
    match lines.next() {
        Some(line) => Err(Wrong::Form { line: line.into() }),
        None => Ok(outdated),
    }
}

fn judge_schema(run: &Run, lines: &[&str], demand: &Demand) -> Result<(), Wrong> {
    for (place, property) in PROPERTIES.into_iter().enumerate() {
        let line = lines.get(place).copied().unwrap_or_default();
        match line.split_once(' ') {
            Some((name, shows)) if name == property.name() => {
                run.schema.judge(property, shows, demand)?;
            }
            _ => return Err(Wrong::Form { line: line.into() }),
        }
    }
    Ok(())
}

fn judge_rows(
    run: &Run,
    part: Part,
    lines: &[&str],
    demand: &Demand,
) -> Result<Option<Instant>, Wrong> {
    let mut seen = [false; ROWS];
    let mut outdated = None;
    for line in lines {
        let Some((row, version, group)) = numbers(line) else {
            return Err(Wrong::Form { line: (*line).into() });
        };
        let is_asked = match part {
            Part::Row(asked) => row == asked,
            Part::Group(asked) => group == asked,
            _ => true,
        };
        if !is_asked || std::mem::replace(&mut seen[row], true) {
            return Err(Wrong::Form { line: (*line).into() });
        }
        run.history.judge(row, version, group, demand)?;
        let since = run.history.outdated_since(row, version);
        outdated = outdated.into_iter().chain(since).min();
    }
    for row in (0..ROWS).filter(|row| !seen[*row]) {
        match part {
            Part::Row(asked) if asked != row => {}
            Part::Group(group) => run.history.judge_absent(row, group, demand)?,
            _ => return Err(Wrong::Missing { row }),
        }
    }
    Ok(outdated)
}

/// The row, its version and its group.
fn numbers(line: &str) -> Option<(usize, u64, u32)> {
    let mut words = line.split(' ');
    let row = words.next()?.parse().ok().filter(|row| *row < ROWS)?;
    Some((row, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}
