-- The ranges of transaction numbers, each from `first` to before `past`, that hold the numbers from `start` on of all
-- transactions that a snapshot sees, and no others. A search of the log by these ranges visits no row of a running
-- transaction, which may have written millions.
create or replace function tidegate.seen_ranges(start xid8, seen pg_snapshot) returns table (first xid8, past xid8)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(((lag(x) over (order by x))::text::bigint + 1)::text::xid8, start), x
    from (select x from pg_snapshot_xip(seen) x where x >= start
        union all select pg_snapshot_xmax(seen)) ends
    order by x;
end;

-- Writes a mark, if the log has grown and the last mark is at least `every` old, or at once if the schema has changed since
-- the last mark. Also writes one when the first mark of a schema is 15 s old: a node that starts trusts only marks of a
-- schema that every node had noticed (FINGERPRINT_KNOWN_WITHIN), and the log of an idle database does not grow. The lock
-- is taken in an earlier statement, so that snapshots are taken in the order of their marks.
create or replace function tidegate.mark(every interval, known_schema bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    newest tidegate.own_marks;
    is_same boolean;
    settles timestamptz;
begin
    begin
        lock table tidegate.housekeeping in share row exclusive mode nowait;
    exception when lock_not_available then
        return false;
    end;
    select * into newest from tidegate.own_marks order by lsn desc limit 1;
    is_same := newest.schema is not distinct from known_schema;
    select coalesce(newest.since, min(m.at)) + interval '15 s' into settles from tidegate.own_marks m
    where m.lsn > coalesce((select max(lsn) from tidegate.own_marks where schema is distinct from known_schema), '0/0');
    if newest.lsn is not null and is_same and (
        newest.at > clock_timestamp() - every
        or (newest.at >= settles or clock_timestamp() < settles) and not exists (
            -- A row that the mark does not see was written by a transaction that it lists as running, or that began
            -- after it. Don't search from the mark's xmin: a long open transaction keeps it far back.
            select from tidegate.seen_ranges(pg_snapshot_xmax(newest.snapshot), pg_current_snapshot()) r
            where exists (select from tidegate.log where xid >= r.first and xid < r.past)
                or exists (select from tidegate.ddl where xid >= r.first and xid < r.past)
            union all
            select from (select xid from tidegate.log union all select xid from tidegate.ddl) noted
            where xid = any (array(select x from pg_snapshot_xip(newest.snapshot) x
                where pg_visible_in_snapshot(x, (select pg_current_snapshot()))))))
    then
        return false;
    end if;
    -- The mark of an install knows no schema, so the first one that is known is not a change.
    insert into tidegate.marks (snapshot, lsn, schema, since)
        values (pg_current_snapshot(), pg_current_wal_insert_lsn(), known_schema,
            case when is_same or newest.schema is null and newest.since is null then newest.since
                else clock_timestamp() end);
    return true;
end $$;

-- Records a change that no trigger records, or one of an application's own tags. A tag without a value may be a table's
-- name, and then also invalidates the table's rows (`!`). A tag has a value if an `=` follows a column's colon; a table's
-- name may contain an `=` too.
create or replace function tidegate.invalidate(tags text[]) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    wish text;
begin
    -- As in the functions that `note` creates.
    begin
        unlisten tidegate_nothing;
        if current_setting('max_prepared_transactions') <> '0' then
            raise exception 'taken back';
        end if;
    exception
        when insufficient_privilege then wish := tidegate.wake_at_once();
        when others then null;
    end;
    insert into tidegate.log (tags) values (array(
        select tag from unnest(tags) tag where tag is not null
        union
        select tag || '!' from unnest(tags) tag
        where right(tag, 1) <> '!' and (strpos(tag, '=') = 0 or strpos(split_part(tag, '=', 1), ':') = 0)));
    if wish is not null then
        perform tidegate.wake_at_commit(wish);
    end if;
end $$;

-- Deletes the log rows that the newest mark older than the retention sees, and all earlier marks, in one transaction: so
-- the oldest remaining mark has seen every deleted row. A timestamp in the rows would not do, since a transaction may
-- commit hours after it wrote its row.
create or replace function tidegate.trim(retention interval, most int) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    keep tidegate.own_marks;
    gone bigint;
begin
    begin
        lock table tidegate.housekeeping in share row exclusive mode nowait;
    exception when lock_not_available then
        return 0;
    end;
    delete from tidegate.marks where (lsn, at) not in (select lsn, at from tidegate.own_marks);
    delete from tidegate.log where xid >= pg_snapshot_xmax(pg_current_snapshot());
    delete from tidegate.ddl where xid >= pg_snapshot_xmax(pg_current_snapshot());
    select * into keep from tidegate.own_marks where at <= clock_timestamp() - retention
        order by lsn desc limit 1;
    if not found then
        return 0;
    end if;
    delete from tidegate.marks where lsn < keep.lsn;
    delete from tidegate.log where ctid = any (array(
        select l.ctid from tidegate.seen_ranges('0', keep.snapshot) r cross join lateral (
            select ctid from tidegate.log where xid >= r.first and xid < r.past order by xid limit most) l
        limit most));
    get diagnostics gone = row_count;
    delete from tidegate.ddl
        where xid < pg_snapshot_xmax(keep.snapshot) and pg_visible_in_snapshot(xid, keep.snapshot);
    return gone;
end $$;
