//! Dates in responses, read as a cache does (RFC 9111, section 4.2, on the forms of RFC 9110, section 5.6.7).

use std::time::{Duration, SystemTime};

/// The names of the days in RFC 850's form; the others have their first three letters.
const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A date in one of the three forms, without regard to case; in any zone but GMT it is none. A leap second counts as the
/// second before it, and a year of two digits as the last such year that is at most fifty years ahead of `now`.
pub(super) fn read(text: &str, now: SystemTime) -> Option<SystemTime> {
    if !text.is_ascii() || text.len() > LONGEST {
        return None;
    }
    let text = without_leap_second(cased(text));
    let text = with_century(&text, now).unwrap_or(text);
    httpdate::parse_http_date(&text).ok()
}

/// `Wednesday, 25-Nov-26 12:00:00 GMT` is the longest.
const LONGEST: usize = 33;

/// Names as the forms have them: a capital and small letters, but `GMT`.
fn cased(text: &str) -> String {
    let mut is_in_word = false;
    let cased = text.chars().map(|letter| {
        let cased =
            if is_in_word { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() };
        is_in_word = letter.is_ascii_alphabetic();
        cased
    });
    cased.collect::<String>().replace(" Gmt", " GMT")
}

fn without_leap_second(text: String) -> String {
    match text.contains(":60 ") {
        true => text.replace(":60 ", ":59 "),
        false => text,
    }
}

/// RFC 850's form as IMF-fixdate; `None` for what does not have it.
fn with_century(text: &str, now: SystemTime) -> Option<String> {
    let (day, rest) = text.split_once(", ")?;
    let (date, time) = rest.split_once(' ')?;
    let mut parts = date.split('-');
    let (of_month, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let is_whole = parts.next().is_none() && DAYS.contains(&day);
    let is_number = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_whole || !is_number(of_month) || !is_number(year) {
        return None;
    }
    let latest = year_of(now) + 50;
    let year = latest - (latest.checked_sub(year.parse().ok()?)?) % 100;
    Some(format!("{}, {of_month} {month} {year:04} {time}", &day[..3]))
}

/// The year of a time, to within a day.
fn year_of(time: SystemTime) -> u64 {
    const YEAR: Duration = Duration::from_secs(31_556_952);
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    1970 + since.as_secs() / YEAR.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(date: &str) -> SystemTime {
        httpdate::parse_http_date(date).unwrap()
    }

    fn now() -> SystemTime {
        at("Wed, 25 Nov 2026 12:00:00 GMT")
    }

    #[test]
    fn all_three_date_formats_are_parsed_in_any_case() {
        for written in [
            "Wed, 25 Nov 2026 12:00:00 GMT",
            "WED, 25 Nov 2026 12:00:00 GMT",
            "wed, 25 NOV 2026 12:00:00 gmt",
            "Wed, 25 nov 2026 12:00:00 gMT",
            "Wednesday, 25-Nov-26 12:00:00 GMT",
            "wednesday, 25-nov-26 12:00:00 gmt",
            "Wed Nov 25 12:00:00 2026",
            "WED NOV 25 12:00:00 2026",
        ] {
            assert_eq!(read(written, now()), Some(now()), "{written}");
        }
        let padded = at("Mon, 08 Aug 2050 02:01:18 GMT");
        assert_eq!(read("Mon Aug  8 02:01:18 2050", now()), Some(padded));
    }

    #[test]
    fn a_text_that_is_not_a_valid_gmt_date_is_refused() {
        for written in [
            "",
            "0",
            "-1",
            "Wed, 25 Nov 2026 12:00:00 UTC",
            "Wed, 25 Nov 2026 12:00:00 AEST",
            "Wed, 25 Nov 2026 12:00:00 +0100",
            "Wed, 25 Nov 2026 12:00:00",
            "Wed 25 Nov 2026 12:00:00 GMT",
            "Wed,  25  Nov 2026 12:00:00 GMT",
            "Wed, 25-Nov-2026 12:00:00 GMT",
            "Wed, 25 Nov 26 12:00:00 GMT",
            "Wed, 25 Nov 2026 12.00.00 GMT",
            "Wed, 25 Nov 2026 1:00:00 GMT",
            "Wed, 25 Nov 2026 24:00:00 GMT",
            "Wed, 25 Nov 2026 12:00:61 GMT",
            "Wed, 31 Nov 2026 12:00:00 GMT",
            "Thu, 25 Nov 2026 12:00:00 GMT",
            "Wed, 25-Nov-26 12:00:00 GMT",
            "Wednesday, 25 Nov 2026 12:00:00 GMT",
            "Wednesday, +5-Nov-26 12:00:00 GMT",
            "Thu, 31 Dec 1969 12:00:00 GMT",
            "Wed, 25 Nov 2026 12:00:00 GMT, Wed, 25 Nov 2026 12:00:00 GMT",
            "W\u{e9}d, 25 Nov 2026 12:00:00 GMT",
        ] {
            assert_eq!(read(written, now()), None, "{written}");
        }
    }

    #[test]
    fn a_leap_second_parses_as_the_second_before() {
        let before = at("Sat, 31 Dec 2016 23:59:59 GMT");
        for written in [
            "Sat, 31 Dec 2016 23:59:60 GMT",
            "Saturday, 31-Dec-16 23:59:60 GMT",
            "Sat Dec 31 23:59:60 2016",
        ] {
            assert_eq!(read(written, now()), Some(before), "{written}");
        }
    }

    #[test]
    fn a_two_digit_year_is_at_most_fifty_years_ahead() {
        for (written, year) in [
            ("Thursday, 18-Aug-50 02:01:18 GMT", "Thu, 18 Aug 2050 02:01:18 GMT"),
            ("Tuesday, 18-Aug-76 02:01:18 GMT", "Tue, 18 Aug 2076 02:01:18 GMT"),
            ("Thursday, 18-Aug-77 02:01:18 GMT", "Thu, 18 Aug 1977 02:01:18 GMT"),
            ("Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ] {
            assert_eq!(read(written, now()), Some(at(year)), "{written}");
        }
        let later = at("Thu, 18 Aug 2095 02:01:18 GMT");
        assert_eq!(
            read("Wednesday, 18-Aug-45 02:01:18 GMT", later),
            Some(at("Wed, 18 Aug 2145 02:01:18 GMT"))
        );
    }
}
