//! `tidegate watch`: prints changes as they become visible.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;
use tidegate::{Change, Changes, Database};

use super::Failure;
use super::output::{Output, in_line};

/// Changes that became visible together.
#[derive(Serialize)]
struct Seen {
    epoch: String,
    fence: String,
    all: bool,
    tags: Vec<String>,
}

/// Prints `count` batches of changes, or goes on until the process is stopped.
pub(crate) async fn follow(
    db: &Database,
    count: Option<u64>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let mut changes = Changes::follow(db).await?;
    eprintln!("watching");
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        output.print(&Seen::from(changes.next().await?))?;
        left -= 1;
    }
    Ok(ExitCode::SUCCESS)
}

impl From<Change> for Seen {
    fn from(change: Change) -> Self {
        let Change { epoch, fence, all, tags, .. } = change;
        Self { epoch: epoch.to_string(), fence: fence.to_string(), all, tags }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = if self.all { " everything" } else { "" };
        write!(f, "{}{all}", self.fence)?;
        // A tag with `!` marks a bulk change of a table, whose own tag is printed anyway.
        let tags = self.tags.iter().filter(|tag| !tag.ends_with('!'));
        tags.into_iter().try_for_each(|tag| write!(f, " {}", in_line(tag)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tag holds a value of a row, which anyone may have written.
    #[test]
    fn a_tag_with_control_characters_stays_one_line_of_plain_text() {
        let tags = vec!["users:name=\x1b]0;title\x07\nusers:id=1".to_owned(), "users!".to_owned()];
        let (epoch, fence) = ("1".to_owned(), "0/1".to_owned());
        let seen = Seen { epoch, fence, all: false, tags };
        let line = seen.to_string();
        assert_eq!(line, "0/1 users:name=\\u{1b}]0;title\\u{7}\\nusers:id=1");
    }
}
