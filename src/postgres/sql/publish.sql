-- Tables whose changes are read from the write-ahead log: those of the publication `tidegate`. A trigger that never fires
-- shows by which columns changes are keyed, where every role can read it: a reader needs no right to this schema.
--
-- Partitions are published under their own names, since the server sends no TRUNCATE of a partition otherwise.
create or replace function tidegate.published() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    return null;
end $$;

-- The tables with that trigger, which anyone may give the same name, and its arguments: the replica identity that
-- `unpublish` restores (its letter, and for an index the oid), and the numbers of the columns.
do $$ begin
    -- Replacing the view would lock it.
    if pg_catalog.to_regclass('tidegate.published_tables') is null then
        create view tidegate.published_tables as
            select c.oid, c.oid::regclass as name, c.relkind, c.relispartition, c.relpersistence, c.relreplident, t.oid as trigger,
                pg_catalog.split_part(pg_catalog.encode(t.tgargs, 'escape'), E'\\000', 1) as identity,
                pg_catalog.split_part(pg_catalog.encode(t.tgargs, 'escape'), E'\\000', 2) as numbers,
                exists (select from pg_catalog.pg_publication_rel r join pg_catalog.pg_publication p on p.oid = r.prpubid
                    where p.pubname = 'tidegate' and r.prrelid = c.oid) as listed
            from pg_catalog.pg_class c left join pg_catalog.pg_trigger t on t.tgrelid = c.oid
                and t.tgname = 'tidegate_published' and t.tgfoid = 'tidegate.published()'::pg_catalog.regprocedure::oid;
        revoke all on tidegate.published_tables from public;
    end if;
end $$;

-- Publishes one table. All columns become the replica identity, so that the log has the old values of each column by which
-- changes are keyed. Returns whether it changed anything.
create or replace function tidegate.publish_member(member oid, columns text[]) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    it tidegate.published_tables;
    numbers text := array_to_string(array(select attnum from pg_attribute where attrelid = member
        and attname = any (columns) and attnum > 0 and not attisdropped order by 1), ' ');
    identity text;
    event text;
    changed boolean := false;
begin
    select * into it from tidegate.published_tables where oid = member;
    if it.numbers is distinct from numbers then
        identity := coalesce(it.identity, case it.relreplident
            when 'i' then (select 'i' || indexrelid from pg_index where indrelid = member and indisreplident)
            else it.relreplident::text end, 'd');
        execute format('create or replace trigger tidegate_published after insert on %s for each statement
            execute function tidegate.published(%L, %L)', it.name, identity, numbers);
        execute format('alter table only %s disable trigger tidegate_published', it.name);
        changed := true;
    end if;
    if it.relkind = 'r' and it.relreplident <> 'f' then
        execute format('alter table only %s replica identity full', it.name);
        changed := true;
    end if;
    foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
        if exists (select from pg_trigger where tgrelid = member and tgname = 'tidegate_' || event) then
            execute format('drop trigger %I on %s', 'tidegate_' || event, it.name);
            changed := true;
        end if;
    end loop;
    return changed;
end $$;

-- Publishes a root table and its descendants, instead of recording their changes by triggers. It changes only what differs,
-- so a second run takes no lock. If it changes something, it writes a log row that invalidates everything cached from these
-- tables.
create or replace function tidegate.publish(root oid, columns text[]) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    member tidegate.published_tables;
    wrong text;
    changed boolean := false;
    base text := tidegate.tag_of(root);
begin
    if current_setting('wal_level') <> 'logical' then
        raise exception 'wal_level is not logical' using errcode = 'object_not_in_prerequisite_state';
    end if;
    select case
            when c.relpersistence = 'u' then format('%s is unlogged: its changes are not in the write-ahead log', c.oid::regclass)
            when c.relkind = 'r' and m.amname <> 'heap'
                then format('%s has the access method %s, which may not write its changes for logical replication', c.oid::regclass, m.amname)
            when exists (select from pg_attribute where attrelid = c.oid and attgenerated = 'v')
                then format('%s has a virtual column, with which no replica identity can be full', c.oid::regclass)
            when exists (select from pg_publication_rel r where r.prrelid = c.oid and to_jsonb(r) ->> 'prattrs' is not null)
                then format('%s is in a publication with a column list, which a full replica identity would make fail', c.oid::regclass)
        end into wrong
        from tidegate.family(root) f (oid) join pg_class c on c.oid = f.oid left join pg_am m on m.oid = c.relam
        order by 1 limit 1;
    if wrong is not null then
        raise exception '%', wrong using errcode = 'feature_not_supported';
    end if;
    -- The event trigger for partitions must not do half of this meanwhile.
    perform set_config('tidegate.sparing', 'on', true);
    if not exists (select from pg_publication where pubname = 'tidegate') then
        -- Since Postgres 18, a full replica identity requires that stored generated columns are published.
        execute 'create publication tidegate with (publish_via_partition_root = false'
            || case when current_setting('server_version_num')::int >= 180000 then ', publish_generated_columns = stored' else '' end
            || ')';
        changed := true;
    end if;
    -- What a transaction writes before the table is in the publication is not delivered, even if it commits later. Only this
    -- waits for such transactions.
    for member in select p.* from tidegate.family(root) f (oid) join tidegate.published_tables p on p.oid = f.oid
        where p.relkind = 'r' and not exists (select from tidegate.delivered() d where d = p.oid) order by 1
    loop
        execute format('lock table only %s in share row exclusive mode', member.name);
    end loop;
    for member in select p.* from tidegate.family(root) f (oid) join tidegate.published_tables p on p.oid = f.oid order by 1 loop
        if tidegate.publish_member(member.oid, columns) then
            changed := true;
        end if;
        -- The partitions of a published table are published with it, those that are added later too.
        if not member.listed and (member.oid = root or not member.relispartition) then
            execute format('alter publication tidegate add table only %s', member.name);
            changed := true;
        end if;
    end loop;
    if changed then
        insert into tidegate.log (tags) values (array[base, base || '!']);
    end if;
    perform set_config('tidegate.sparing', '', true);
    return changed;
end $$;

-- The tables whose changes the publication delivers.
create or replace function tidegate.delivered() returns setof oid
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    with recursive delivered (member) as (
        select r.prrelid from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where p.pubname = 'tidegate'
        union select i.inhrelid from delivered d join pg_inherits i on i.inhparent = d.member and not i.inhdetachpending
            join pg_class c on c.oid = i.inhrelid and c.relispartition)
    select member from delivered;
end;

-- Undoes `publish`, and returns whether there was something to undo.
create or replace function tidegate.unpublish(root oid) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    member tidegate.published_tables;
    changed boolean := false;
begin
    perform set_config('tidegate.sparing', 'on', true);
    for member in select p.* from tidegate.family(root) f (oid) join tidegate.published_tables p on p.oid = f.oid
        where p.listed or p.trigger is not null order by 1
    loop
        changed := true;
        if member.listed then
            execute format('alter publication tidegate drop table only %s', member.name);
        end if;
        continue when member.trigger is null;
        if member.relkind = 'r' and member.relreplident = 'f' then
            begin
                case left(member.identity, 1)
                    when 'd' then execute format('alter table only %s replica identity default', member.name);
                    when 'n' then execute format('alter table only %s replica identity nothing', member.name);
                    when 'i' then execute format('alter table only %s replica identity using index %I', member.name, (
                        select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid
                        where i.indrelid = member.oid and i.indexrelid::text = substr(member.identity, 2)));
                    else null;
                end case;
            exception when others then
                raise warning 'the replica identity of % stays FULL: %', member.name, sqlerrm;
            end;
        end if;
        execute format('drop trigger tidegate_published on %s', member.name);
    end loop;
    perform set_config('tidegate.sparing', '', true);
    if not exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
        where p.pubname = 'tidegate')
    then
        drop publication if exists tidegate;
        perform tidegate.drop_slots();
    end if;
    return changed;
