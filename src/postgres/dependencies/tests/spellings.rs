//! Random spellings of values, against the rows that Postgres itself finds by them: whatever row a statement
//! finds, a change of it must have the tag that the statement is narrowed to.

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, AssertSqlSafe, PgConnection};

use super::super::{Dependencies, Equality, ValueSource};
use super::server::{Server, run};
use crate::Tag;
use crate::cache::PolicyTag;
use crate::postgres::bound::BoundArguments;

const TYPES: &[&str] = &[
    "smallint",
    "integer",
    "bigint",
    "oid",
    "text",
    "varchar",
    "varchar(5)",
    "char(6)",
    "\"char\"",
    "name",
    "uuid",
    "boolean",
    "numeric",
    "float4",
    "float8",
    "date",
    "timestamp",
    "timestamptz",
    "time",
    "interval",
    "bytea",
    "bit(4)",
    "inet",
    "money",
    "jsonb",
    "xid",
    "citext",
    "small",
    "word",
    "mood",
    "int[]",
    "text collate loose",
    "text collate \"tr-x-icu\"",
    "varchar collate loose",
];

const VALUES: &[&str] = &[
    "0",
    "1",
    "-1",
    "+1",
    "007",
    "010",
    "10",
    "0x1",
    "0X1f",
    "0b1",
    "0o7",
    "1_000",
    "1000",
    "1e3",
    "1.0",
    "1.50",
    "-0",
    "-0.0",
    " 7 ",
    "7",
    "8",
    "2147483648",
    "9223372036854775807",
    "99999999999999999999",
    "1e400",
    "NaN",
    "infinity",
    "-inf",
    "abc",
    "ABC",
    "Abc",
    "abc   ",
    " abc",
    "abcdef",
    "a'b",
    "a''b",
    "a\\b",
    "a\\'b",
    "a\"b",
    "ß",
    "SS",
    "ΟΔΟΣ",
    "οδος",
    "οδοσ",
    "İ",
    "i",
    "I",
    "ı",
    "é",
    "e\u{301}",
    "",
    " ",
    "true",
    "t",
    "on",
    "yes",
    "false",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
    "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
    "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
    "2024-01-01",
    "20240101",
    "Jan 1 2024",
    "2024-01-01 00:00:00+00",
    "2024-01-01 02:00:00+02",
    "1 day",
    "24 hours",
    "\\x6162",
    "ab",
    "0101",
    "127.0.0.1",
    "127.0.0.1/32",
    "$1.00",
    "{\"a\": 1}",
    "{\"a\":1}",
    "{1,2}",
    "{name}",
    "a:b=c",
    "$1",
    "--x",
    "/*",
    "null",
    "a\nb",
    "a\tb",
    "\u{a0}1",
];

const SCHEMA: &str = r"
create extension citext;
create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create domain small as int;
create domain word as text;
create type mood as enum ('abc', 'ABC', 'i', 'I', '1');
create type mine as (x int);
-- Not every text is a value of each type.
create function fill(name regclass, texts text[]) returns void language plpgsql as $$
declare value text;
begin
    foreach value in array texts loop
        begin
            execute format('insert into %s values (%L)', name, value);
        exception when others then null;
        end;
    end loop;
end $$;
";

fn table(of: usize) -> String {
    format!("t{of}")
}

async fn server() -> Server {
    let mut server = Server::start(SCHEMA).await;
    for (of, kind) in TYPES.iter().enumerate() {
        let table = table(of);
        server.run(&format!("create table {table} (c {kind}); select track('{table}')")).await;
        let fill = sqlx::query("select fill($1::text::regclass, $2)").bind(table).bind(VALUES);
        fill.execute(&mut server.conn).await.unwrap();
    }
    server
}

/// A column of any type, most often of one that distinguishes rows.
fn column(random: &mut fastrand::Rng) -> usize {
    const NARROWED: &[&str] =
        &["smallint", "integer", "bigint", "text", "varchar", "varchar(5)", "uuid"];
    let kind =
        random.choice(NARROWED).and_then(|kind| TYPES.iter().position(|known| known == kind));
    kind.filter(|_| random.bool()).unwrap_or_else(|| random.usize(..TYPES.len()))
}

/// A literal for a value, in one of the forms that there are.
fn literal(random: &mut fastrand::Rng, value: &str) -> String {
    let doubled = value.replace('\'', "''");
    let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
    match random.u8(..14) {
        0..5 => format!("'{doubled}'"),
        5..7 => value.to_owned(),
        7 => format!("E'{escaped}'"),
        8 => format!("E'{doubled}'"),
        9 => format!("$${value}$$"),
        10 => format!("N'{doubled}'"),
        11 => format!("U&'{doubled}'"),
        12 => format!("B'{doubled}'"),
        _ => format!("- {value}"),
    }
}

