//! Random statements: changes to rows outside those that a statement is restricted to must not change its result.

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, AssertSqlSafe, PgConnection};

use super::super::{Dependencies, TrackedTable, ValueSource};
use super::server::{Server, run};

const SCHEMA: &str = "
create table a (id int primary key, k int, t text);
create table b (id int primary key, a int, t text, k int);
create table c (id int primary key, k int, t text);
create table d (id int primary key, k int, t text);
create table e (id int primary key, k int, t text);
create table p (id int, k int, t text, primary key (id, k)) partition by list (k);
create table p1 partition of p for values in (0, 1, 2);
create table p2 partition of p default;
select track('a', '1 2'), track('b', '1 2'), track('c', '1 2'), track('d', '1 2'),
    track('e', '1 2'), track('p', '1 2'), track('p1', '1 2'), track('p2', '1 2');
create view v as select a.id, b.t, b.k from a left join b on b.a = a.id;
insert into a select n, n % 3, 't' || n from generate_series(0, 5) n;
insert into b select n, n % 4, 't' || n, n % 2 from generate_series(0, 5) n;
insert into c select n, n % 3, 't' || n from generate_series(0, 5) n;
insert into d select n, 5 - n, 't' || n from generate_series(0, 5) n;
insert into e select n, n, 't' || n from generate_series(0, 5) n;
insert into p select n, n % 4, 't' || n from generate_series(0, 5) n;";

/// What $1 is bound to, and $2.
const BOUND: i32 = 1;
const ARRAY: [i32; 2] = [0, 2];

/// Writes statements over tables that all have columns `id`, `k` and `t`.
struct Writer {
    random: fastrand::Rng,
    /// Names that are in scope, innermost last.
    scope: Vec<String>,
    names: usize,
    /// Tables that were not named yet.
    left: Vec<&'static str>,
}