end $$;

-- Drops the replication slots of nodes that have stopped: with one, no server starts with wal_level = replica, and it retains
-- write-ahead log. Nodes that run drop theirs.
create or replace function tidegate.drop_slots() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    slot text;
begin
    for slot in select slot_name from pg_replication_slots
        where slot_name like 'tidegate\_kept\_%' and database = current_database() and active_pid is null
    loop
        begin
            perform pg_drop_replication_slot(slot);
        exception when insufficient_privilege or object_in_use or undefined_object then
            raise warning 'a replication slot of Tidegate is left: select pg_drop_replication_slot(%)', quote_literal(slot);
        end;
    end loop;
end $$;

-- Undoes `publish` for all tables.
create or replace function tidegate.unpublish_all() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    root oid;
begin
    for root in select p.oid from tidegate.published_tables p where (p.trigger is not null or p.listed)
        and not exists (select from pg_inherits where inhrelid = p.oid) order by 1
    loop
        perform tidegate.unpublish(root);
    end loop;
    -- Children that have several parents, or none any more.
    for root in select p.oid from tidegate.published_tables p where p.trigger is not null or p.listed order by 1 loop
        perform tidegate.unpublish(root);
    end loop;
    drop publication if exists tidegate;
    perform tidegate.drop_slots();
end $$;

-- Gives partitions that a DDL command has added to published tables what `publish` gives the others. Without a replica
-- identity, UPDATE and DELETE of a published table without a primary key fail. lock_timeout keeps the command, and other
-- writers behind it, from waiting long.
create or replace function tidegate.publish_partitions(altered oid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
    added record;
begin
    for added in
        with recursive up (start, member) as (
            select a, a from unnest(altered) a
            union select u.start, i.inhparent from up u join pg_inherits i on i.inhrelid = u.member
        ), down (root, member) as (
            select p.oid, p.oid from tidegate.published_tables p where p.trigger is not null and p.listed
                and p.relkind = 'p' and p.oid in (select member from up)
            union select d.root, i.inhrelid from down d join pg_inherits i on i.inhparent = d.member
                join pg_class c on c.oid = i.inhrelid and c.relispartition
        )
        select p.oid, array(select a.attname::text from tidegate.published_tables r join pg_attribute a
                on a.attrelid = r.oid and not a.attisdropped and a.attnum::text = any (string_to_array(r.numbers, ' '))
                where r.oid = d.root) as columns
        from down d join tidegate.published_tables p on p.oid = d.member
        where p.trigger is null and p.relpersistence = 'p' and p.relkind in ('r', 'p')
    loop
        perform tidegate.publish_member(added.oid, added.columns);
    end loop;
end $$;
