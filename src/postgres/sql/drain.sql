with prev as materialized (
    -- The changes that have become visible since the snapshot $1, within a budget. $4 is the detail (0: by rows, 1: by
    -- tables, 2: nothing is read); $5, $6 and $7 limit rows, bytes and keys. If there are more, `over` is true, and all
    -- other columns are to be ignored.
    select $1::text::pg_snapshot as snapshot
),
-- The transactions that $1 lists as running and that have ended since. No row of one that still runs is visible, and the
-- index has an entry for each: they would be visited in vain by each drain.
ended (xid) as materialized (
    select x from pg_snapshot_xip($1::text::pg_snapshot) x where pg_visible_in_snapshot(x, (select pg_current_snapshot()))
),
-- A row that $1 does not see was written by a transaction that $1 lists as running, or that began after it. Searching by
-- these reads no row twice, however long a transaction stays open. The upper bound excludes rows from another cluster's
-- dump, whose transaction numbers may still be in the future here.
recent (xid, relation, tags, rows) as materialized (
    select xid, relation, tags, 1::int8
    from (
        select l.xid, l.relation, l.tags from tidegate.log l
        where l.xid >= pg_snapshot_xmax($1::text::pg_snapshot) and l.xid < pg_snapshot_xmax(pg_current_snapshot())
        union all
        select l.xid, l.relation, l.tags from tidegate.log l where l.xid = any (array(select e.xid from ended e))
        limit $5::int8 + 1
    ) l where $4::int4 = 0
    union all
    select null, relation, coalesce(tags, '{"",!}'), count(*)
    from (
        select l.relation, case when l.relation is null then l.tags end as tags from tidegate.log l
        where l.xid >= pg_snapshot_xmax($1::text::pg_snapshot) and l.xid < pg_snapshot_xmax(pg_current_snapshot())
        union all
        select l.relation, case when l.relation is null then l.tags end as tags from tidegate.log l
        where l.xid = any (array(select e.xid from ended e))
        limit $5::int8 + 1
    ) l where $4::int4 = 1
    group by relation, tags
),
size as materialized (
    select coalesce(sum(rows) > $5::int8 or sum(pg_column_size(tags)) > $6::int8, false) as exceeded from recent
),
-- Keys are counted only if the rows are small enough to be unpacked.
budget as materialized (
    select case when exceeded then true
        else (select coalesce(sum(cardinality(tags)) > $7::int8, false) from recent) end as exceeded
    from size
),
changes as materialized (
    -- All long values of a column share one key, since a value may be large.
    select relation, array_agg(distinct case when relation is not null and octet_length(k) > 2100
        then split_part(k, '=', 1) || '>' else k end) as keys
    from recent, unnest(tags) k
    where not (select exceeded from budget) and k is not null
    group by relation
),
news as materialized (
    select distinct unnest(tidegate.named(relation, keys, $1::text::pg_snapshot)) as tag from changes
),
-- As for the log: rows that prev does not see, without those from another cluster.
schema_changed as (
    select exists (select from tidegate.ddl d
        where d.xid >= pg_snapshot_xmax($1::text::pg_snapshot) and d.xid < pg_snapshot_xmax(pg_current_snapshot()))
        or exists (select from tidegate.ddl d where d.xid = any (array(select e.xid from ended e))) as whether
),
-- The oldest mark saw every row that was trimmed. If prev saw everything that this mark saw, no unread row was trimmed.
covered as (
    select pg_snapshot_xmax(m.snapshot) <= pg_snapshot_xmax(p.snapshot)
        and not exists (select from pg_snapshot_xip(p.snapshot) x
            where pg_visible_in_snapshot(x, m.snapshot)) as whole
    from prev p, (select snapshot from tidegate.own_marks order by lsn limit 1) m
),
looked as (
    select (select exceeded from budget) as over,
        pg_current_snapshot()::text as snapshot,
        array(select tag from news where tag is not null order by tag) as tags,
        exists (select from news where tag is null) as renamed,
        (select whether from schema_changed) as schema_changed,
        pg_current_wal_insert_lsn()::text as fence,
        -- A position past the fence, so that results read from now on are valid at once. It comes after the fence in
        -- this list; the other order would be correct too, but cause misses.
        case when $2 or $4::int4 = 2 or (select whether from schema_changed) or exists (select from news) or not coalesce((select whole from covered), false)
            then pg_logical_emit_message(false, 'tidegate', '')::text end as announced,
        tidegate.running_writers(pg_current_snapshot()) as in_progress,
        not coalesce((select whole from covered), false) as trimmed,
        (select system_identifier from pg_control_system()) as system_identifier,
        (select d.oid::int8 from pg_database d where d.datname = current_database()) as database,
        pg_walfile_name(pg_current_wal_insert_lsn()) as wal_file,
        pg_sequence_last_value('tidegate.history'::regclass) as history,
        tidegate.no_wakeups() is null as wakeups,
        -- As tables.rs decides whether reads may rely on it.
        exists (select from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
            where p.pubname = 'tidegate' and p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate
                and not p.pubviaroot and to_jsonb(r) ->> 'prqual' is null) as published,
        -- If at least $3 transactions have committed since the last drain, hold the lock to suppress the notifications of
        -- the next ones. If the node vanishes, idle_session_timeout releases it after 3 s.
        case when not (select exceeded from budget) and $3 <= (select count(distinct xid) from recent)
            then set_config('idle_session_timeout', '3s', false) is not null
                and pg_try_advisory_lock(8388065642915395431) end as notify_suppressed
)
-- `unsettled` is computed with a later snapshot, after the positions were read. If true, the schema has changed since the
-- snapshot above, so it is not known up to any of these positions.
select *, tidegate.ddl_since(snapshot::pg_snapshot, coalesce(announced, fence)) as unsettled from looked
