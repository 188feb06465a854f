//! Ways to change tables, and the tags of what they change.

use tidegate::Triggers;
use tidegate_testing::Postgres;

/// A database, and statements that change it.
pub(crate) struct Ways {
    pub(crate) setup: &'static str,
    /// The tracked tables.
    pub(crate) tables: fn() -> Triggers,
    /// Each with the tags of the rows that triggers add to the log for it, one row in a line.
    pub(crate) statements: &'static [(&'static str, &'static str)],
}

impl Ways {
    /// Those that the server knows.
    pub(crate) async fn statements_for(
        &self,
        server: &Postgres,
    ) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        let version = server.psql("show server_version_num").await.unwrap();
        // MERGE came with Postgres 15.
        let knows_merge = version.as_str() >= "150000";
        self.statements.iter().filter(move |(sql, _)| knows_merge || !sql.starts_with("merge"))
    }
}

/// All but those that are written for triggers alone.
pub(crate) const ALL: [&Ways; 5] = [&PLAIN, &MERGE, &CASCADES, &PARTITIONS, &INDIRECT];

pub(crate) const USERS: &str = "create table users (id int primary key, org int, name text);
    insert into users select g, g % 3, 'n' from generate_series(1, 20) g;";

pub(crate) fn users() -> Triggers {
    Triggers::new().columns("users", &["org"]).row_limit(10)
}

pub(crate) const PLAIN: Ways = Ways {
    setup: USERS,
    tables: users,
    statements: &[
        ("insert into users values (42, 7)", "users users:id=42 users:org=7"),
        ("insert into users values (43, null)", "users users:id=43"),
        ("update users set org = 8 where id = 42", "users users:id=42 users:org=7 users:org=8"),
        ("update users set id = 44 where id = 43", "users users:id=43 users:id=44"),
        ("update users set name = name where id = 44", "users users:id=44"),
        ("delete from users where id = 44", "users users:id=44"),
        ("update users set org = 9 where id = -1", ""),
        ("delete from users where false", ""),
        ("insert into users select 1 where false", ""),
        (
            "copy users (id, org) from stdin;\n50\t1\n51\t\\N\n\\.\n",
            "users users:id=50 users:id=51 users:org=1",
        ),
        (
            "insert into users values (50, 5), (52, 6) on conflict (id) do update set org = 6",
            "users users:id=52 users:org=6\nusers users:id=50 users:org=1 users:org=6",
        ),
        ("insert into users values (50) on conflict do nothing", ""),
        ("begin; delete from users; rollback", ""),
        (
            "begin; delete from users where id = 1; savepoint s; delete from users where id = 2;
             rollback to s; commit",
            "users users:id=1 users:org=1",
        ),
        (
            "with gone as (delete from users where id = 2 returning id)
             insert into users select 60, id from gone",
            "users users:id=60 users:org=2\nusers users:id=2 users:org=2",
        ),
        ("delete from users where id < 14", "users users!"),
        (
            "set session_replication_role = replica; delete from users where id = 15",
            "users users:id=15 users:org=0",
        ),
        ("truncate users", "users users!"),
    ],
};

pub(crate) const MERGE: Ways = Ways {
    setup: USERS,
    tables: users,
    statements: &[(
        "merge into users u using (values (1), (2), (99)) v (id) on u.id = v.id
         when matched and u.id = 1 then delete
         when matched then update set org = 5
         when not matched then insert values (v.id, 9)",
        "users users:id=1 users:org=1\nusers users:id=2 users:org=2 users:org=5\nusers users:id=99 users:org=9",
    )],
};

pub(crate) const CASCADES: Ways = Ways {
    setup: "create table a (id int primary key);
        create table b (id int primary key, a int references a on delete cascade);
        create table c (id int primary key, a int references a on delete set null);
        insert into a values (1), (2); insert into b values (10, 1); insert into c values (20, 1);",
    tables: || Triggers::new().table("a").columns("b", &["a"]).columns("c", &["a"]),
    statements: &[
        ("delete from a where id = 1", "a a:id=1\nb b:a=1 b:id=10\nc c:a=1 c:id=20"),
        ("truncate a cascade", "a a!\nb b!\nc c!"),
    ],
};

pub(crate) const PARTITIONS: Ways = Ways {
    setup: "create table p (id int, k int, primary key (id, k)) partition by list (k);
        create table p1 partition of p for values in (1);
        create table p2 (k int not null, extra text, id int not null);
        alter table p2 drop column extra;
        alter table p attach partition p2 for values in (2);",
    tables: || Triggers::new().table("p1"),
    statements: &[
        ("insert into p values (5, 1), (6, 2)", "p p:id=5 p:id=6 p:k=1 p:k=2"),
        ("insert into p2 (id, k) values (7, 2)", "p p:id=7 p:k=2"),
        ("update p set k = 2 where id = 5", "p p:id=5 p:k=1 p:k=2"),
        ("delete from p2 where id = 7", "p p:id=7 p:k=2"),
    ],
};

pub(crate) const INDIRECT: Ways = Ways {
    setup: "create table users (id int primary key, org int, name text);
        insert into users select g, g % 3, 'n' from generate_series(1, 20) g;
        create view v as select id, org from users where org = 1;
        create function f() returns void language sql as 'delete from users where id = 4';
        create table base (id int primary key); create table sub (x int) inherits (base);",
    tables: || users().table("base"),
    statements: &[
        ("update v set org = 2 where id = 1", "users users:id=1 users:org=1 users:org=2"),
        ("select f()", "users users:id=4 users:org=1"),
        ("insert into sub values (1, 2)", "base base:id=1"),
    ],
};
