-- The name of a table in tags: without its schema if that is public, and never quoted.
create or replace function tidegate.tag_of(relation oid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return (select case n.nspname when 'public' then '' else n.nspname || '.' end || c.relname
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.oid = relation);
end $$;

-- Whether the snapshot `seen` shows a catalog row in its current version. `writer` is the row's xmin: the last 32 bits of
-- the number of the transaction that wrote it.
create or replace function tidegate.as_seen(writer xid, seen pg_snapshot) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    next bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    behind bigint := (next - writer::text::bigint) % 4294967296;
begin
    if behind < 0 then
        behind := behind + 4294967296;
    end if;
    return pg_visible_in_snapshot(greatest(next - behind, 3)::text::xid8, seen);
end $$;

-- Translates the keys of a log row into tags, in the same order. A key is empty for the table itself, `!` for all of its
-- rows, `number/place=value` for a column's value, `number/place` for NULL, or `number/place>` for any value that is too
-- long to be recorded. The tags have the current names. If a name may have changed after the snapshot `since`, and so after
-- the row was written, all tags are NULL: anything may have changed.
create or replace function tidegate.named(relation oid, keys text[], since pg_snapshot) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    -- From the table to its topmost parent.
    line oid[] := array[relation];
    up oid;
    base text;
begin
    if relation is null then
        return keys;
    end if;
    loop
        select i.inhparent into up from pg_inherits i
            where i.inhrelid = line[cardinality(line)] order by 1 limit 1;
        exit when not found;
        line := line || up;
    end loop;
    -- The row of a table's type has the table's name and schema. The table's own row is not compared, since TRUNCATE and
    -- GRANT rewrite it too. Attaching or detaching a parent rewrites the rows of the columns.
    if not exists (
        select from pg_class c join pg_type t on t.oid = c.reltype
        where c.oid = any (line) and not tidegate.as_seen(t.xmin, since)
        union all
        select from pg_attribute a where a.attrelid = any (line) and not tidegate.as_seen(a.xmin, since)
        union all
        select from pg_attribute a join pg_enum e on e.enumtypid = a.atttypid
        where a.attrelid = relation and not tidegate.as_seen(e.xmin, since)
        union all
        select from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.oid = any (line) and not tidegate.as_seen(n.xmin, since))
    then
        base := tidegate.tag_of(line[cardinality(line)]);
    end if;
    -- A NULL adds no tag beside the table's: `column = NULL` finds no row, and `column IS NULL` depends on the table. The
    -- same holds for a value of a dropped column. A column that has moved, or whose type has no fixed text form, counts as
    -- a change of all rows, since the writer could not know. So does a label that its enum no longer has.
    return array(
        select base || case when key is null then null
            when key = '!' then '!'
            when c.number is null then ''
            when place.place <> c.place or not c.told then '!'
            when octet_length(key) > 2100 or (strpos(key, '=') = 0 and right(key, 1) = '>') then ':' || c.attname || '>'
            when strpos(key, '=') = 0 then ''
            when c.enum is not null and not exists (select from pg_enum e
                where e.enumtypid = c.enum and e.enumlabel = substr(key, strpos(key, '=') + 1)) then '!'
            else ':' || c.attname || '=' || substr(key, strpos(key, '=') + 1) end
        from unnest(keys) with ordinality k (key, nr)
            cross join split_part(split_part(key, '=', 1), '/', 1) number
            cross join rtrim(split_part(split_part(key, '=', 1), '/', 2), '>') place
            left join (
                select a.attname, a.attnum::text as number, case t.typtype when 'e' then t.oid end as enum,
                    (row_number() over (order by a.attnum))::text as place,
                    t.typtype = 'e' or t.oid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                        'oid'::regtype, 'text'::regtype, 'varchar'::regtype, 'uuid'::regtype) as told
                from pg_attribute a left join pg_type t on t.oid = a.atttypid
                where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
            ) c on c.number = number.number
        order by nr);
end $$;
