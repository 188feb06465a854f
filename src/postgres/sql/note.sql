-- Whether the statement whose UPDATE trigger asks may have moved rows of a partitioned table that the trigger does not see.
-- Postgres gives a row that MERGE moves to the transition tables of DELETE and INSERT, whose triggers fire only if the
-- MERGE has such actions. Moving a row deletes one from a partition, so a transaction that has deleted none has moved
-- none. Each transaction counts what it deletes, unless that is switched off, or the partition's access method does not.
--
-- Most UPDATEs need not ask: a trigger trusts its tables if no other function is running (its context is one line) and
-- the client's text has neither the word MERGE nor EXECUTE, which runs a prepared MERGE.
create or replace function tidegate.may_have_moved(root oid) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return current_setting('track_counts') <> 'on' or exists (
        with recursive partition (oid) as (
            select root union select i.inhrelid from pg_inherits i join partition p on i.inhparent = p.oid)
        select from partition p join pg_class c on c.oid = p.oid left join pg_am m on m.oid = c.relam
        where c.relkind = 'r' and m.amname <> 'heap' or pg_stat_get_xact_tuples_deleted(p.oid) > 0);
end $$;

-- Makes the function for a trigger and returns its name: what notes a statement's change, in the writer's
-- transaction, which it must never make fail. Every write pays for it. So it is made for the columns that
-- changes are told by, and for a single row does no more than copy their values into the log; what the table
-- and its columns are called is found by who reads that (`tidegate.named`).
--
-- event: `insert`, `update`, `delete` or `truncate`.
-- numbers: of the columns, as the catalog has them, which a rename does not change.
-- places: theirs among the columns that there are. Whatever a column is called, a statement can read it by that.
-- most: how many rows of a statement are told one by one, at most; and as long as they have no more than 10,000 keys of a
-- megabyte together.
-- partitioned: whether the statement can move rows to other partitions (see `tidegate.may_have_moved`).
--
-- Where the limit is zero, the trigger asks for no transition tables: they would hold all rows of a statement, in
-- temporary files beyond work_mem, so that a large statement would fail at temp_file_limit. Then each statement counts as a
-- change of all rows, also one that changes none.
--
-- The function has no search_path of its own, which takes as long as to write the row; so it names the schema
-- of all that it uses: functions, operators and types, which a writer could have others of.
--
-- A deferred trigger, as the log has, is an error within a security-restricted operation (REFRESH MATERIALIZED VIEW, an
-- index's expression), and nothing tells a function whether it runs in one. UNLISTEN is refused there, and does nothing
-- elsewhere: its channel is none. After LISTEN in the same session it would keep a transaction from being prepared, so it
-- is taken back where transactions can be. It costs a write a microsecond.
drop function if exists tidegate.note(text, int2[], int2[], int);
create or replace function tidegate.note(event text, numbers int2[], places int2[], most int, partitioned boolean)
returns text
language plpgsql set search_path = pg_catalog, pg_temp as $note$
declare
    suffix text := case when event = 'truncate' then '' when most = 0 then '_all' else coalesce((
        select '_' || string_agg(number || case when place <> number then 'at' || place else '' end, '_')
        from unnest(numbers, places) c (number, place)), '') || '_of_' || most end
        || case when partitioned then '_partitioned' else '' end;
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
    --
    -- All values of more than 2,000 bytes share one key (`>`): neither they nor their hashes may be computed here, since
    -- unpacking a value takes memory that the write itself does not take. The size as it is stored is known without
    -- reading the value. One that is longer and was compressed to less is noted as it is, and shortened by who reads
    -- that: each function that is called here costs a write a quarter of a microsecond.
    value text := $$case when %%1$s_rows.%1$I is null then %2$L
                    when pg_catalog.pg_column_size(%%1$s_rows.%1$I) operator(pg_catalog.>) 2000 then %4$L
                    else pg_catalog.concat(%3$L, %%1$s_rows.%1$I) end$$;
    -- What is noted of a single row, and from what. An UPDATE compares the keys of old and new, so they are computed
    -- first (`offset 0` has the planner not compute them anew at each use).
    single text;
    single_source text;
    body text;
begin
    select string_agg(format(value, c, key, key || '=', key || '>'), $$,
                $$)
        into value
        from (select 'tidegate ' || place, number || '/' || place
            from unnest(numbers, places) p (number, place)) columns (c, key);
    if event = 'update' and cardinality(numbers) > 0 then
        select string_agg(format('new_keys.k%s', place), ', ') || $$,
                $$ || string_agg(format('case when old_keys.k%1$s operator(pg_catalog.<>) new_keys.k%1$s then old_keys.k%1$s end',
                place), $$,
                $$)
            into single from unnest(places) place;
        single_source := (select string_agg(format('(select %s from %s offset 0) %s_keys (%s)', format(value, t),
                format(source, t), t, (select string_agg(format('k%s', place), ', ') from unnest(places) place)), $$,
            $$) from unnest(tables) t);
    else
        single := format(value, tables[1]);
        single_source := (select string_agg(format(source, t), $$,
            $$) from unnest(tables) t);
    end if;
    body := case when event = 'truncate' or most = 0 then $$
    insert into tidegate.log (relation, tags) values (tg_relid, array['', '!']);$$
    else format($$
    insert into tidegate.log (relation, tags)
        select tg_relid, array[%1$s]
        from %2$s
        where not exists (select from tidegate_%3$s offset 1);
    if not found then
        insert into tidegate.log (relation, tags)
            select tg_relid, case when many.rows operator(pg_catalog.>) %5$s then array['', '!'] else (
                select case when pg_catalog.count(*) operator(pg_catalog.>) 10000
                        or pg_catalog.sum(pg_catalog.octet_length(k)) operator(pg_catalog.>) 1000000
                    then array['', '!'] else pg_catalog.array_agg(k) end
                from (
                    select '' union select k from (%4$s) s (k) where k is not null limit 10001
                ) keys (k)) end
            from (select pg_catalog.count(*) from (
                select from tidegate_%3$s limit %6$s) r) many (rows)
            where many.rows operator(pg_catalog.>) 0;
    end if;$$,
        concat_ws($$,
                $$, $$''$$, single),
        single_source,
        touched,
        (select string_agg(format($$
                    select pg_catalog.unnest(array[%s]::pg_catalog.text[])
                    from %s$$, format(value, t), format(source, t)), ' union all') from unnest(tables) t),
        most, most::bigint + 1)
    end;
    if partitioned then
        body := $$
    get diagnostics context = pg_context;
    if (pg_catalog.strpos(context, pg_catalog.chr(10)) operator(pg_catalog.>) 0
            or coalesce(pg_catalog.current_query() operator(pg_catalog.~*) 'merge|execute' collate pg_catalog."C", true))
        and tidegate.may_have_moved(tg_relid)
    then
        insert into tidegate.log (relation, tags) values (tg_relid, array['', '!']);
    else$$ || body || $$
    end if;$$;
    end if;
    body := format($$
#variable_conflict use_variable
declare%s
    -- Set within a security-restricted operation.
    wish pg_catalog.text;
begin
    begin
        unlisten tidegate_nothing;
        if pg_catalog.current_setting('max_prepared_transactions') operator(pg_catalog.<>) '0' then
            raise exception 'taken back';
        end if;
    exception
        when insufficient_privilege then wish := tidegate.wake_at_once();
        when others then null;
    end;%s
    if wish is not null then
        perform tidegate.wake_at_commit(wish);
    end if;
    return null;
end$$, case when partitioned then $$
    context pg_catalog.text;$$ end, body);
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
