-- Which rows in the tables of the schema `tidegate` this database wrote itself. A publication FOR ALL TABLES copies rows
-- from another server, a dump restores rows from another time, and transaction numbers and positions are not unique across
-- servers.

-- Upgrades a version whose column had the type pg_snapshot. Replacing the view preserves its grants.
do $$ begin
    if exists (select from pg_catalog.pg_attribute where attrelid = 'tidegate.marks'::regclass
        and attname = 'snapshot' and atttypid = 'pg_snapshot'::regtype)
    then
        create or replace view tidegate.own_marks as select null::pg_snapshot as snapshot, null::pg_lsn as lsn,
            null::timestamptz as at, null::bigint as schema;
        drop index tidegate.marks_xmax;
        alter table tidegate.marks alter column snapshot type text using snapshot::text;
        create index marks_xmax on tidegate.marks (pg_snapshot_xmax(snapshot::pg_snapshot), lsn);
    end if;
end $$;

-- Columns that earlier versions lack. ALTER TABLE would lock a table even if it has the column, and nodes read these.
--
-- A mark counts only if its row was written by the transaction that it names, on this server and in this history, and if
-- it is not ahead of the server. Marks that an earlier version wrote name no transaction, so they don't count. `since` is
-- when the first mark of the same schema was written, or NULL if no mark of another schema is known. The first mark itself
-- may have been trimmed.
--
-- A log row from another server is harmless: nodes have already read past its transaction number, or recompute more than
-- necessary. But a replicated DELETE would remove an equal row of ours, and a replicated version number would hide that an
-- install is due. So triggers drop replicated changes.
do $$
declare
    missing record;
begin
    for missing in
        select * from (values
            ('tidegate.marks'::regclass, 'xid'::name, 'xid8', 'pg_catalog.pg_current_xact_id()'),
            ('tidegate.marks', 'history', 'bigint',
                'pg_catalog.pg_sequence_last_value(''tidegate.history''::pg_catalog.regclass)'),
            ('tidegate.marks', 'since', 'timestamptz', 'null'),
            ('tidegate.meta', 'xid', 'xid8', 'pg_catalog.pg_current_xact_id()')) c (own, name, type, value)
        where not exists (select from pg_catalog.pg_attribute
            where attrelid = c.own::oid and attname = c.name and not attisdropped)
    loop
        -- Rows that are there keep NULL.
        execute pg_catalog.format('alter table %s add column %I %s', missing.own, missing.name, missing.type);
        execute pg_catalog.format('alter table %s alter column %I set default %s', missing.own, missing.name,
            missing.value);
    end loop;
    -- Replacing the view would lock it as well. The column `since` came last: a change of the view needs another condition.
    if not exists (select from pg_catalog.pg_attribute
        where attrelid = pg_catalog.to_regclass('tidegate.own_marks')::oid and attname = 'since')
    then
        create or replace view tidegate.own_marks as
            select snapshot::pg_snapshot as snapshot, lsn, at, schema, since from tidegate.marks
            where cluster = (select system_identifier from pg_control_system())
                and history = (select pg_sequence_last_value('tidegate.history'::regclass))
                and xmin = xid::xid
                and lsn <= (select case when not pg_is_in_recovery() then pg_current_wal_insert_lsn() else 'FFFFFFFF/0' end)
                and pg_snapshot_xmax(snapshot::pg_snapshot) <= (select pg_snapshot_xmax(pg_current_snapshot()));
    end if;
end $$;

create or replace function tidegate.keep_out() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    -- pg_restore --disable-triggers leaves it as an ordinary trigger, which must not prevent trimming.
    if current_setting('session_replication_role') = 'replica' then
        return null;
    elsif tg_op = 'DELETE' then
        return old;
    end if;
    return new;
end $$;

-- The triggers of the tables in schema `tidegate`, and when each one fires. Tables that `trim`
-- also locks come in the order in which it locks them.
--
-- A commit wakes listeners by a deferred trigger. Logical replication may apply changes as the table's owner (CREATE
-- SUBSCRIPTION, run_as_owner), where firing a deferred trigger is an error; there the first row sends the notification.
create or replace function tidegate.own_triggers()
returns table (own regclass, trigger name, state "char", definition text)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select ('tidegate.' || t.own)::regclass, t.trigger, t.state::"char",
        format('create %s %I %s on tidegate.%I %s',
            case when t.function = 'wake' then 'constraint trigger' else 'trigger' end, t.trigger, t.event, t.own, t.rest)
            || format(' execute function tidegate.%I()', t.function)
    from (
        select o.own, o.nr, 'keep_out_rows'::name, 'R', 'before insert',
            'for each row when (new.xid is distinct from pg_catalog.pg_current_xact_id())', 'keep_out'
        from unnest(array['marks', 'meta', 'log', 'ddl']) with ordinality o (own, nr)
        union all
        select o.own, o.nr, 'keep_out_changes', 'R', 'before update or delete', 'for each row', 'keep_out'
        from unnest(array['marks', 'meta', 'log', 'ddl']) with ordinality o (own, nr)
        union all
        select 'log', 3, 'wake', 'O', 'after insert', 'deferrable initially deferred for each row', 'wake'
        union all
        select 'log', 3, 'wake_applied', 'R', 'after insert', 'for each row', 'wake'
    ) t (own, nr, trigger, state, event, rest, function)
    order by t.nr, t.state;
end;

-- The schema's own tables that have row security. Nodes can't read them, and where it is forced on the owner too, it
-- makes each write to a tracked table fail.
create or replace function tidegate.with_row_security() returns setof regclass
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select c.oid::regclass from pg_class c where c.relnamespace = 'tidegate'::regnamespace and c.relkind = 'r'
        and (c.relrowsecurity or c.relforcerowsecurity)
    order by 1;
end;

-- Whether the schema's own tables are as `guard` makes them.
create or replace function tidegate.is_guarded() returns boolean
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select not exists (select from tidegate.own_triggers() w left join pg_trigger t
            on t.tgrelid = w.own::oid and t.tgname = w.trigger where t.tgenabled is distinct from w.state)
        and not exists (select from tidegate.own_triggers() w join pg_class c on c.oid = w.own::oid
            where c.relreplident <> 'f')
        and not exists (select from tidegate.with_row_security());
end;

-- Creates the triggers of the tables in schema `tidegate`, removes row security from these tables, and gives them a replica
-- identity: without one, trimming fails if a publication contains all tables. It changes only what differs, so a second run
-- takes no lock.
create or replace function tidegate.guard() returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    wanted record;
    secured regclass;
    changed boolean := false;
begin
    for secured in select * from tidegate.with_row_security() loop
        execute format('alter table %s disable row level security, no force row level security', secured);
        changed := true;
    end loop;
    for wanted in
        select w.*, t.tgenabled as present, c.relreplident from tidegate.own_triggers() w
            join pg_class c on c.oid = w.own::oid
            left join pg_trigger t on t.tgrelid = w.own::oid and t.tgname = w.trigger
    loop
        if wanted.relreplident <> 'f' then
            execute format('alter table %s replica identity full', wanted.own);
            changed := true;
        end if;
        continue when wanted.present = wanted.state;
        if wanted.present is null then
            execute wanted.definition;
        end if;
        execute format('alter table %s enable %s trigger %I', wanted.own,
            case wanted.state when 'R' then 'replica' else '' end, wanted.trigger);
        changed := true;
    end loop;
    return changed;
end $$;
