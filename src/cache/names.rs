//! Checks the names of headers and cookies that settings contain.

use http::HeaderName;

/// Why a name in this setting is not that of a header (RFC 9110, section 5.1), if it is not.
pub(crate) fn header_fault(setting: &str, name: &str) -> Option<String> {
    if name.contains('*') {
        return Some(format!("{setting} has `{name}`, and takes no patterns: name each header"));
    }
    let is_name = HeaderName::from_bytes(name.as_bytes()).is_ok();
    (!is_name).then(|| format!("{setting} has `{name}`, which is not the name of a header"))
}

/// The same for a setting in which a `*` at the end stands for any rest.
pub(crate) fn header_pattern_fault(setting: &str, name: &str) -> Option<String> {
    match name.strip_suffix('*') {
        Some("") => Some(format!(
            "{setting} has `*`, which matches every header: name each header, or a prefix of names"
        )),
        stem => header_fault(setting, stem.unwrap_or(name)),
    }
}

/// Why a name in this setting is not that of a cookie, if it is not. Browsers send more names than RFC 6265, section
/// 4.1.1, allows, such as `user[name]`; this only refuses what no client can send.
pub(crate) fn cookie_fault(setting: &str, name: &str) -> Option<String> {
    if name.ends_with('*') {
        return Some(format!("{setting} has `{name}`, and takes no patterns: name each cookie"));
    }
    let is_name = is_cookie_name(name) && !name.is_empty();
    (!is_name).then(|| format!("{setting} has `{name}`, which is not the name of a cookie"))
}

/// The same for a setting in which a `*` at the end stands for any rest.
pub(crate) fn cookie_pattern_fault(setting: &str, name: &str) -> Option<String> {
    let Some(stem) = name.strip_suffix('*') else { return cookie_fault(setting, name) };
    let is_stem = is_cookie_name(stem) && !stem.contains('*');
    (!is_stem).then(|| {
        format!(
            "{setting} has `{name}`: a `*` is allowed at the end only, where it matches any ending"
        )
    })
}

fn is_cookie_name(name: &str) -> bool {
    name.trim() == name && !name.contains(|c: char| c.is_ascii_control() || "=;".contains(c))
}
