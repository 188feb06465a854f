-- The name of a table in tags: without its schema if that is public, and never quoted.
create or replace function tidegate.tag_of(relation oid) returns text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select case n.nspname when 'public' then '' else n.nspname || '.' end || c.relname
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation;
end;

-- Whether a type is an enum: its values have one text, like those of the types below.
create or replace function tidegate.is_enum(type oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select exists (select from pg_type t where t.oid = type and t.typtype = 'e');
end;

-- Runs in the writer's transaction and must never fail there: it names columns by number, which a
-- rename does not change, and takes their names from the catalog as they are now.
-- Arguments: the most rows that are told one by one, then the numbers of the tagged columns.
--
-- What it takes, every write takes. So statements are planned once, where Postgres would plan some of
-- them each time; and one row of a table that is told by its first column, as most are, is read
-- without a statement made for it.
create or replace function tidegate.changed() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
-- Whatever columns a table has, our names are ours.
#variable_conflict use_variable
declare
    -- int2, int4, int8, oid, text, varchar, uuid
    plain constant oid[] := '{21, 23, 20, 26, 25, 1043, 2950}';
    most bigint := tg_argv[0];
    touched bigint := most + 1;
    root oid := tg_relid;
    up oid;
    base text := case tg_table_schema when 'public' then '' else tg_table_schema || '.' end
        || tg_table_name;
    name text;
    tag_of_old constant text := 'case when o.%1$I is not null then concat(%2$L, o.%1$I) end';
    tag_of_new constant text := 'case when n.%1$I is not null then concat(%2$L, n.%1$I) end';
    shown text;
    unclear boolean := false;
    one text;
    other text;
    tags text[];
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
        base := tidegate.tag_of(root);
    end loop;
    tags := array[base];

    -- NULL gets no tag: `column = NULL` finds no row, and `column IS NULL` depends on the table. concat
    -- goes by the type's output, where a cast could be anyone's function.
    if touched = 1 and tg_argv[1] = '1' then
        select base || ':' || a.attname || '=',
                a.atttypid <> all (plain) and not tidegate.is_enum(a.atttypid)
            into name, unclear
            from pg_attribute a
            where a.attrelid = tg_relid and a.attnum = 1 and not a.attisdropped;
        if not found or unclear then
            -- There is nothing to read.
        elsif tg_op = 'INSERT' then
            select case when n."tidegate first" is not null then concat(name, n."tidegate first") end
                into one from tidegate_new n ("tidegate first");
        elsif tg_op = 'DELETE' then
            select case when o."tidegate first" is not null then concat(name, o."tidegate first") end
                into one from tidegate_old o ("tidegate first");
        else
            select case when n."tidegate first" is not null then concat(name, n."tidegate first") end,
                    case when o."tidegate first" is not null then concat(name, o."tidegate first") end
                into one, other from tidegate_new n ("tidegate first"), tidegate_old o ("tidegate first");
        end if;
        if one is not null then
            tags := tags || one;
        end if;
        if other <> one or one is null and other is not null then
            tags := tags || other;
        end if;
    elsif touched <= most then
        shown := case when touched > 1 then tag_of_old when tg_op = 'INSERT' then tag_of_new
            when tg_op = 'DELETE' then tag_of_old
            else concat(tag_of_new, ', nullif(', tag_of_old, ', ', tag_of_new, ')') end;
        select string_agg(format(shown, a.attname, base || ':' || a.attname || '='), ', '),
               bool_or(a.atttypid <> all (plain) and not tidegate.is_enum(a.atttypid))
            into shown, unclear
            from pg_attribute a
            where a.attrelid = tg_relid and a.attnum = any (string_to_array(tg_argv[1], ' ')::int2[])
                and not a.attisdropped;
        if shown is null or unclear then
            -- There is nothing to read.
        elsif touched = 1 then
            execute 'select $1 || array_remove(array[' || shown || '], null) from ' || concat_ws(', ',
                    case when tg_op <> 'INSERT' then 'tidegate_old o' end,
                    case when tg_op <> 'DELETE' then 'tidegate_new n' end)
                into tags using tags;
        else
            execute 'select $1 || array_agg(distinct t) from ('
                || concat_ws(' union all ',
                    case when tg_op <> 'INSERT' then
                        'select unnest(array[' || shown || ']) from tidegate_old o' end,
                    case when tg_op <> 'DELETE' then
                        'select unnest(array[' || shown || ']) from tidegate_new o' end)
                || ') s(t) where t is not null'
                into tags using tags;
        end if;
    end if;
    if touched > most or unclear then
        -- A column whose type was changed since to one without a fixed text counts as all rows.
        tags := tags || (base || '!');
    end if;
    insert into tidegate.log (tags) values (tags);
    return null;
end $$;
