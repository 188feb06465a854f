//! The analysis of SQL, for `crate::fuzzing`.

pub(crate) fn analyze(sql: &str) {
    super::dependencies::is_read(sql);
}
