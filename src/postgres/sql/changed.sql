-- The name of a table in tags: without its schema if that is public, and never quoted.
create or replace function tidegate.tag_of(relation oid) returns text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select case n.nspname when 'public' then '' else n.nspname || '.' end || c.relname
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation;
end;

-- Runs in the writer's transaction and must never fail there: it names columns by number, which a
-- rename does not change, and takes their names from the catalog as they are now.
-- Arguments: the most rows that are told one by one, then the numbers of the tagged columns.
create or replace function tidegate.changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    most bigint := tg_argv[0];
    touched bigint := most + 1;
    root oid := tg_relid;
    up oid;
    base text;
    shown text;
    unclear boolean;
    tags text[];
    this text := pg_current_xact_id()::text;
begin
    if tg_op = 'INSERT' then
        select count(*) into touched from (select from tidegate_new limit most + 1) r;
    elsif tg_op <> 'TRUNCATE' then
        select count(*) into touched from (select from tidegate_old limit most + 1) r;
    end if;
    if touched = 0 then
        return null;
    end if;

    -- The topmost parent, found anew each time: partitions are attached and detached.
    loop
        select inhparent into up from pg_inherits where inhrelid = root order by 1 limit 1;
        exit when not found;
        root := up;
    end loop;
    select case n.nspname when 'public' then '' else n.nspname || '.' end || c.relname
        into base
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = root;
    tags := array[base];

    if touched <= most then
        -- NULL gets no tag: `column = NULL` finds no row, and `column IS NULL` depends on the
        -- table. concat goes by the type's output, where a cast could be anyone's function.
        select string_agg(format('case when r.%1$I is not null then concat(%2$L, r.%1$I) end',
                    a.attname, base || ':' || a.attname || '='), ', '),
               bool_or(not (a.atttypid = any (array['int2', 'int4', 'int8', 'oid', 'text',
                        'varchar', 'uuid']::regtype[])
                    or exists (select from pg_type t where t.oid = a.atttypid and t.typtype = 'e')))
            into shown, unclear
            from pg_attribute a
            where a.attrelid = tg_relid and a.attnum = any (string_to_array(tg_argv[1], ' ')::int2[])
                and not a.attisdropped;
    end if;
    if touched > most or unclear then
        -- A column whose type was changed since to one without a fixed text counts as all rows.
        tags := tags || (base || '!');
    elsif shown is not null then
        execute 'select $1 || array_agg(distinct t) from ('
            || concat_ws(' union all ',
                case when tg_op <> 'INSERT' then
                    'select unnest(array[' || shown || ']) from tidegate_old r' end,
                case when tg_op <> 'DELETE' then
                    'select unnest(array[' || shown || ']) from tidegate_new r' end)
            || ') s(t) where t is not null'
            into tags using tags;
    end if;
    insert into tidegate.log (tags) values (tags);
    -- The first row of a transaction wakes the listeners; the others queue no deferred event. A
    -- rollback to a savepoint takes both the event and this setting back.
    if current_setting('tidegate.queued', true) is distinct from this then
        perform set_config('tidegate.queued', this, true);
    end if;
    return null;
end $$;
