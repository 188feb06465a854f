//! A document with places for what was measured.
//!
//! ```text
//! <!-- writes: begin -->
//! what stands here is written anew
//! <!-- writes: end -->
//! ```

use crate::Failure;

/// Writes what is between a place's marks anew.
pub(super) fn fill(document: &str, place: &str, text: &str) -> Result<String, Failure> {
    let [begin, end] = ["begin", "end"].map(|mark| format!("<!-- {place}: {mark} -->\n"));
    let parts = document.split_once(&begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&end)?;
        Some((before, after))
    });
    let (before, after) = parts.ok_or_else(|| format!("the document has no place for {place}"))?;
    Ok(format!("{before}{begin}\n{text}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_markers_is_replaced() {
        let before = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n";
        let after = fill(before, "x", "new\n").unwrap();
        assert_eq!(after, "a\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nb\n");
        assert_eq!(fill(&after, "x", "new\n").unwrap(), after);
        assert!(fill(before, "y", "new\n").is_err());
    }
}
