//! Adds `Date` to a response that has none.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::header::DATE;
use http::{HeaderMap, HeaderValue};

use crate::clock;

thread_local! {
    /// The last value, and the second for which it was formatted.
    static LAST: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
}

/// RFC 9110, section 6.6.1: a cache adds a date to a response without one.
pub(crate) fn date(headers: &mut HeaderMap) {
    if let Some(now) = now() {
        // A full map stays without a date.
        drop(headers.try_insert(DATE, now));
    }
}

fn now() -> Option<HeaderValue> {
    let second = clock::unix_millis() / 1000;
    LAST.with_borrow_mut(|last| match last {
        Some((of, date)) if *of == second => Some(date.clone()),
        _ => {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            let date: HeaderValue = httpdate::fmt_http_date(now).parse().ok()?;
            *last = Some((second, date.clone()));
            Some(date)
        }
    })
}
