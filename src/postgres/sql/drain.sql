with prev as materialized (
    select $1::text::pg_snapshot as snapshot
),
news as materialized (
    select distinct unnest(l.tags) as tag
    from tidegate.log l
    where l.xid >= pg_snapshot_xmin($1::text::pg_snapshot)
        and not pg_visible_in_snapshot(l.xid, $1::text::pg_snapshot)
),
-- Whatever is gone was seen by the oldest mark. If prev saw all of that, nothing new is gone.
covered as (
    select pg_snapshot_xmax(m.snapshot) <= pg_snapshot_xmax(p.snapshot)
        and not exists (select from pg_snapshot_xip(p.snapshot) x
            where pg_visible_in_snapshot(x, m.snapshot)) as whole
    from prev p, (select snapshot from tidegate.own_marks order by lsn limit 1) m
)
select pg_current_snapshot()::text as snapshot,
    array(select tag from news order by tag) as tags,
    pg_current_wal_insert_lsn()::text as fence,
    -- Past the fence, so that what is read from now on is valid at once. After it in this list; the other
    -- order would cost misses and be right.
    case when $2 or exists (select from news) or not coalesce((select whole from covered), false)
        then pg_logical_emit_message(false, 'tidegate', '')::text end as announced,
    tidegate.in_progress(pg_current_snapshot()) as in_progress,
    not coalesce((select whole from covered), false) as trimmed,
    (select system_identifier from pg_control_system()) as system_identifier,
    pg_walfile_name(pg_current_wal_insert_lsn()) as wal_file,
    tidegate.no_wakeups() is null as wakeups
