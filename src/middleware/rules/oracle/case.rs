//! The requests and responses that are compared, as a source of choices makes them.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// A request, its response, and a second request for the same.
#[derive(Debug)]
pub struct Case {
    /// The response's status.
    pub status: StatusCode,
    /// The fields of the request that the response is to.
    pub first: HeaderMap,
    /// The fields of the response.
    pub response: HeaderMap,
    /// The fields of the second request.
    pub second: HeaderMap,
    /// When the second request comes, after the response.
    pub later: Duration,
}

/// What decides what is in a case.
pub(crate) trait Choices {
    /// A number below `count`.
    fn below(&mut self, count: usize) -> usize;
}

/// The bytes of a fuzzer. After their end come zeros, for which a case has the fewest fields.
impl Choices for &[u8] {
    fn below(&mut self, count: usize) -> usize {
        let Some((first, rest)) = self.split_first() else { return 0 };
        *self = rest;
        usize::from(*first) % count
    }
}

#[cfg(test)]
impl Choices for fastrand::Rng {
    fn below(&mut self, count: usize) -> usize {
        self.usize(..count)
    }
}

/// What a field or directive may be. A `#` stands for one of the [`NUMBERS`].
type Values = &'static [&'static str];

const NUMBERS: Values = &[
    "0",
    "1",
    "5",
    "9",
    "10",
    "30",
    "40",
    "60",
    "61",
    "100",
    "300",
    "4000",
    "4294967296",
    "99999999999999999999",
];

const DIRECTIVES: Values = &[
    "public",
    "private",
    "private=\"x-a\"",
    "no-store",
    "no-cache",
    "no-cache=\"x-a\"",
    "must-revalidate",
    "proxy-revalidate",
    "must-understand",
    "immutable",
    "max-age=#",
    "max-age=#",
    "max-age=60",
    "max-age=\"#\"",
    "max-age=x",
    "max-age=-1",
    "MAX-AGE=#",
    "s-maxage=#",
    "s-maxage=x",
    "stale-while-revalidate=#",
    "other=\"a, max-age=9\"",
];

const REQUEST_DIRECTIVES: Values = &[
    "no-store",
    "no-cache",
    "max-age=#",
    "max-age=\"#\"",
    "max-age=x",
    "MAX-AGE=#",
    "min-fresh=#",
    "min-fresh=x",
    "max-stale",
    "max-stale=#",
    "max-stale=#",
    "max-stale=x",
    "only-if-cached",
    "no-transform",
];

/// Fields of the response, with what each may be.
const RESPONSE: [(&str, Values); 10] = [
    (
        "expires",
        &[
            "Wed, 25 Nov 2026 12:05:00 GMT",
            "Wed, 25 Nov 2026 11:00:00 GMT",
            "Wednesday, 25-Nov-26 12:05:00 GMT",
            "WED, 25 NOV 2026 12:05:00 GMT",
            "Wed, 25 Nov 2026 13:05:00 +0100",
            "0",
        ],
    ),
    ("date", &["Wed, 25 Nov 2026 12:00:00 GMT", "Wed, 25 Nov 2026 11:59:30 GMT", "yesterday"]),
    ("age", &["#", "10, 3", "-1", "x"]),
    ("last-modified", &["Wed, 25 Nov 2026 10:00:00 GMT", "Wed, 25 Nov 2026 13:00:00 GMT"]),
    ("etag", &["\"a\""]),
    (
        "vary",
        &[
            "*",
            "accept",
            "Accept, X-A",
            "accept, *",
            "cookie",
            "accept-language",
            "x-a",
            "accept-language",
            "a b",
        ],
    ),
    ("set-cookie", &["a=b"]),
    ("pragma", &["no-cache"]),
    ("content-encoding", &["gzip"]),
    ("access-control-allow-origin", &["*", "https://a.example"]),
];

/// Fields of a request that select a variant.
const SELECTING: [(&str, Values); 5] = [
    ("accept", &["text/html", "text/html", "application/json", "TEXT/HTML"]),
    ("accept-language", &["de", "DE"]),
    ("accept-encoding", &["gzip", "br"]),
    ("origin", &["https://a.example", "https://b.example"]),
    ("x-a", &["1", "2"]),
];

/// Fields of a request that say who sends it, or that it wants the response anew.
const CLIENT: [(&str, Values); 4] = [
    ("authorization", &["x"]),
    ("cookie", &["a=b"]),
    ("x-api-key", &["x"]),
    ("pragma", &["no-cache"]),
];

const STATUSES: [u16; 20] = [
    200, 200, 200, 203, 204, 206, 299, 301, 302, 304, 307, 308, 400, 404, 405, 410, 414, 500, 501,
    503,
];

const LATER: [u64; 14] = [0, 1, 5, 10, 29, 30, 40, 59, 60, 61, 100, 301, 4000, 100_000];

/// Writes the fields of one message.
struct Message<'c, C> {
    choices: &'c mut C,
    fields: HeaderMap,
}

impl<C: Choices> Message<'_, C> {
    /// Once in so many times.
    fn sometimes(&mut self, of: usize) -> bool {
        self.choices.below(of) == of - 1
    }

    fn value(&mut self, of: Values) -> String {
        let value = of[self.choices.below(of.len())];
        match value.contains('#') {
            true => value.replace('#', NUMBERS[self.choices.below(NUMBERS.len())]),
            false => value.to_owned(),
        }
    }

    fn append(&mut self, name: &'static str, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.fields.append(HeaderName::from_static(name), value);
        }
    }

    /// Up to three directives, each on a line of its own or all on one.
    fn directives(&mut self, of: Values, one_in: usize) {
        let mut said = Vec::new();
        for _ in 0..3 {
            if self.sometimes(one_in) {
                said.push(self.value(of));
            }
        }
        match self.sometimes(2) {
            true if !said.is_empty() => self.append("cache-control", &said.join(", ")),
            _ => said.iter().for_each(|directive| self.append("cache-control", directive)),
        }
    }

    fn fields(&mut self, of: &[(&'static str, Values)], one_in: usize) {
        for (name, values) in of {
            if self.sometimes(one_in) {
                let value = self.value(values);
                self.append(name, &value);
            }
        }
    }

    fn request(mut self) -> HeaderMap {
        self.directives(REQUEST_DIRECTIVES, 4);
        self.fields(&SELECTING, 2);
        // A second line of a field.
        self.fields(&SELECTING[..1], 3);
        self.fields(&CLIENT, 12);
        self.fields
    }

    fn response(mut self) -> HeaderMap {
        self.directives(DIRECTIVES, 2);
        self.fields(&RESPONSE, 5);
        self.fields
    }
}

impl Case {
    /// The case that these choices make.
    pub(crate) fn new(choices: &mut impl Choices) -> Self {
        let status = STATUSES[choices.below(STATUSES.len())];
        let later = Duration::from_secs(LATER[choices.below(LATER.len())]);
        let response = Message { choices, fields: HeaderMap::new() }.response();
        let second = Message { choices, fields: HeaderMap::new() }.request();
        // Most second requests select what the first one did.
        let first = if choices.below(3) == 2 {
            Message { choices, fields: HeaderMap::new() }.request()
        } else {
            let alike = |(name, _): &(&HeaderName, &HeaderValue)| {
                SELECTING.iter().any(|(selecting, _)| name == selecting)
            };
            let fields = second.iter().filter(alike);
            let fields = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
            let mut first = Message { choices, fields };
            first.fields(&CLIENT[..3], 8);
            first.fields
        };
        let status = StatusCode::from_u16(status).unwrap_or_default();
        Self { status, first, response, second, later }
    }
}
