-- Which history of positions this is: a number that another one is drawn for after each recovery. That may have lost WAL
-- which was written and not yet flushed, and with it positions and transaction numbers that come a second time, on the
-- same timeline. So may a restored storage snapshot.
--
-- It is a sequence, since what it says can be read anywhere, on standbys too, without a right to the schema.
create sequence if not exists tidegate.history;
grant select on sequence tidegate.history to public;

-- A recovery empties an unlogged table (CREATE TABLE, UNLOGGED): after a crash, when a standby is promoted, and where
-- a backup is started. There is one row as long as there was none.
create unlogged table if not exists tidegate.uninterrupted (since timestamptz not null default clock_timestamp());

-- Begins another history, if there was a recovery since the last began. Each node asks for it before it reads the log.
create or replace function tidegate.begin_history() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from tidegate.uninterrupted) then
        return;
    end if;
    lock table tidegate.uninterrupted in exclusive mode;
    if not exists (select from tidegate.uninterrupted) then
        perform setval('tidegate.history', 1 + (random() * 1e15)::bigint);
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
        where p.oid = 'tidegate.mark(interval, bigint)'::pg_catalog.regprocedure and acl.grantee <> 0
    loop
        execute pg_catalog.format('grant execute on function tidegate.begin_history() to %s', follower);
    end loop;
end $$;
