//! The age and lifetime of a response (RFC 9111, section 4.2).

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::directives::delta_seconds;
use super::http_date;
use super::list::members;
use super::targeted::ResponseControl;

/// A heuristic lifetime is a tenth of the time since `Last-Modified` (RFC 9111, section 4.2.2).
const HEURISTIC_PART: u32 = 10;

/// The maximum heuristic lifetime.
const HEURISTIC_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The lifetime of a response, counted from its creation (RFC 9111, section 4.2.1). `None` if nothing determines it.
pub(crate) fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    control: &ResponseControl,
    now: SystemTime,
) -> Option<Duration> {
    let directives = &control.directives;
    let said = directives.s_maxage.or(directives.max_age);
    if said.is_some() || control.is_targeted {
        return said;
    }
    let date = |name: HeaderName| date_of_response(headers, name, now);
    let made = date(DATE).unwrap_or(now);
    if headers.contains_key(EXPIRES) {
        // Section 5.3: an invalid date counts as one in the past.
        let until = date(EXPIRES).and_then(|until| until.duration_since(made).ok());
        return Some(until.unwrap_or_default());
    }
    let may_guess = is_heuristically_cacheable(status) || directives.public;
    let changed = date(LAST_MODIFIED).filter(|_| may_guess)?;
    let unchanged_for = made.duration_since(changed).ok()?;
    Some((unchanged_for / HEURISTIC_PART).min(HEURISTIC_LIMIT))
}

/// Whether the response itself says how long it is fresh.
pub(crate) fn is_explicit(headers: &HeaderMap, control: &ResponseControl) -> bool {
    let directives = &control.directives;
    directives.s_maxage.or(directives.max_age).is_some()
        || !control.is_targeted && headers.contains_key(EXPIRES)
}

/// The age of a response when it arrived (RFC 9111, section 4.2.3), `delay` after the request.
pub(crate) fn age(headers: &HeaderMap, now: SystemTime, delay: Duration) -> Duration {
    // Section 5.1: the first member counts, and is ignored if it is not a number.
    let reported = members(headers, AGE).next().and_then(delta_seconds);
    let corrected = reported.unwrap_or_default() + delay;
    let apparent =
        date_of_response(headers, DATE, now).and_then(|made| now.duration_since(made).ok());
    let apparent = Duration::from_secs(apparent.unwrap_or_default().as_secs());
    corrected.max(apparent)
}

/// RFC 9110, section 15.1.
pub(crate) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// The date that a field holds, if it holds one date in one of the three forms of RFC 9110, section 5.6.7.
pub(crate) fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).into_iter();
    let line = lines.next().filter(|_| lines.next().is_none());
    line.and_then(read_date)
}

/// The date that a field of a response holds, if it holds one date; read without regard to case.
fn date_of_response(headers: &HeaderMap, name: HeaderName, now: SystemTime) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).into_iter();
    let line = lines.next().filter(|_| lines.next().is_none())?;
    http_date::read(line.to_str().ok()?, now)
}

/// The date that a value is.
pub(crate) fn read_date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    fn now() -> SystemTime {
        httpdate::parse_http_date("Wed, 25 Nov 2026 12:00:00 GMT").unwrap()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let lines = lines.iter();
        lines.map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn lifetime(lines: &[(&'static str, &str)]) -> Option<u64> {
        let headers = headers(lines);
        let control = ResponseControl::from_headers(&headers);
        super::lifetime(StatusCode::OK, &headers, &control, now()).map(|life| life.as_secs())
    }

    #[test]
    fn the_most_specific_lifetime_wins() {
        let expires = ("expires", "Wed, 25 Nov 2026 12:01:00 GMT");
        assert_eq!(lifetime(&[expires]), Some(60));
        assert_eq!(lifetime(&[expires, ("cache-control", "max-age=5")]), Some(5));
        assert_eq!(lifetime(&[("cache-control", "max-age=5, s-maxage=7")]), Some(7));
        assert_eq!(lifetime(&[expires, ("cdn-cache-control", "immutable")]), None);
        assert_eq!(lifetime(&[]), None);
    }

    #[test]
    fn an_invalid_expires_is_zero_and_a_valid_one_counts_from_the_date() {
        let date = ("date", "Wed, 25 Nov 2026 11:59:00 GMT");
        assert_eq!(lifetime(&[date, ("expires", "Wed, 25 Nov 2026 12:00:00 GMT")]), Some(60));
        for (written, life) in [
            ("Wednesday, 25-Nov-26 12:00:00 GMT", 60),
            ("Wed Nov 25 12:00:00 2026", 60),
            ("WED, 25 NOV 2026 12:00:00 gmt", 60),
            ("0", 0),
            ("-1", 0),
            ("Wed, 25 Nov 2026 12:00:00 UTC", 0),
            ("Wed, 25 Nov 2026 12:00:00 +0100", 0),
            ("Wed 25 Nov 2026 12:00:00 GMT", 0),
            ("Wed,  25  Nov 2026 12:00:00 GMT", 0),
            ("Wed, 25 Nov 26 12:00:00 GMT", 0),
            ("Wed, 25 Nov 2026 1:00:00 GMT", 0),
            ("Thu, 25 Nov 2026 12:00:00 GMT", 0),
        ] {
            assert_eq!(lifetime(&[date, ("expires", written)]), Some(life), "{written}");
        }
        let twice = [("expires", "Wed, 25 Nov 2026 13:00:00 GMT"); 2];
        assert_eq!(lifetime(&twice), Some(0));
    }

    #[test]
    fn a_heuristic_lifetime_is_a_tenth_of_the_time_since_the_change_up_to_a_day() {
        let changed = |written| lifetime(&[("last-modified", written)]);
        assert_eq!(changed("Wed, 25 Nov 2026 11:00:00 GMT"), Some(360));
        assert_eq!(changed("Mon, 25 Nov 2019 11:00:00 GMT"), Some(DAY));
        assert_eq!(changed("Thu, 26 Nov 2026 12:00:00 GMT"), None);
        let headers = headers(&[("last-modified", "Wed, 25 Nov 2026 11:00:00 GMT")]);
        let guess = |control: &ResponseControl| {
            super::lifetime(StatusCode::from_u16(299).unwrap(), &headers, control, now())
        };
        assert_eq!(guess(&ResponseControl::default()), None);
        let mut public = ResponseControl::default();
        public.directives.public = true;
        assert!(guess(&public).is_some());
    }

    #[test]
    fn the_age_comes_from_the_age_field_or_from_the_date() {
        let age = |lines: &[(&'static str, &str)]| {
            super::age(&headers(lines), now(), Duration::from_secs(2)).as_secs()
        };
        assert_eq!(age(&[]), 2);
        assert_eq!(age(&[("age", "30")]), 32);
        assert_eq!(age(&[("age", "30, 5")]), 32);
        assert_eq!(age(&[("age", "old, 5")]), 2);
        assert_eq!(age(&[("age", "-5")]), 2);
        assert_eq!(age(&[("age", "5.5")]), 2);
        assert_eq!(age(&[("date", "Wed, 25 Nov 2026 12:00:00 GMT")]), 2);
        assert_eq!(age(&[("date", "Wed, 25 Nov 2026 11:00:00 GMT")]), 3600);
        assert_eq!(age(&[("date", "Wed, 25 Nov 2026 13:00:00 GMT")]), 2);
        assert_eq!(age(&[("age", "5000"), ("date", "Wed, 25 Nov 2026 11:00:00 GMT")]), 5002);
    }
}