impl Writer {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut left = vec!["a", "b", "c", "d", "e", "p", "public.a"];
        random.shuffle(&mut left);
        Self { random, scope: Vec::new(), names: 0, left }
    }

    fn one<'a>(&mut self, among: &[&'a str]) -> &'a str {
        among[self.random.usize(..among.len())]
    }

    fn value(&mut self) -> String {
        match self.random.u8(..8) {
            0..3 => "$1".to_owned(),
            3 => "$1::int8".to_owned(),
            4 => format!("'{}'", self.random.u8(..3)),
            _ => self.random.u8(..3).to_string(),
        }
    }

    /// A column of something that is in scope, the innermost most often.
    fn column(&mut self) -> String {
        let last = self.scope.len() - 1;
        let at = if self.random.bool() { last } else { self.random.usize(..=last) };
        let (name, column) = (self.scope[at].clone(), self.one(&["id", "k"]));
        format!("{name}.{column}")
    }

    fn equality(&mut self) -> String {
        let (column, value, other) = (self.column(), self.value(), self.value());
        match self.random.u8(..10) {
            0 => format!("{value} = {column}"),
            1 => format!("{column} in ({value}, {other})"),
            2 => format!("{column} = any ($2)"),
            3 => format!("({column}) = {value}"),
            4 => format!("({}, {}) = ({value}, {other})", column, self.column()),
            5 => format!("({}, {column}) in (({value}, {other}))", self.column()),
            6 => format!("{column} = {}", self.column()),
            _ => format!("{column} = {value}"),
        }
    }

    fn condition(&mut self, depth: u8) -> String {
        if depth == 0 {
            return self.equality();
        }
        let (one, column) = (self.condition(depth - 1), self.column());
        match self.random.u8(..24) {
            0..8 => format!("{one} and {}", self.condition(depth - 1)),
            8 => format!("{one} or {}", self.condition(depth - 1)),
            9 => format!("not {one}"),
            10 => format!("({one}) is not true"),
            11 => format!("{one} and {column} is distinct from {}", self.column()),
            12 => format!("{column} is not distinct from 1 or {one}"),
            13 => format!("{column} between 0 and 3 and {one}"),
            14 => format!("{one} and not {column} between 1 and 2"),
            15 => format!("case when {one} then {} else true end", self.equality()),
            16 => format!("exists ({})", self.query(depth - 1, 1)),
            17 => format!("not exists ({})", self.query(depth - 1, 1)),
            18 => format!("{column} in ({})", self.query(depth - 1, 1)),
            19 => format!("{column} = (select max(q.x) from ({}) q (x))", self.query(depth - 1, 1)),
            20 => format!("coalesce({one}, true)"),
            21 => format!("({one} and {column} > 1)"),
            22 => format!("{column} not in ({}) and {one}", self.query(depth - 1, 1)),
            _ => one,
        }
    }

    /// An item of FROM, and what it is called.
    fn item(&mut self, depth: u8) -> (String, String) {
        self.names += 1;
        let name = match self.random.u8(..6) {
            // The names of tables, for others too.
            0 => self.one(&["a", "b", "p"]).to_owned(),
            _ => format!("x{}", self.names),
        };
        let item = match self.random.u8(..32) {
            0..4 if depth > 0 => format!("({}) {name} (id, k)", self.query(depth - 1, 2)),
            4..8 if depth > 0 => format!("lateral ({}) {name} (id, k)", self.query(depth - 1, 2)),
            8 => format!("v {name}"),
            9 => format!("p1 {name}"),
            10 => format!("only {} as {name}", self.one(&["a", "b", "c"])),
            11 => format!("{} {name}", self.one(&["a", "b", "c"])),
            _ => format!("{} {name}", self.left.pop().unwrap_or("e")),
        };
        (item, name)
    }

    fn from(&mut self, depth: u8) -> (String, Vec<String>) {
        let outer = self.scope.len();
        let (mut text, first) = self.item(depth);
        let mut own = vec![first];
        for _ in 0..self.random.u8(..3) {
            let join =
                self.one(&["join", "left join", "right join", "full join", "cross join", ","]);
            let (item, name) = self.item(if join.contains("left") { depth } else { 0 });
            own.push(name);
            self.scope.truncate(outer);
            self.scope.extend(own.iter().cloned());
            let on = match join {
                "cross join" | "," => String::new(),
                // Others than of equality can't be the condition of a full join.
                "full join" => {
                    let (one, other) = (&own[0], &own[own.len() - 1]);
                    format!(" on {one}.id = {other}.k and {other}.id = {}", self.random.u8(..3))
                }
                _ => format!(" on {}", self.condition(depth.min(1))),
            };
            text = format!("{text} {join} {item}{on}");
        }
        self.scope.truncate(outer);
        (text, own)
    }

    /// A query of so many columns of integers.
    fn query(&mut self, depth: u8, columns: usize) -> String {
        let outer = self.scope.len();
        let (from, own) = self.from(depth);
        self.scope.extend(own.iter().cloned());
        let selected: Vec<String> = (0..columns).map(|_| self.column()).collect();
        let mut selected = selected.join(", ");
        // Most conditions leave no rows, which hides what those of joins do.
        let mut rest = match self.random.u8(..3) {
            0 => format!(" where {}", self.condition(depth.min(2))),
            1 => format!(" where {}", self.equality()),
            _ => " where true".to_owned(),
        };
        match self.random.u8(..12) {
            0 => selected = format!("distinct {selected}"),
            1 if columns == 1 => {
                selected = "count(*)::int".to_owned();
                rest = format!("{rest} having count(*) > {}", self.random.u8(..2));
            }
            2 if columns == 2 => {
                let by = self.column();
                selected = format!("{by}, (sum({}) over ())::int", self.column());
            }
            3 => selected = format!("distinct on ({selected}) {selected}"),
            4 if columns == 1 => {
                selected = format!("(count(*) filter (where {}))::int", self.equality());
            }
            _ => {}
        }
        self.scope.truncate(outer);
        let query = format!("select {selected} from {from}{rest}");
        match self.random.u8(..14) {
            0 if depth > 0 => format!("{query} union all {}", self.query(depth - 1, columns)),
            1 if depth > 0 => format!("{query} except {}", self.query(depth - 1, columns)),
            2 if depth > 0 => format!("{query} intersect {}", self.query(depth - 1, columns)),
            _ => query,
        }
    }

    fn statement(&mut self) -> String {
        let body = self.query(2, 2);
        match self.random.u8(..8) {
            0 => format!(
                "with b (id, k) as ({}) select q.c, q.d from ({body}) q (c, d)",
                self.query(1, 2)
            ),
            1 => format!(
                "with recursive c (id, k) as ({} union select a.id, c.k from a join c on c.id = a.k and a.id = {})
                    select c.id, q.d from c, ({body}) q (c, d)",
                self.query(0, 2),
                self.value()
            ),
            _ => body,
        }
    }
}

