-- Called by the UPDATE trigger of a partitioned table: whether the statement may have moved rows to another partition
-- without showing them to the trigger. Postgres puts a row that MERGE moves into the transition tables of DELETE and
-- INSERT, and their triggers fire only if the MERGE has such actions. Moving a row deletes it from its partition, so a
-- transaction without deletes has moved nothing. Postgres counts each transaction's deletes, unless track_counts is off or
-- the partition's access method does not count them.
--
-- Most UPDATEs skip this call: the trigger trusts its transition tables if no other function is running (its context is
-- one line) and the client's text contains neither MERGE nor EXECUTE, which could run a prepared MERGE.
create or replace function tidegate.may_have_moved(root oid) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return current_setting('track_counts') <> 'on' or exists (
        with recursive partition (oid) as (
            select root union select i.inhrelid from pg_inherits i join partition p on i.inhparent = p.oid)
        select from partition p join pg_class c on c.oid = p.oid left join pg_am m on m.oid = c.relam
        where c.relkind = 'r' and m.amname <> 'heap' or pg_stat_get_xact_tuples_deleted(p.oid) > 0);
end $$;

-- Creates a trigger function and returns its name. The trigger function records a statement's change in the log, within
-- the writer's transaction, and must never make that transaction fail. Since every write pays for it, it is generated for
-- the columns that changes are keyed by, and for a single row only copies their values into the log. The reader of the
-- log finds the names of the table and its columns (`tidegate.named`).
--
-- event: `insert`, `update`, `delete` or `truncate`.
-- numbers: the columns' attnums in the catalog, which a rename does not change.
-- places: the columns' positions among the table's existing columns, by which the function reads them under any name.
-- most: the maximum number of rows of a statement that are recorded individually, if they have at most 10,000 keys and
-- 1,000,000 bytes of them together.
-- partitioned: whether the statement can move rows to other partitions (see `tidegate.may_have_moved`).
--
-- If `most` is zero, the trigger has no transition tables. These would hold all rows of a statement, in temporary files
-- beyond work_mem, and a large statement would fail at temp_file_limit. Without them, each statement counts as a change of
-- all rows, even one that changes none.
--
-- The function sets no search_path, since that would take as long as writing the row. Instead it qualifies every function,
-- operator and type that it uses with its schema, since a writer's search path may lead to others.
--
-- The log has a deferred trigger, which is an error within a security-restricted operation (REFRESH MATERIALIZED VIEW, an
-- index's expression). A function can't query whether it runs in one, so it tries UNLISTEN: Postgres refuses it there, and
-- elsewhere it has no effect, since nothing listens on that channel. After a LISTEN in the same session, UNLISTEN would
-- prevent PREPARE TRANSACTION, so it is rolled back if max_prepared_transactions is not 0. It adds a microsecond to a
-- write.
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
    -- The new rows of an INSERT, otherwise the old ones. An UPDATE may have fewer new rows than old ones, if a
    -- partition's trigger drops one.
    touched text := case event when 'insert' then 'new' else 'old' end;
    -- If columns are dropped later, the table may have fewer columns than the function reads: NULLs fill the gap. This is
    -- a join, since a join can have more columns than a select list.
    source text := coalesce((
        select format('(tidegate_%%1$s r cross join (select %s) p) %%1$s_rows (%s)',
            string_agg('null', ', '),
            string_agg(format('%I', 'tidegate ' || i), ', ' order by i))
        from generate_series(1, (select max(place) from unnest(places) place)) i
        having count(*) > 0), 'tidegate_%1$s %1$s_rows');
    -- NULL has a key too, so that a reader detects a column whose position has changed. concat uses the type's output
    -- function; a cast or a comparison could run a user's function.
    --
    -- All values of more than 2,000 bytes share one key (`>`). Neither such a value nor its hash may be computed here,
    -- since unpacking it takes memory that the write itself does not need. The stored size is known without reading the
    -- value. A longer value that compresses to 2,000 bytes or less is recorded in full, and the reader shortens it: each
    -- function called here adds a quarter of a microsecond to a write.
    value text := $$case when %%1$s_rows.%1$I is null then %2$L
                    when pg_catalog.pg_column_size(%%1$s_rows.%1$I) operator(pg_catalog.>) 2000 then %4$L
                    else pg_catalog.concat(%3$L, %%1$s_rows.%1$I) end$$;
    -- What is recorded for a single row, and the FROM list that it is computed from. An UPDATE compares old and new keys,
    -- so they are computed first (`offset 0` keeps the planner from recomputing them at each use).
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
        -- It runs with the rights of the log's owner, whichever role creates it.
        execute (select format('alter function tidegate.%I() owner to %I', name, pg_get_userbyid(relowner))
            from pg_class where oid = 'tidegate.log'::regclass);
    end if;
    return name;
end $note$;