const CASTS: &[&str] = &[
    "smallint",
    "int2",
    "int",
    "integer",
    "int4",
    "bigint",
    "int8",
    "text",
    "varchar",
    "varchar(2)",
    "char",
    "char(3)",
    "name",
    "uuid",
    "numeric",
    "float8",
    "oid",
    "citext",
    "small",
    "word",
    "boolean",
    "date",
    "pg_catalog.int4",
    "\"text\"",
    "timestamptz",
    "money",
    "bytea",
    "jsonb",
    "int[]",
];

/// The value as other types, in parentheses, or as an element.
fn cast(random: &mut fastrand::Rng, value: String) -> String {
    let kind = random.choice(CASTS).copied().unwrap_or("text");
    match random.u8(..12) {
        0..5 => value,
        5..7 => format!("{value}::{kind}"),
        7 => format!("cast({value} as {kind})"),
        8 => format!("({value})"),
        9 => format!("{kind} {value}"),
        10 => format!("({value})::{kind}::text"),
        _ => format!("(array[{value}])[1]"),
    }
}

async fn narrowed(server: &mut Server, sql: &str) -> Option<Equality> {
    // A new cache each time, since no statement is looked up twice.
    let found = super::learn(&mut server.conn, sql).await;
    match &*found.dependencies {
        Dependencies::Tables(tables) => tables.first().and_then(|table| table.by.first().cloned()),
        Dependencies::Unanalyzable(_) => None,
    }
}

/// Rows that a statement finds, by their text; none if it is an error.
async fn found<'q, T>(conn: &mut PgConnection, sql: String, bound: T) -> Option<Vec<String>>
where
    T: Binds<'q>,
{
    // A prepared statement is kept by its text, whatever types it was prepared for.
    let query = bound.bind(sqlx::query_scalar(AssertSqlSafe(sql))).persistent(false);
    query.fetch_all(conn).await.ok()
}

type Scalar<'q> = sqlx::query::QueryScalar<'q, sqlx::Postgres, String, sqlx::postgres::PgArguments>;

/// What a statement's parameter is bound to.
trait Binds<'q>: Clone {
    fn bind(self, query: Scalar<'q>) -> Scalar<'q>;
}

impl<'q> Binds<'q> for () {
    fn bind(self, query: Scalar<'q>) -> Scalar<'q> {
        query
    }
}

impl<'q, T> Binds<'q> for (T,)
where
    T: Clone + 'q + sqlx::Encode<'q, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    fn bind(self, query: Scalar<'q>) -> Scalar<'q> {
        query.bind(self.0)
    }
}

fn assert_same_tag(sql: &str, rows: &[String], value: &str) {
    for row in rows {
        let (row, value) = (Tag::column("t", "c", row), Tag::column("t", "c", value));
        assert_eq!(row, value, "{sql} finds {rows:?}");
    }
}

#[tokio::test]
async fn a_change_to_a_row_that_a_literal_matches_carries_the_literals_tag() {
    literals(150).await;
}

#[tokio::test]
#[ignore = "minutes: scripts/deep"]
async fn a_change_to_a_row_that_one_of_many_literals_matches_carries_its_tag() {
    literals(3_000).await;
}

async fn literals(cases: usize) {
    let mut server = server().await;
    let mut random = fastrand::Rng::with_seed(18);
    let mut cases_with_rows = 0;
    for _ in 0..cases {
        let of = column(&mut random);
        let value = random.choice(VALUES).copied().unwrap_or_default();
        let spelled = literal(&mut random, value);
        let spelled = cast(&mut random, spelled);
        let table = table(of);
        let condition = match random.u8(..3) {
            0 => format!("{spelled} = {table}.c"),
            _ => format!("c = {spelled}"),
        };
        let sql = format!("select concat(c) from {table} where {condition}");
        let Some(by) = narrowed(&mut server, &sql).await else { continue };
        let [ValueSource::Literal(value)] = &by.values[..] else { continue };
        let Some(rows) = found(&mut server.conn, sql.clone(), ()).await else { continue };
        assert_same_tag(&sql, &rows, value);
        cases_with_rows += usize::from(!rows.is_empty());
    }
    assert!(cases_with_rows > cases / 50, "{cases_with_rows} of the literals distinguished rows");
}

async fn bound<'q, T>(server: &mut Server, sql: &str, given: T) -> bool
where
    T: Clone + 'q + sqlx::Encode<'q, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let Some(by) = narrowed(server, sql).await else { return false };
    let Some(rows) = found(&mut server.conn, sql.to_owned(), (given.clone(),)).await else {
        return false;
    };
    let mut arguments = PgArguments::default();
    arguments.add(given).expect("an argument");
    let arguments = BoundArguments::from_arguments(&arguments).expect("arguments");
    let Some(said) = BoundArguments::rows(Some(&arguments), "t", &by) else { return false };
    let said: Vec<Tag> = said.iter().map(PolicyTag::tag).collect();
    for row in &rows {
        assert!(said.contains(&Tag::column("t", "c", row)), "{sql} finds {rows:?}, not {by:?}");
    }
    !rows.is_empty()
}

