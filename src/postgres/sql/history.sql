-- The number of the current history of positions. A new number is drawn after each recovery, and in each copy of the
-- database. A recovery may lose WAL that was written but not yet flushed; its positions and transaction numbers are then
-- assigned a second time, on the same timeline. The same holds for a restored storage snapshot.
--
-- It is a sequence, since a sequence can be read anywhere, also on standbys, without a right to the schema. The number is
-- random, not incremented: it is visible before it is durable, and a number lost in another crash must not be reused.
create sequence if not exists tidegate.history;
grant select on sequence tidegate.history to public;

-- Detects recoveries: each one empties unlogged tables (CREATE TABLE, UNLOGGED), be it after a crash, at the promotion of a
-- standby, or at the start of a restored backup. As long as the row is there, no recovery has happened.
create unlogged table if not exists tidegate.uninterrupted (
    started timestamptz not null default pg_catalog.pg_postmaster_start_time()
);
-- Which database wrote the row. CREATE DATABASE copies the table from its template, and a dump holds it too.
-- ALTER TABLE would lock the table even if it has the column, and nodes read it on each new connection.
do $$ begin
    if not exists (select from pg_catalog.pg_attribute
        where attrelid = 'tidegate.uninterrupted'::regclass and attname = 'database' and not attisdropped)
    then
        alter table tidegate.uninterrupted add column database text;
    end if;
end $$;

-- Identifies this database, also against dropped ones: an oid can be reused (CREATE DATABASE, OID), so the row's xmin is
-- included. ALTER DATABASE and GRANT ON DATABASE therefore change the identity too, which invalidates all entries.
create or replace function tidegate.this_database() returns text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select concat_ws(' ', c.system_identifier, d.oid, d.xmin) from pg_control_system() c, pg_database d
    where d.datname = current_database();
end;

-- Begins a new history, if there was a recovery since the last one began, or if this is a copy of the database in which it
-- began. Each node calls it before it reads the log.
create or replace function tidegate.begin_history() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    -- Aurora preserves unlogged tables across a crash. There, every restart of the server counts as a recovery.
    keeps boolean := to_regproc('aurora_version') is not null;
    this text := tidegate.this_database();
begin
    if exists (select from tidegate.uninterrupted
        where database = this and (not keeps or started = pg_postmaster_start_time()))
    then
        return;
    end if;
    lock table tidegate.uninterrupted in exclusive mode;
    if not exists (select from tidegate.uninterrupted
        where database = this and (not keeps or started = pg_postmaster_start_time()))
    then
        perform setval('tidegate.history', 1 + (random() * 1e15)::bigint);
        delete from tidegate.uninterrupted;
        insert into tidegate.uninterrupted (database) values (this);
        -- Earlier marks belong to the previous history, and without a mark, nodes can't know what was trimmed.
        perform tidegate.mark('0', null);
    end if;
end $$;

-- Extends the grants of roles that may follow the log of an earlier version.
do $$
declare
    follower text;
begin
    for follower in
        select distinct acl.grantee::pg_catalog.regrole::text
        from pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) acl
        where p.oid = pg_catalog.to_regprocedure('tidegate.mark(interval, bigint)')::oid and acl.grantee <> 0::oid
    loop
        execute pg_catalog.format('grant execute on function tidegate.begin_history() to %s', follower);
    end loop;
end $$;
