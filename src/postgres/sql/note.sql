-- Makes the function for a trigger and returns its name: what notes a statement's change, in the writer's
-- transaction, which it must never make fail. Every write pays for it. So it is made for the columns that
-- changes are told by, and for a single row does no more than copy their values into the log; what the table
-- and its columns are called is found by who reads that (`tidegate.named`).
--
-- event: `insert`, `update`, `delete` or `truncate`.
-- numbers: of the columns, as the catalog has them, which a rename does not change.
-- places: theirs among the columns that there are. Whatever a column is called, a statement can read it by that.
-- most: how many rows of a statement are told one by one, at most.
--
-- The function has no search_path of its own, which takes as long as to write the row; so it names the schema
-- of all that it uses: functions, operators and types, which a writer could have others of.
create or replace function tidegate.note(event text, numbers int2[], places int2[], most int) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $note$
declare
    suffix text := case when event = 'truncate' then '' when most = 0 then '_all' else coalesce((
        select '_' || string_agg(number || case when place <> number then 'at' || place else '' end, '_')
        from unnest(numbers, places) c (number, place)), '') || '_of_' || most end;
    name text := 'note_' || event || case when length(suffix) < 40 then suffix else '_' || md5(suffix) end;
    tables text[] := case event when 'insert' then '{new}' when 'delete' then '{old}' else '{new,old}' end;
    -- What was written, or was there. An UPDATE may have fewer new rows than old ones, if a partition's trigger
    -- keeps one out.
    touched text := case event when 'insert' then 'new' else 'old' end;
    -- There may come to be fewer columns than are read: then NULLs stand in. A join can have more columns than a
    -- list of what is selected.
    source text := coalesce((
        select format('(tidegate_%%1$s r cross join (select %s) p) %%1$s_rows (%s)',
            string_agg('null', ', '),
            string_agg(format('%I', 'tidegate ' || i), ', ' order by i))
        from generate_series(1, (select max(place) from unnest(places) place)) i
        having count(*) > 0), 'tidegate_%1$s %1$s_rows');
    -- NULL has a key too, by which a reader sees that the place is not what it was. concat goes by a type's
    -- output, where a cast or a comparison could be anyone's function.
    value text := $$case when %%1$s_rows.%1$I is null then %2$L else pg_catalog.concat(%3$L, %%1$s_rows.%1$I) end$$;
    replaced text := $$case when old_rows.%1$I is not null and (new_rows.%1$I is null
                    or pg_catalog.concat(old_rows.%1$I) operator(pg_catalog.<>) pg_catalog.concat(new_rows.%1$I))
                then pg_catalog.concat(%3$L, old_rows.%1$I) end$$;
    body text;
begin
    select string_agg(format(value, c, key, key || '='), $$,
                $$), string_agg(format(replaced, c, key, key || '='), $$,
                $$)
        into value, replaced
        from (select 'tidegate ' || place, number || '/' || place
            from unnest(numbers, places) p (number, place)) columns (c, key);
    body := case when event = 'truncate' then $$
    insert into tidegate.log (relation, tags) values (tg_relid, array['', '!']);$$
    when most = 0 then format($$
    insert into tidegate.log (relation, tags)
        select tg_relid, array['', '!'] where exists (select from tidegate_%s);$$, touched)
    else format($$
    insert into tidegate.log (relation, tags)
        select tg_relid, array[%1$s]
        from %2$s
        where not exists (select from tidegate_%3$s offset 1);
    if not found then
        insert into tidegate.log (relation, tags)
            select tg_relid, case when many.rows operator(pg_catalog.>) %5$s then array['', '!'] else array(
                select '' union select k from (%4$s) s (k) where k is not null) end
            from (select pg_catalog.count(*) from (
                select from tidegate_%3$s limit %6$s) r) many (rows)
            where many.rows operator(pg_catalog.>) 0;
    end if;$$,
        concat_ws($$,
                $$, $$''$$, format(value, tables[1]), case event when 'update' then replaced end),
        (select string_agg(format(source, t), $$,
            $$) from unnest(tables) t),
        touched,
        (select string_agg(format($$
                    select pg_catalog.unnest(array[%s]::pg_catalog.text[])
                    from %s$$, format(value, t), format(source, t)), ' union all') from unnest(tables) t),
        most, most::bigint + 1)
    end;
    body := format($$
#variable_conflict use_variable
begin%s
    return null;
end$$, body);
    if not exists (select from pg_proc where pronamespace = 'tidegate'::regnamespace and proname = name
        and prosrc = body)
    then
        execute format('create or replace function tidegate.%I() returns trigger language plpgsql '
            'security definer as %L', name, body);
        execute format('revoke all on function tidegate.%I() from public', name);
        -- It runs with the rights of who owns the log, whoever makes it.
        execute (select format('alter function tidegate.%I() owner to %I', name, pg_get_userbyid(relowner))
            from pg_class where oid = 'tidegate.log'::regclass);
    end if;
    return name;
end $note$;