#[tokio::test]
async fn a_change_to_a_row_that_a_parameter_matches_carries_the_parameters_tag() {
    parameters(150).await;
}

#[tokio::test]
#[ignore = "minutes: scripts/deep"]
async fn a_change_to_a_row_that_one_of_many_parameters_matches_carries_its_tag() {
    parameters(3_000).await;
}

async fn parameters(cases: usize) {
    let mut server = server().await;
    let mut random = fastrand::Rng::with_seed(16);
    let mut cases_with_rows = 0;
    for _ in 0..cases {
        let of = column(&mut random);
        let spelled = cast(&mut random, "$1".to_owned());
        let sql = format!("select concat(c) from {} where c = {spelled}", table(of));
        let text = random.choice(VALUES).copied().unwrap_or_default();
        let number = text.trim().parse::<f64>().unwrap_or(7.0);
        #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
        let integer = number as i64;
        let has_rows = match random.u8(..9) {
            0..4 => bound(&mut server, &sql, text.to_owned()).await,
            4 => bound(&mut server, &sql, integer).await,
            5 => bound(&mut server, &sql, i32::try_from(integer).unwrap_or(8)).await,
            6 => bound(&mut server, &sql, i16::try_from(integer).unwrap_or(10)).await,
            7 => bound(&mut server, &sql, number).await,
            _ => bound(&mut server, &sql, Option::<String>::None).await,
        };
        cases_with_rows += usize::from(has_rows);
    }
    assert!(cases_with_rows > cases / 50, "{cases_with_rows} of the parameters distinguished rows");
}

#[tokio::test]
async fn a_user_type_or_operator_with_a_system_name_prevents_narrowing() {
    let mut server = server().await;
    let sql = "select concat(c) from t1 where c = $1";
    assert!(narrowed(&mut server, sql).await.is_some());
    for (made, gone) in [
        ("create domain int4 as text; set search_path = public, pg_catalog", "reset search_path; drop domain public.int4"),
        (
            "create function same(int, anyelement) returns bool immutable language sql as 'select true';
             create operator = (leftarg = int, rightarg = anyelement, function = same)",
            "drop function same cascade",
        ),
        (
            "create function same(anyelement, mine) returns bool immutable language sql as 'select true';
             create operator = (leftarg = anyelement, rightarg = mine, function = same)",
            "drop function same cascade",
        ),
    ] {
        run(&mut server.conn, made).await;
        assert_eq!(narrowed(&mut server, sql).await, None, "{made}");
        run(&mut server.conn, gone).await;
        assert!(narrowed(&mut server, sql).await.is_some(), "{gone}");
    }
}

/// Of each character that has another case anywhere, and of words that it ends and begins.
const CASES: &str = "
select c || x, lower((c || x) collate \"%\"), upper((c || x) collate \"%\")
from (select chr(n) as c from generate_series(128, 131071) n where n not between 55296 and 57343
    union all select chr(n) from generate_series(65, 122) n) c,
    (values (''), ('a'), ('Σ')) x (x)
where lower(c collate \"%\") <> c or upper(c collate \"%\") <> c";

#[tokio::test]
async fn the_lower_and_upper_forms_of_any_character_share_a_tag_in_any_collation() {
    let mut server = Server::start("").await;
    for collation in
        ["und-x-icu", "tr-x-icu", "lt-x-icu", "el-x-icu", "de-x-icu", "C.utf8", "default"]
    {
        let sql = CASES.replace('%', collation);
        let rows: Vec<(String, String, String)> =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut server.conn).await.expect("cases");
        assert!(rows.len() > 1_000 || collation == "default", "{collation}: {}", rows.len());
        for (text, lower, upper) in rows {
            // In Greek, `upper` drops accents.
            let cased =
                if collation.starts_with("el") { vec![&lower] } else { vec![&lower, &upper] };
            for cased in cased {
                let (one, other) = (Tag::column("t", "c", &text), Tag::column("t", "c", cased));
                assert_eq!(one, other, "{text:?} and {cased:?} by {collation}");
            }
        }
    }
}
