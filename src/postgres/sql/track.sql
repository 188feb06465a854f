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
create or replace function tidegate.track(root oid, columns text[], most int) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    member oid;
    event text;
    numbers text;
    changed boolean := false;
    base text := tidegate.tag_of(root);
begin
    for member in select * from tidegate.family(root) loop
        select coalesce(string_agg(attnum::text, ' ' order by attnum), '') into numbers
            from pg_attribute where attrelid = member and attname = any (columns)
            and attnum > 0 and not attisdropped;
        foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
            continue when exists (select from pg_trigger
                where tgrelid = member and tgname = 'tidegate_' || event and tgenabled = 'A'
                and tgfoid = 'tidegate.changed'::regproc
                and tgargs = convert_to(most::text, 'UTF8') || '\x00'::bytea
                    || convert_to(numbers, 'UTF8') || '\x00'::bytea);
            changed := true;
            execute format('create or replace trigger %I after %s on %s %s for each statement
                    execute function tidegate.changed(%L, %L)',
                'tidegate_' || event, event, member::regclass,
                case event
                    when 'insert' then 'referencing new table as tidegate_new'
                    when 'delete' then 'referencing old table as tidegate_old'
                    when 'update' then
                        'referencing old table as tidegate_old new table as tidegate_new'
                    else '' end,
                most::text, numbers);
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

revoke all on all functions in schema tidegate from public;
