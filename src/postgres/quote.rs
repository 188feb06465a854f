//! Names and strings as SQL, for the few statements that can't take them as parameters.

/// Quotes a name with any characters (PostgreSQL manual, 4.1.1). The server refuses a zero byte.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string, whatever `standard_conforming_strings` is (4.1.2.2), in a text that has placeholders after colons and
/// is itself quoted by dollars: neither mark is in it.
pub(crate) fn string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 3);
    quoted.push_str("E'");
    for c in text.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '$' => quoted.push_str("\\x24"),
            ':' => quoted.push_str("\\x3a"),
            _ => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_escapes_delimiters_in_names_and_strings() {
        assert_eq!(identifier(r#"a"; drop table b; --"#), r#""a""; drop table b; --""#);
        assert_eq!(string(r"a'; \' $tidegate$ :limit"), r"E'a''; \\'' \x24tidegate\x24 \x3alimit'");
    }
}
