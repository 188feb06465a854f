with prev as materialized (
    select $1::text::pg_snapshot as snapshot
),
-- Rows of a dump of another cluster, whose numbers mean nothing here, may be of what is yet to come.
recent as materialized (
    select l.xid, l.relation, l.tags
    from tidegate.log l
    where l.xid >= pg_snapshot_xmin($1::text::pg_snapshot)
        and not pg_visible_in_snapshot(l.xid, $1::text::pg_snapshot)
        and l.xid < pg_snapshot_xmax(pg_current_snapshot())
),
changes as materialized (
    select relation, array_agg(distinct k) as keys
    from recent, unnest(tags) k
    where k is not null
    group by relation
),
news as materialized (
    select distinct unnest(tidegate.named(relation, keys, $1::text::pg_snapshot)) as tag from changes
),
-- As for the log: what prev does not see, and is not of another cluster.
reshaped as (
    select exists (select from tidegate.ddl d
        where d.xid >= pg_snapshot_xmin($1::text::pg_snapshot)
            and not pg_visible_in_snapshot(d.xid, $1::text::pg_snapshot)
            and d.xid < pg_snapshot_xmax(pg_current_snapshot())) as whether
),
-- Whatever is gone was seen by the oldest mark. If prev saw all of that, nothing new is gone.
covered as (
    select pg_snapshot_xmax(m.snapshot) <= pg_snapshot_xmax(p.snapshot)
        and not exists (select from pg_snapshot_xip(p.snapshot) x
            where pg_visible_in_snapshot(x, m.snapshot)) as whole
    from prev p, (select snapshot from tidegate.own_marks order by lsn limit 1) m
)
select pg_current_snapshot()::text as snapshot,
    array(select tag from news where tag is not null order by tag) as tags,
    exists (select from news where tag is null) as renamed,
    (select whether from reshaped) as reshaped,
    pg_current_wal_insert_lsn()::text as fence,
    -- Past the fence, so that what is read from now on is valid at once. After it in this list; the other
    -- order would cost misses and be right.
    case when $2 or (select whether from reshaped) or exists (select from news) or not coalesce((select whole from covered), false)
        then pg_logical_emit_message(false, 'tidegate', '')::text end as announced,
    tidegate.at_work(pg_current_snapshot()) as in_progress,
    not coalesce((select whole from covered), false) as trimmed,
    (select system_identifier from pg_control_system()) as system_identifier,
    (select d.oid::int8 from pg_database d where d.datname = current_database()) as database,
    pg_walfile_name(pg_current_wal_insert_lsn()) as wal_file,
    pg_sequence_last_value('tidegate.history'::regclass) as history,
    tidegate.no_wakeups() is null as wakeups,
    -- If many have committed since the last look, the next that do need not wake us; should we vanish, not for long.
    case when $3 <= (select count(distinct xid) from recent)
        then set_config('idle_session_timeout', '3s', false) is not null
            and pg_try_advisory_lock(8388065642915395431) end as hushed
