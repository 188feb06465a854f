-- A table and all that inherits from it, without temporary tables.
create or replace function tidegate.family(root oid) returns setof oid
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    with recursive family (member) as (
        select root union select i.inhrelid from pg_inherits i, family f, pg_class c
        where i.inhparent = f.member and c.oid = i.inhrelid and c.relpersistence <> 't')
    select member from family;
end;

-- Creates a table's trigger for an event, unless it exists already; returns whether it was created. The trigger's arguments
-- are informative: the maximum number of rows recorded individually, the numbers of the columns, and their positions.
create or replace function tidegate.arm(member oid, event text, columns int2[], most int) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    numbers int2[];
    places int2[];
    note text;
    arguments text[];
    is_whole boolean := event = 'truncate' or most = 0;
begin
    select coalesce(array_agg(attnum order by attnum), '{}'), coalesce(array_agg(place order by attnum), '{}')
        into numbers, places from (
            select attnum, (row_number() over (order by attnum))::int2 as place
            from pg_attribute where attrelid = member and attnum > 0 and not attisdropped
        ) c where attnum = any (columns);
    note := tidegate.note(event, numbers, places, most,
        event = 'update' and (select relkind = 'p' from pg_class where oid = member));
    arguments := array[most::text, array_to_string(numbers, ' '), array_to_string(places, ' ')];
    if exists (select from pg_trigger t join pg_proc p on p.oid = t.tgfoid
        where t.tgrelid = member and t.tgname = 'tidegate_' || event and t.tgenabled = 'A'
        and (t.tgoldtable is null and t.tgnewtable is null) = is_whole
        and p.pronamespace = 'tidegate'::regnamespace and p.proname = note
        and t.tgargs = convert_to(arguments[1], 'UTF8') || E'\\x00'::bytea
            || convert_to(arguments[2], 'UTF8') || E'\\x00'::bytea
            || convert_to(arguments[3], 'UTF8') || E'\\x00'::bytea)
    then
        return false;
    end if;
    execute format('create or replace trigger %I after %s on %s %s for each statement
            execute function tidegate.%I(%L, %L, %L)',
        'tidegate_' || event, event, member::regclass,
        case when is_whole then ''
            when event = 'insert' then 'referencing new table as tidegate_new'
            when event = 'delete' then 'referencing old table as tidegate_old'
            else 'referencing old table as tidegate_old new table as tidegate_new' end,
        note, arguments[1], arguments[2], arguments[3]);
    execute format('alter table %s enable always trigger %I', member::regclass, 'tidegate_' || event);
    return true;
end $$;

-- Gives a replaced trigger the state of its predecessor: enabled, replica, always or disabled.
create or replace function tidegate.enable_as(member regclass, made name, state "char") returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if state <> 'A' then
        execute format('alter table %s %s trigger %I', member,
            case state when 'D' then 'disable' when 'R' then 'enable replica' else 'enable' end, made);
    end if;
end $$;

-- Creates the triggers of a root table and its descendants. It changes only what differs, so a second run takes no lock.
-- If it changes something, it writes a log row that invalidates everything cached from these tables.
create or replace function tidegate.track(root oid, columns text[], most int) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    member oid;
    numbers int2[];
    event text;
    changed boolean := false;
    base text := tidegate.tag_of(root);
begin
    for member in select * from tidegate.family(root) loop
        numbers := array(select attnum from pg_attribute where attrelid = member and attname = any (columns)
            and attnum > 0 and not attisdropped);
        foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
            if tidegate.arm(member, event, numbers, most) then
                changed := true;
            end if;
        end loop;
    end loop;
    if tidegate.unpublish(root) then
        changed := true;
    end if;
    if changed then
        insert into tidegate.log (tags) values (array[base, base || '!']);
    end if;
    return changed;
end $$;

-- If a table has foreign tables among its descendants, a trigger with transition tables makes statements on it fail
-- ("cannot collect transition tuples from child foreign tables"). Such tables get triggers without them, so each statement
-- counts as a change of all rows. Nothing that reads them is cached. lock_timeout keeps other writers from waiting long
-- behind a lock that this can't get.
create or replace function tidegate.spare_foreign() returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
    spared record;
