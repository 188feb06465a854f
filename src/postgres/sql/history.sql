-- Which history of positions this is: a number that another one is drawn for after each recovery, and in each copy of the
-- database. A recovery may have lost WAL which was written and not yet flushed, and with it positions and transaction
-- numbers that come a second time, on the same timeline. So may a restored storage snapshot.
--
-- It is a sequence, since what it says can be read anywhere, on standbys too, without a right to the schema. It is drawn
-- and not counted up: it is seen before it is safe, and what another crash takes back must not come again.
create sequence if not exists tidegate.history;
grant select on sequence tidegate.history to public;

-- A recovery empties an unlogged table (CREATE TABLE, UNLOGGED): after a crash, when a standby is promoted, and where
-- a backup is started. There is a row as long as there was none.
create unlogged table if not exists tidegate.uninterrupted (
    started timestamptz not null default pg_catalog.pg_postmaster_start_time()
);
-- Which database wrote the row. CREATE DATABASE copies the table from its template, and a dump holds it too.
alter table tidegate.uninterrupted add column if not exists database text;

-- This database, apart from each that was dropped: an oid can be had again (CREATE DATABASE, OID). What is done to the
-- database as such (ALTER DATABASE, GRANT ON DATABASE) makes it another one as well, which costs its entries.
create or replace function tidegate.this_database() returns text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select concat_ws(' ', c.system_identifier, d.oid, d.xmin) from pg_control_system() c, pg_database d
    where d.datname = current_database();
end;

-- Begins another history, if there was a recovery since the last began, or this is a copy of the database in which it
-- did. Each node asks for it before it reads the log.
create or replace function tidegate.begin_history() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    -- Aurora keeps unlogged tables through a crash. There, each start may be one.
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
        -- Those of before are of another history, and without one nobody knows what was trimmed.
        perform tidegate.mark('0', null);
    end if;
end $$;

-- Who follows the log of an earlier version goes on to.
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
