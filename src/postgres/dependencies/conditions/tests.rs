use super::*;
use crate::postgres::dependencies::{Family, ValueSource};

/// What a statement says if all columns are of one family.
fn of(family: Family, sql: &str) -> Vec<String> {
    let describe = |one: Condition| {
        let values = one.values.iter().map(|value| match value.given(family)? {
            ValueSource::Literal(text) => Some(text),
            ValueSource::Parameter(parameter) if parameter.is_array => {
                Some(format!("any of ${}", parameter.number))
            }
            ValueSource::Parameter(parameter) => Some(format!("${}", parameter.number)),
        });
        let values: Option<Vec<String>> = values.collect();
        Some(format!("{}.{} = {}", one.relation, one.column, values?.join(" or ")))
    };
    super::conditions(sql)
        .map_or_else(Vec::new, |found| found.conditions.into_iter().filter_map(describe).collect())
}

fn conditions(sql: &str) -> Vec<String> {
    of(Family::Integer, sql)
}

#[test]
fn conditions_that_hold_for_every_row_are_found() {
    assert_eq!(conditions("select * from T where Id = $1"), ["t.id = $1"]);
    assert_eq!(conditions("select * from s.t where (7 = id) and n > 1"), ["s.t.id = 7"]);
    assert_eq!(
        conditions(
            "select * from t a left join u on u.x = a.id where a.id = $1::int and u.k = '3'"
        ),
        ["t.id = $1", "u.k = 3"]
    );
    assert_eq!(
        conditions("select count(*) from t where id = -1 group by n having n = 2"),
        ["t.id = -1"]
    );
    assert_eq!(of(Family::Text, "select * from t where t.k = 'x y'::text"), ["t.k = x y"]);
}

