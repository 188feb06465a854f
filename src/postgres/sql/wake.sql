-- NOTIFY only wakes: the listener reads the log in any case, a heartbeat later.
--
-- It is sent by one transaction at a time, since senders queue on a lock of the whole server; and by none
-- while a listener holds the lock, which is going to look anyway, and wakes the others when it does. Not
-- where transactions can be prepared: NOTIFY makes PREPARE TRANSACTION fail, and a prepared
-- transaction would keep the lock. There, `tidegate.notify = on` vouches for those who have it set.
-- And not into a queue that some idle listener fills up: a full one makes commits fail.
--
-- Each write pays for it, so it has no search_path of its own, and names the schema of all that it uses:
-- functions, operators and types, which a writer could have others of.
create or replace function tidegate.wake() returns trigger
language plpgsql security definer as $$
declare
    wish pg_catalog.text := coalesce(pg_catalog.current_setting('tidegate.notify', true), '');
    sent pg_catalog.text;
begin
    if wish operator(pg_catalog.<>) 'off'
        and (wish operator(pg_catalog.=) 'on'
            or pg_catalog.current_setting('max_prepared_transactions') operator(pg_catalog.=) '0')
        and pg_catalog.pg_try_advisory_xact_lock(8388065642915395431)
        and pg_catalog.pg_notification_queue_usage() operator(pg_catalog.<) 0.5
    then
        -- Takes less than a statement.
        sent := pg_catalog.pg_notify('tidegate', '');
    end if;
    return null;
end $$;

-- Each row queues one, and the first of a transaction sends what all would: a condition would be made ready to be
-- looked at anew for each row, which takes longer than what it would save.
do $$ begin
    if exists (select from pg_catalog.pg_trigger
        where tgrelid = 'tidegate.log'::regclass and tgname = 'wake' and tgqual is not null)
    then
        drop trigger wake on tidegate.log;
    end if;
    if not exists (select from pg_catalog.pg_trigger
        where tgrelid = 'tidegate.log'::regclass and tgname = 'wake')
    then
        create constraint trigger wake after insert on tidegate.log
            deferrable initially deferred for each row execute function tidegate.wake();
    end if;
end $$;

-- For rows that are written within a security-restricted operation, where a deferred trigger is an error: the trigger
-- fires with each row, and does nothing, since the notification is sent here. Without the lock, which would be held to the
-- end of a transaction that may last for long. Returns what `wake_at_commit` needs.
create or replace function tidegate.wake_at_once() returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    wish text := coalesce(current_setting('tidegate.notify', true), '');
begin
    if wish <> 'off' and (wish = 'on' or current_setting('max_prepared_transactions') = '0')
        and pg_notification_queue_usage() < 0.5
    then
        perform pg_notify('tidegate', '');
    end if;
    perform set_config('tidegate.notify', 'off', true);
    set constraints tidegate.wake immediate;
    return wish;
exception when others then
    -- There is no such trigger.
    return wish;
end $$;

-- After that, lets the trigger wait for the commit again.
create or replace function tidegate.wake_at_commit(wish text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('tidegate.notify', wish, true);
    set constraints tidegate.wake deferred;
exception when others then
    null;
end $$;

-- Why wake-ups can't be counted on, or NULL if they can.
create or replace function tidegate.no_wakeups() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return case
        when current_setting('tidegate.notify', true) = 'off' then 'tidegate.notify is off'
        when exists (select from pg_db_role_setting where 'tidegate.notify=off' = any (setconfig))
            then 'tidegate.notify is off for a role or database'
        when not exists (select from pg_trigger where tgname = 'wake' and tgenabled in ('A', 'O')
                and tgrelid = 'tidegate.log'::regclass)
            or not exists (select from pg_trigger where tgname = 'wake_applied' and tgenabled in ('A', 'R')
                and tgrelid = 'tidegate.log'::regclass) then 'a trigger on tidegate.log is disabled'
        when current_setting('max_prepared_transactions') <> '0'
            and coalesce(current_setting('tidegate.notify', true), '') <> 'on'
            then 'max_prepared_transactions is not 0 and tidegate.notify is not on'
    end;
end $$;

-- Writers that a snapshot does not see and that may commit without a wake-up of their own, another
-- one's being under way. A snapshot lists those of them alone that are older than the newest
-- transaction to have ended, so the others are asked for; first those that run, then whether one
-- has ended meanwhile.
create or replace function tidegate.running_writers(seen pg_snapshot) returns bigint[]
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    next bigint := pg_snapshot_xmax(seen)::text::bigint;
    running bigint[] := array(select x::text::bigint from pg_snapshot_xip(seen) x);
begin
    -- These numbers have 32 bits and wrap around.
    running := running || array(
        select next + (backend_xid::text::bigint - next % 4294967296 + 6442450944) % 4294967296
            - 2147483648
        from pg_stat_get_activity(null) where backend_xid is not null);
    if pg_snapshot_xmax(pg_current_snapshot()) > pg_snapshot_xmax(seen) then
        running := running || (pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1);
    end if;
    return array(select distinct x from unnest(running) x order by x);
end $$;

-- Nodes of a version that can't read the log as it is now fail to, and then leave what is cached alone.
drop function if exists tidegate.in_progress(pg_snapshot);
drop function if exists tidegate.at_work(pg_snapshot);
