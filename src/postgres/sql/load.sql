-- If the log is too long to be read in time, only its end is read: at most the last $2 rows with $3 keys, starting at a
-- mark.
with horizon as materialized (
    select xid from (
        select xid, row_number() over newest as rows, sum(cardinality(tags)) over newest as keys
        from (select xid, tags from tidegate.log order by xid desc limit $2::int8 + 1) l
        window newest as (order by xid desc rows unbounded preceding)
    ) counted where rows > $2::int8 or keys > $3::int8
    order by xid desc limit 1
),
-- The first mark since which the schema has not changed, by its fingerprint and by what event triggers recorded. Results
-- from before that mark may have had other columns, and no row of the log shows this.
changed (lsn) as materialized (
    select max(lsn) from tidegate.own_marks where schema is distinct from $1
),
-- Nodes compare the fingerprint only at intervals. Until $4 seconds after a change, another node may still read with the
-- previous schema and store the result, although it has read the log past the mark.
settled (at) as materialized (
    select coalesce(m.since, m.at, clock_timestamp()) + make_interval(secs => $4::float8)
    from (select max(lsn) from tidegate.own_marks where schema <> $1) c (lsn)
        left join lateral (select since, at from tidegate.own_marks
            where lsn > coalesce(c.lsn, '0/0') and schema = $1 order by lsn limit 1) m on true
    -- Without event triggers, only the fingerprint shows schema changes, and one may be older than the first mark.
    where m.since is not null or c.lsn is not null or tidegate.no_event_trigger() is not null
),
oldest as materialized (
    select snapshot, lsn from tidegate.own_marks m
    where lsn > coalesce((select lsn from changed), '0/0')
        and not exists (select from settled s where m.at < s.at)
        and not exists (select from tidegate.ddl d
            where d.xid >= pg_snapshot_xmax(m.snapshot) and d.xid < pg_snapshot_xmax(pg_current_snapshot()))
        and not exists (select from tidegate.ddl d where d.xid = any (array(
            select x from pg_snapshot_xip(m.snapshot) x where pg_visible_in_snapshot(x, (select pg_current_snapshot())))))
        and not exists (select from horizon h where h.xid >= pg_snapshot_xmax(m.snapshot)
            or exists (select from tidegate.log l
                where l.xid <= h.xid and l.xid = any (array(
                    select x from pg_snapshot_xip(m.snapshot) x where pg_visible_in_snapshot(x, (select pg_current_snapshot()))))))
    order by lsn limit 1
),
-- A row that a mark does not see was written by a transaction that the mark lists as running, or that began after it. The
-- rows of transactions that still run are not searched for (see drain.sql).
unseen as materialized (
    select l.xid, l.relation, l.tags from oldest o, tidegate.log l
    where l.xid >= pg_snapshot_xmax(o.snapshot) and l.xid < pg_snapshot_xmax(pg_current_snapshot())
    union all
    select l.xid, l.relation, l.tags from oldest o, tidegate.log l
    where l.xid = any (array(
        select x from pg_snapshot_xip(o.snapshot) x where pg_visible_in_snapshot(x, (select pg_current_snapshot()))))
),
news as materialized (
    select xid, relation, case when relation is not null and octet_length(k) > 2100
        then split_part(k, '=', 1) || '>' else k end as key
    from unseen, unnest(tags) k where k is not null
),
-- A mark that sees a transaction has a greater xmax. Usually the first mark with a greater xmax sees it.
firsts as materialized (
    select n.xid, (select m.lsn from tidegate.own_marks m
        where pg_snapshot_xmax(m.snapshot) > n.xid and pg_visible_in_snapshot(n.xid, m.snapshot)
        order by pg_snapshot_xmax(m.snapshot), m.lsn limit 1) as lsn
    from (select distinct xid from news) n
),
-- NULL: no mark has seen the change yet.
keys as materialized (
    select relation, key, case when bool_and(f.lsn is not null) then max(f.lsn) end as lsn
    from news n join firsts f using (xid)
    group by relation, key
),
-- The schema has not changed since the rows were written. A dropped table has no tags: no cached result depends on it.
fences as materialized (
    select n.tag, case when bool_and(n.lsn is not null) then max(n.lsn) end as lsn
    from (select relation, array_agg(key) as keys, array_agg(lsn) as lsns from keys group by relation) r,
        unnest(tidegate.named(r.relation, r.keys, null), r.lsns) n (tag, lsn)
    where n.tag is not null
    group by n.tag
)
select pg_current_snapshot()::text as snapshot,
    array(select tag from fences order by tag) as tags,
    array(select lsn::text from fences order by tag) as fences,
    (select lsn::text from oldest) as floor,
    pg_current_wal_insert_lsn()::text as fence,
    (select system_identifier from pg_control_system()) as system_identifier,
    (select d.oid::int8 from pg_database d where d.datname = current_database()) as database,
    pg_walfile_name(pg_current_wal_insert_lsn()) as wal_file,
    pg_sequence_last_value('tidegate.history'::regclass) as history,
    exists (select from settled where at > clock_timestamp()) as is_settling,
    tidegate.no_wakeups() is null as wakeups,
    -- As tables.rs decides whether reads may rely on it.
    exists (select from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
        where p.pubname = 'tidegate' and p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate
            and not p.pubviaroot and to_jsonb(r) ->> 'prqual' is null) as published
