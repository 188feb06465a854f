-- The first mark since which the schema is what it is now: before that, answers may have had another
-- shape, which no row of the log tells.
with oldest as materialized (
    select snapshot, lsn from tidegate.marks
    where lsn > coalesce((select max(lsn) from tidegate.marks
        where schema is distinct from $1), '0/0')
    order by lsn limit 1
),
writers as materialized (
    select distinct l.xid from tidegate.log l
    where not exists (select from oldest o where pg_visible_in_snapshot(l.xid, o.snapshot))
),
firsts as materialized (
    select w.xid, (select m.lsn from tidegate.marks m
        where pg_visible_in_snapshot(w.xid, m.snapshot) order by m.lsn limit 1) as lsn
    from writers w
),
-- NULL: no mark has seen the change yet.
fences as materialized (
    select tag, case when bool_and(f.lsn is not null) then max(f.lsn) end as lsn
    from tidegate.log l join firsts f using (xid), unnest(l.tags) tag
    group by tag
)
select pg_current_snapshot()::text as snapshot,
    array(select tag from fences order by tag) as tags,
    array(select lsn::text from fences order by tag) as fences,
    (select lsn::text from oldest) as floor,
    pg_current_wal_insert_lsn()::text as fence,
    (select system_identifier from pg_control_system()) as system_identifier,
    pg_walfile_name(pg_current_wal_insert_lsn()) as wal_file,
    tidegate.no_wakeups() is null as wakeups
