-- Schema changes recorded by event triggers, keyed by their transaction. They are exact, follow the order of commits, and
-- include changes that were undone at once.
--
-- This is a separate table, since rows in the log queue a deferred trigger, and a table with pending trigger events can't
-- be dropped in the same transaction: a migration that changes a table and then drops the schema tidegate would fail.
create table if not exists tidegate.ddl (
    xid xid8 not null default pg_current_xact_id()
);

do $$ begin
    if pg_catalog.to_regclass('tidegate.ddl_xid') is null then
        create index ddl_xid on tidegate.ddl (xid);
        -- Required by a publication of all tables. The index is not unique, since a subscriber also has its own rows.
        alter table tidegate.ddl replica identity full;
    end if;
end $$;

-- Why event triggers don't record schema changes, or NULL if they do. Without them, nodes compare the catalogue.
create or replace function tidegate.no_event_trigger() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    enabled text[] := array(
        select e.evtenabled::text from pg_event_trigger e join pg_proc p on p.oid = e.evtfoid
        where p.pronamespace = 'tidegate'::regnamespace and p.proname = 'note_ddl'
            and e.evtevent in ('ddl_command_end', 'sql_drop') and e.evttags is null);
begin
    return case
        when cardinality(enabled) < 2
            then 'there is no event trigger: install as a superuser who owns the schema tidegate'
        when enabled <> '{A,A}' then 'an event trigger of tidegate is not enabled ALWAYS'
        when coalesce(current_setting('event_triggers', true), 'on') <> 'on'
            or exists (select from pg_db_role_setting, unnest(setconfig) s
                where starts_with(s, 'event_triggers=') and s <> 'event_triggers=on')
            then 'event_triggers is off'
    end;
end $$;

-- Whether a schema change that `seen` does not show is visible now. `reached` is an argument only so that its position is
-- taken before this check.
create or replace function tidegate.ddl_since(seen pg_snapshot, reached text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return exists (select from tidegate.ddl d
            where d.xid >= pg_snapshot_xmax(seen) and d.xid < pg_snapshot_xmax(pg_current_snapshot()))
        or exists (select from tidegate.ddl d where d.xid = any (array(
            select x from pg_snapshot_xip(seen) x where pg_visible_in_snapshot(x, (select pg_current_snapshot())))));
end $$;

-- Extends the grants of roles that may follow the log of an earlier version.
do $$
declare
    follower text;
begin
    for follower in
        select distinct acl.grantee::pg_catalog.regrole::text
        from pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) acl
        where p.oid = 'tidegate.mark(interval, bigint)'::pg_catalog.regprocedure::oid and acl.grantee <> 0::oid
    loop
        execute pg_catalog.format('grant select on tidegate.ddl to %s', follower);
        execute pg_catalog.format('grant execute on function tidegate.no_event_trigger() to %s', follower);
    end loop;
end $$;
