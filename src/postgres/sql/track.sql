-- A table and all that inherits from it.
create or replace function tidegate.family(root oid) returns setof oid
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    with recursive family (member) as (
        select root union select i.inhrelid from pg_inherits i, family f where i.inhparent = f.member)
    select member from family;
end;

-- Gives a root and its descendants their triggers. What is as it should be is not touched, so that
-- a second run takes no lock. The row that it writes puts an end to what was cached before.
-- Arguments of a trigger, for who looks at it: the most rows that are told one by one, then the numbers of
-- the columns, then their places.
create or replace function tidegate.track(root oid, columns text[], most int) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    member oid;
    event text;
    note text;
    numbers int2[];
    places int2[];
    arguments text[];
    changed boolean := false;
    base text := tidegate.tag_of(root);
begin
    for member in select * from tidegate.family(root) loop
        select coalesce(array_agg(attnum order by attnum), '{}'),
                coalesce(array_agg(place order by attnum), '{}')
            into numbers, places from (
                select attname, attnum, (row_number() over (order by attnum))::int2 as place
                from pg_attribute where attrelid = member and attnum > 0 and not attisdropped
            ) c where attname = any (columns);
        arguments := array[most::text, array_to_string(numbers, ' '), array_to_string(places, ' ')];
        foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
            note := tidegate.note(event, numbers, places, most);
            continue when exists (select from pg_trigger t join pg_proc p on p.oid = t.tgfoid
                where t.tgrelid = member and t.tgname = 'tidegate_' || event and t.tgenabled = 'A'
                and p.pronamespace = 'tidegate'::regnamespace and p.proname = note
                and t.tgargs = convert_to(arguments[1], 'UTF8') || '\x00'::bytea
                    || convert_to(arguments[2], 'UTF8') || '\x00'::bytea
                    || convert_to(arguments[3], 'UTF8') || '\x00'::bytea);
            changed := true;
            execute format('create or replace trigger %I after %s on %s %s for each statement
                    execute function tidegate.%I(%L, %L, %L)',
                'tidegate_' || event, event, member::regclass,
                case event
                    when 'insert' then 'referencing new table as tidegate_new'
                    when 'delete' then 'referencing old table as tidegate_old'
                    when 'update' then 'referencing old table as tidegate_old new table as tidegate_new'
                    else '' end,
                note, arguments[1], arguments[2], arguments[3]);
            execute format('alter table %s enable always trigger %I', member::regclass,
                'tidegate_' || event);
        end loop;
    end loop;
    if changed then
        insert into tidegate.log (tags) values (array[base, base || '!']);
    end if;
    return changed;
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
    insert into tidegate.log (tags) values (array[base, base || '!']);
end $$;

-- What an earlier version has tracked is tracked as this one does.
do $$
declare
    tracked record;
begin
    for tracked in
        with recursive upwards (member) as (
            select tgrelid from pg_trigger where tgname = 'tidegate_insert'
                and tgfoid in (select oid from pg_proc where pronamespace = 'tidegate'::regnamespace)
            union select i.inhparent from pg_inherits i, upwards u where i.inhrelid = u.member)
        select t.tgrelid as root, split_part(encode(t.tgargs, 'escape'), '\000', 1)::int as most,
            array(select a.attname::text from pg_attribute a
                where a.attrelid = t.tgrelid and not a.attisdropped and a.attnum::text = any (
                    string_to_array(split_part(encode(t.tgargs, 'escape'), '\000', 2), ' '))) as columns
        from pg_trigger t where t.tgname = 'tidegate_insert' and t.tgrelid in (select member from upwards)
            and t.tgrelid not in (select inhrelid from pg_inherits)
    loop
        perform tidegate.track(tracked.root, tracked.columns, tracked.most);
    end loop;
    drop function if exists tidegate.changed();
    drop function if exists tidegate.is_enum(oid);
end $$;

-- These tell nobody what the catalog does not.
revoke all on all functions in schema tidegate from public;
grant execute on function tidegate.named(oid, text[], pg_snapshot), tidegate.tag_of(oid),
    tidegate.as_seen(xid, pg_snapshot), tidegate.at_work(pg_snapshot) to public;