begin
    for spared in
        with recursive above (oid) as (
            select i.inhparent from pg_foreign_table f join pg_inherits i on i.inhrelid = f.ftrelid
            union
            select i.inhparent from above join pg_inherits i on i.inhrelid = above.oid)
        select t.tgrelid, t.tgrelid::regclass as name, t.tgname, t.tgenabled, substr(t.tgname, length('tidegate_') + 1) as event
        from above join pg_trigger t on t.tgrelid = above.oid join pg_proc p on p.oid = t.tgfoid
        where p.pronamespace = 'tidegate'::regnamespace and (t.tgoldtable is not null or t.tgnewtable is not null)
    loop
        perform tidegate.arm(spared.tgrelid, spared.event, '{}', 0);
        perform tidegate.enable_as(spared.name, spared.tgname, spared.tgenabled);
    end loop;
end $$;

create or replace function tidegate.untrack(root oid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    member oid;
    event text;
    base text := tidegate.tag_of(root);
begin
    for member in select * from tidegate.family(root) loop
        foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
            execute format('drop trigger if exists %I on %s', 'tidegate_' || event,
                member::regclass);
        end loop;
    end loop;
    perform tidegate.unpublish(root);
    insert into tidegate.log (tags) values (array[base, base || '!']);
end $$;

-- Replaces each trigger of an earlier version by a current one, preserving its state (such as disabled).
do $$
declare
    made record;
begin
    for made in
        select tgrelid, tgrelid::regclass as name, tgname, tgenabled, substr(tgname, length('tidegate_') + 1) as event,
            split_part(encode(tgargs, 'escape'), E'\\000', 1)::int as most,
            string_to_array(split_part(encode(tgargs, 'escape'), E'\\000', 2), ' ')::int2[] as columns
        from pg_catalog.pg_trigger where tgfoid = pg_catalog.to_regproc('tidegate.changed')
    loop
        perform tidegate.arm(made.tgrelid, made.event, made.columns, made.most);
        perform tidegate.enable_as(made.name, made.tgname, made.tgenabled);
        insert into tidegate.log (tags) values (tidegate.named(made.tgrelid, '{"",!}', null));
    end loop;
    -- Also replaces their functions. A function's name encodes its parameters, so the triggers need no change.
    for made in
        select distinct substr(t.tgname, length('tidegate_') + 1) as event, string_to_array(t.arguments, E'\\000') as arguments
        from (select tgname, tgfoid, encode(tgargs, 'escape') as arguments from pg_catalog.pg_trigger where tgnargs > 2) t
            join pg_catalog.pg_proc p on p.oid = t.tgfoid
        where p.pronamespace = 'tidegate'::regnamespace and starts_with(p.proname, 'note_')
    loop
        perform tidegate.note(made.event, string_to_array(made.arguments[2], ' ')::int2[],
            string_to_array(made.arguments[3], ' ')::int2[], made.arguments[1]::int, false);
    end loop;
    -- An earlier version gave a partitioned table's UPDATE trigger the same function as any table's.
    for made in
        select t.tgrelid, split_part(encode(t.tgargs, 'escape'), E'\\000', 1)::int as most,
            string_to_array(split_part(encode(t.tgargs, 'escape'), E'\\000', 2), ' ')::int2[] as columns
        from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid
            join pg_catalog.pg_proc p on p.oid = t.tgfoid
        where t.tgname = 'tidegate_update' and t.tgenabled = 'A' and c.relkind = 'p'
            and p.pronamespace = 'tidegate'::regnamespace
    loop
        if tidegate.arm(made.tgrelid, 'update', made.columns, made.most) then
            insert into tidegate.log (tags) values (tidegate.named(made.tgrelid, '{"",!}', null));
        end if;
    end loop;
    drop function if exists tidegate.changed();
    drop function if exists tidegate.is_enum(oid);
end $$;

-- The functions granted to public reveal nothing that the catalog does not.
revoke all on all functions in schema tidegate from public;
grant execute on function tidegate.named(oid, text[], pg_snapshot), tidegate.tag_of(oid),
    tidegate.as_seen(xid, pg_snapshot), tidegate.running_writers(pg_snapshot), tidegate.own_triggers(), tidegate.is_guarded(),
    tidegate.with_row_security(), tidegate.wake_at_once(), tidegate.wake_at_commit(text),
    tidegate.may_have_moved(oid), tidegate.ddl_since(pg_snapshot, text) to public;