type Rows = Vec<(Option<i32>, Option<i32>)>;

fn arguments() -> PgArguments {
    let mut arguments = PgArguments::default();
    arguments.add(BOUND).expect("an argument");
    arguments.add(ARRAY.to_vec()).expect("an argument");
    arguments
}

/// The rows of a statement's result; none if it is an error.
async fn result(conn: &mut PgConnection, sql: &str) -> Option<Rows> {
    // Both parameters must be used.
    let sql = format!("select * from ({sql}) q (c, d) where $1 = $1 and $2 = $2 order by 1, 2");
    let query = sqlx::query_as_with(AssertSqlSafe(sql), arguments()).persistent(false);
    query.fetch_all(conn).await.ok()
}

/// What each narrowed table is narrowed to, by each condition: its column, and the values.
fn narrowed(tables: &[TrackedTable]) -> Vec<(String, (String, Vec<String>))> {
    let values = |given: &ValueSource| match given {
        ValueSource::Literal(text) => vec![text.clone()],
        ValueSource::Parameter(parameter) if parameter.is_array => {
            ARRAY.map(|n| n.to_string()).into()
        }
        ValueSource::Parameter(_) => vec![BOUND.to_string()],
    };
    let said = tables.iter().flat_map(|table| {
        table.by.iter().map(|by| {
            let values = by.values.iter().flat_map(values).collect();
            (table.name.clone(), (by.column.clone(), values))
        })
    });
    said.collect()
}

/// Changes of rows that have none of the values, before and after.
fn changes(table: &str, column: &str, values: &[String]) -> Vec<String> {
    let none = format!("({column} is null or {column} <> all ('{{{}}}'::int[]))", values.join(","));
    let others: Vec<String> =
        (0..8).map(|n: i32| n.to_string()).filter(|n| !values.contains(n)).collect();
    let to = &others[0];
    let key = if table == "b" { "a" } else { "k" };
    let other = if column == "id" { key } else { "id" };
    let mut changes = vec![
        format!("delete from {table} where {none}"),
        format!("update {table} set t = 'new' where {none}"),
        match other {
            "id" => format!("update {table} set {column} = {to} where {none}"),
            _ => format!("update {table} set {other} = 5 - {other} where {none}"),
        },
    ];
    for value in others.iter().take(2) {
        changes.push(format!(
            "insert into {table} ({column}, {other}, t)
                select {value}, n, 'more' from generate_series(0, 9) n on conflict do nothing"
        ));
    }
    changes
}

async fn check(server: &mut Server, sql: &str) -> bool {
    let found = super::learn(&mut server.conn, sql).await;
    let Dependencies::Tables(tables) = &*found.dependencies else { return false };
    let narrowed = narrowed(tables);
    if narrowed.is_empty() {
        return false;
    }
    let Some(before) = result(&mut server.conn, sql).await else { return false };
    for (table, (column, values)) in &narrowed {
        for change in changes(table, column, values) {
            run(&mut server.conn, "begin").await;
            run(&mut server.conn, &change).await;
            let after = result(&mut server.conn, sql).await;
            run(&mut server.conn, "rollback").await;
            // After a change, the statement may fail; a failed read is not stored.
            if let Some(after) = after {
                assert_eq!(before, after, "{sql}\nby {table}.{column}: {values:?}\nafter {change}");
            }
        }
    }
    true
}

async fn statements(seeds: std::ops::Range<u64>) {
    let mut server = Server::start(SCHEMA).await;
    let mut narrowed = 0;
    let cases = seeds.end - seeds.start;
    for seed in seeds {
        let sql = Writer::new(seed).statement();
        narrowed += u64::from(check(&mut server, &sql).await);
    }
    assert!(narrowed > cases / 4, "{narrowed} of {cases} statements were narrowed");
}

#[tokio::test]
async fn no_change_of_other_rows_changes_the_result_of_a_narrowed_statement() {
    statements(0..30).await;
}

#[tokio::test]
#[ignore = "minutes: scripts/deep"]
async fn no_change_of_other_rows_changes_the_result_of_many_narrowed_statements() {
    statements(30..5_000).await;
}
