-- Which history of positions this is: a number that another one is drawn for after each recovery. That may have lost WAL
-- which was written and not yet flushed, and with it positions and transaction numbers that come a second time, on the
-- same timeline. So may a restored storage snapshot.
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

-- Begins another history, if there was a recovery since the last began. Each node asks for it before it reads the log.
create or replace function tidegate.begin_history() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    -- Aurora keeps unlogged tables through a crash. There, each start may be one.
    keeps boolean := to_regproc('aurora_version') is not null;
begin
    if exists (select from tidegate.uninterrupted where not keeps or started = pg_postmaster_start_time()) then
        return;
    end if;
    lock table tidegate.uninterrupted in exclusive mode;
    if not exists (select from tidegate.uninterrupted where not keeps or started = pg_postmaster_start_time()) then
        perform setval('tidegate.history', 1 + (random() * 1e15)::bigint);
        delete from tidegate.uninterrupted;
        insert into tidegate.uninterrupted default values;
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
        where p.oid = 'tidegate.mark(interval, bigint)'::pg_catalog.regprocedure::oid and acl.grantee <> 0::oid
    loop
        execute pg_catalog.format('grant execute on function tidegate.begin_history() to %s', follower);
    end loop;
end $$;
