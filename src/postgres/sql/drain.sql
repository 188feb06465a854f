with prev as materialized (
    -- What has become visible since the snapshot $1, within a budget: $4 says in how much detail (0: by rows, 1: by tables,
    -- 2: nothing is read), and at most $5 rows with $6 bytes and $7 keys are taken. If there are more, `over` says so, and
    -- nothing else here counts.
    select $1::text::pg_snapshot as snapshot
),
-- What $1 does not see is of transactions that it lists, or that began past its end. Looked for by these, nothing is
-- read twice, however long some transaction stays open.
-- Rows of a dump of another cluster, whose numbers mean nothing here, may be of what is yet to come.
recent (xid, relation, tags, rows) as materialized (
    select xid, relation, tags, 1::int8
    from (
        select l.xid, l.relation, l.tags from tidegate.log l
        where l.xid >= pg_snapshot_xmax($1::text::pg_snapshot) and l.xid < pg_snapshot_xmax(pg_current_snapshot())
        union all
        select l.xid, l.relation, l.tags from tidegate.log l
        where l.xid = any (array(select pg_snapshot_xip($1::text::pg_snapshot)))
        limit $5::int8 + 1
    ) l where $4::int4 = 0
    union all
    select null, relation, coalesce(tags, '{"",!}'), count(*)
    from (
        select l.relation, case when l.relation is null then l.tags end as tags from tidegate.log l
        where l.xid >= pg_snapshot_xmax($1::text::pg_snapshot) and l.xid < pg_snapshot_xmax(pg_current_snapshot())
        union all
        select l.relation, case when l.relation is null then l.tags end as tags from tidegate.log l
        where l.xid = any (array(select pg_snapshot_xip($1::text::pg_snapshot)))
        limit $5::int8 + 1
    ) l where $4::int4 = 1
    group by relation, tags
),
size as materialized (
    select coalesce(sum(rows) > $5::int8 or sum(pg_column_size(tags)) > $6::int8, false) as exceeded from recent
),
-- Keys are counted only of what is small enough to be unpacked.
budget as materialized (
    select case when exceeded then true
        else (select coalesce(sum(cardinality(tags)) > $7::int8, false) from recent) end as exceeded
    from size
),
changes as materialized (
    -- A long value is one of all long ones; it may be large.
    select relation, array_agg(distinct case when relation is not null and octet_length(k) > 2100
        then split_part(k, '=', 1) || '>' else k end) as keys
    from recent, unnest(tags) k
    where not (select exceeded from budget) and k is not null
    group by relation
),
news as materialized (
    select distinct unnest(tidegate.named(relation, keys, $1::text::pg_snapshot)) as tag from changes
),
-- As for the log: what prev does not see, and is not of another cluster.
reshaped as (
    select exists (select from tidegate.ddl d
        where d.xid >= pg_snapshot_xmax($1::text::pg_snapshot) and d.xid < pg_snapshot_xmax(pg_current_snapshot()))
        or exists (select from tidegate.ddl d
        where d.xid = any (array(select pg_snapshot_xip($1::text::pg_snapshot)))) as whether
),
-- Whatever is gone was seen by the oldest mark. If prev saw all of that, nothing new is gone.
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
        (select whether from reshaped) as reshaped,
        pg_current_wal_insert_lsn()::text as fence,
        -- Past the fence, so that what is read from now on is valid at once. After it in this list; the other
        -- order would cost misses and be right.
        case when $2 or $4::int4 = 2 or (select whether from reshaped) or exists (select from news) or not coalesce((select whole from covered), false)
            then pg_logical_emit_message(false, 'tidegate', '')::text end as announced,
        tidegate.running_writers(pg_current_snapshot()) as in_progress,
        not coalesce((select whole from covered), false) as trimmed,
        (select system_identifier from pg_control_system()) as system_identifier,
        (select d.oid::int8 from pg_database d where d.datname = current_database()) as database,
        pg_walfile_name(pg_current_wal_insert_lsn()) as wal_file,
        pg_sequence_last_value('tidegate.history'::regclass) as history,
        tidegate.no_wakeups() is null as wakeups,
        -- If many have committed since the last look, the next that do need not wake us; should we vanish, not for long.
        case when not (select exceeded from budget) and $3 <= (select count(distinct xid) from recent)
            then set_config('idle_session_timeout', '3s', false) is not null
                and pg_try_advisory_lock(8388065642915395431) end as hushed
)
-- `unsettled` is of a snapshot that is taken when the positions are known: the schema has changed since the one above, so no
-- position here counts as one up to which the schema is known.
select *, tidegate.ddl_since(snapshot::pg_snapshot, coalesce(announced, fence)) as unsettled from looked