#[test]
fn statements_written_by_orms_are_narrowed() {
    for (sql, said) in [
        (r#"SELECT "users"."id" FROM "users" WHERE "users"."id" = $1 LIMIT $2"#, "users.id = $1"),
        (r#"SELECT "u"."id" FROM "users" AS "u" WHERE ("u"."id" = $1) LIMIT $2"#, "users.id = $1"),
        (
            r#"select "Name" from "Users" where "Id" = $1 and "Org" = $2"#,
            "Users.Id = $1 Users.Org = $2",
        ),
        (
            r#"SELECT "s"."users"."id" FROM "s"."users" WHERE (("s"."users"."org" = $1) AND ("s"."users"."id" = ANY($2)))"#,
            "s.users.org = $1 s.users.id = any of $2",
        ),
        (
            r#"SELECT "a"."id" FROM "a" INNER JOIN "b" ON ("b"."a" = "a"."id") WHERE ("b"."id" = $1) ORDER BY "a"."id" ASC"#,
            "b.id = $1",
        ),
        ("select * from t where (a, t.b) = ($1, 2)", "t.a = $1 t.b = 2"),
        ("select * from t where (1, b) = (a, $2)", "t.a = 1 t.b = $2"),
        ("select * from t where (a, b) in ((1, $1), (2, $2))", "t.a = 1 or 2 t.b = $1 or $2"),
        ("select * from t where (a, b) in ((1, $1), (2, n))", "t.a = 1 or 2"),
    ] {
        assert_eq!(conditions(sql).join(" "), said, "{sql}");
    }
}

#[test]
fn a_value_of_another_spelling_or_type_does_not_narrow() {
    for value in ["01", "1.0", "'0x1'", "'1_000'", "1::text", "'1'::text", "-(1)", "-$1", "1::oid"]
        .into_iter()
        .chain(["$1::text", "$1::numeric", "int '1'", "null", "true", "E'1'", "$$1$$", "1 + 0"])
    {
        let sql = format!("select * from t where id = {value}");
        assert_eq!(conditions(&sql), Vec::<String>::new(), "{value}");
    }
    for value in ["'it''s'", r"'a\b'", "E'x'", "N'x'", "$$x$$", "x'00'", "b'1'", "1", "'1'::int"]
        .into_iter()
        .chain(["$1::int", "$1::char(3)", "'x'::varchar(1)", "'x'::name", "text 'x'", "'a\nb'"])
    {
        let sql = format!("select * from t where id = {value}");
        assert_eq!(of(Family::Text, &sql), Vec::<String>::new(), "{value}");
    }
}

#[test]
fn a_condition_that_may_not_hold_or_may_be_of_another_table_does_not_narrow() {
    for sql in [
        "select * from t where id = $1 or n = 2",
        "select * from t where not id = $1",
        "select * from t where id = n",
        // An operator that users can define, which is not `=`.
        "select * from t where id == $1",
        "select * from t where id == any ($1)",
        "select * from t where id = n + 1",
        "select * from t where id in ($1, n)",
        "select * from t where (id, k) = (n, n)",
        "select * from t where (id, k) <> (1, 2)",
        "select * from t where (id, k) not in ((1, 2))",
        "select * from t where (id, k) in (select 1, 2)",
        "select * from t where (id, k) = (select 1, 2)",
        "select * from t where s.t.id = $1",
        "select * from s.t where r.t.id = $1",
        "select * from t where id not in ($1)",
        "select * from t where id in (select 1)",
        "select * from t where id = all ($1)",
        "select * from t where id <> any ($1)",
        "select * from t where id = any (array[1])",
        "select * from t, u where id = $1",
        "select * from t left join u on t.id = $1",
        "select * from t right join u on t.id = $1",
        "select * from t full join u on t.id = $1 and u.id = $1",
        "select * from t left join u on u.k = t.k and k = $1",
        "select * from t cross join u where u = $1",
        "select * from (select * from t) x where x.id = $1",
        "select exists (select from u where t.id = $1) from t",
        "select * from (t join u on t.id = $1) join v on true",
        "with t as (select 1 as id) select * from t where id = $1",
        "select * from t where exists (with t as (select 1) select from t) and t.id = $1",
        "table t",
        "select * from t as x(n, id) where id = $1",
        "select * from f(1) t where t.id = $1",
    ] {
        assert_eq!(conditions(sql), Vec::<String>::new(), "{sql}");
    }
}

#[test]
fn in_lists_and_any_narrow_a_column_to_several_values() {
    assert_eq!(conditions("select * from t where id in (1, $2, -3)"), ["t.id = 1 or $2 or -3"]);
    assert_eq!(conditions("select * from t where id = any ($1)"), ["t.id = any of $1"]);
    assert_eq!(conditions("select * from t where t.id = some (($1::int[]))"), ["t.id = any of $1"]);
    let many = vec!["1"; VALUES + 1].join(", ");
    assert_eq!(conditions(&format!("select * from t where id in ({many})")), Vec::<String>::new());
    for array in ["$1::text[]", "$1::int[3]", "$1::int", "'{1}'", "array[$1]"] {
        let sql = format!("select * from t where id = any ({array})");
        assert_eq!(conditions(&sql), Vec::<String>::new(), "{array}");
    }
}

#[test]
fn a_join_condition_narrows_the_side_whose_rows_it_drops() {
    for (sql, said) in [
        ("select * from t join u on u.k = t.k and u.id = $1", "u.id = $1"),
        ("select * from t inner join u on t.id = 1 where u.k = $1", "t.id = 1 u.k = $1"),
        ("select * from t left join u on u.k = t.k and u.id = $1 and t.id = 2", "u.id = $1"),
        (
            "select * from t left join u on u.id = $1 join v on t.id = 2 and v.id = 3",
            "u.id = $1 t.id = 2 v.id = 3",
        ),
        (
            "select * from t left join lateral (select from u where u.id = $1) x on true",
            "u.id = $1",
        ),
    ] {
        assert_eq!(conditions(sql).join(" "), said, "{sql}");
    }
}

#[test]
fn each_subquery_narrows_its_own_tables() {
    for (sql, said) in [
        (
            "select *, (select max(id) from u where u.id = t.id and u.k = $2) from t where t.id = $1",
            "t.id = $1 u.k = $2",
        ),
        (
            "select * from t where not exists (select from u where id = 7) and t.id = 1",
            "t.id = 1 u.id = 7",
        ),
        (
            "select id from t where id = 1 union all select id from u where k = 2",
            "t.id = 1 u.k = 2",
        ),
        (
            "with x as (select * from t where id = $1) select * from x join u on u.k = x.k",
            "t.id = $1",
        ),
        ("select * from (select * from t where id = $1) x, u where u.id = 2", "u.id = 2 t.id = $1"),
    ] {
        assert_eq!(conditions(sql).join(" "), said, "{sql}");
    }
}

#[test]
fn each_mention_of_a_table_is_counted() {
    let named = |sql| super::conditions(sql).map(|found| found.relations.len());
    assert_eq!(named("select * from t a, t b where a.id = $1"), Some(2));
    assert_eq!(named("select *, (select max(id) from t) from t where t.id = $1"), Some(2));
    assert_eq!(named("select * from t where id = $1 union select * from t"), Some(2));
    assert_eq!(named("select * from t where id in (select id from s.u)"), Some(2));
    assert_eq!(named("select * from t where id = $1 union table t"), Some(2));
    assert_eq!(
        named("select 1 from t order by (select max(id) from u) limit (select 1 from v)"),
        Some(3)
    );
}
