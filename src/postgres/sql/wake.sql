-- NOTIFY only wakes the listener: without it, the listener reads the log at its next heartbeat.
--
-- NOTIFY is suppressed in these cases:
-- - while another transaction sends one, since senders queue on a server-wide lock. A transaction that applies changes as a
--   replica neither takes this lock nor heeds it: its trigger is not deferred, so it would hold the lock until its end;
-- - while a listener holds the lock: it is about to poll the log anyway, and then wakes the other listeners;
-- - if max_prepared_transactions is not 0, since NOTIFY makes PREPARE TRANSACTION fail, and a prepared transaction would
--   keep the lock. A role that prepares none can set `tidegate.notify = on`;
-- - if the queue is half full because of an idle listener, since a full queue makes commits fail.
--
-- Every write pays for this function, so it sets no search_path. Instead it qualifies every function, operator and type
-- with its schema, since a writer's search path may lead to others.
create or replace function tidegate.wake() returns trigger
language plpgsql security definer as $$
declare
    wish pg_catalog.text := coalesce(pg_catalog.current_setting('tidegate.notify', true), '');
    sent pg_catalog.text;
begin
    if wish operator(pg_catalog.<>) 'off'
        and (wish operator(pg_catalog.=) 'on'
            or pg_catalog.current_setting('max_prepared_transactions') operator(pg_catalog.=) '0')
        and (tg_name operator(pg_catalog.=) 'wake_applied'
            or pg_catalog.pg_try_advisory_xact_lock(8388065642915395431))
        and pg_catalog.pg_notification_queue_usage() operator(pg_catalog.<) 0.5
    then
        -- An assignment is faster than a PERFORM statement.
        sent := pg_catalog.pg_notify('tidegate', '');
    end if;
    return null;
end $$;

-- Each log row queues one trigger event, and the first one of a transaction sends the notification for all. A WHEN
-- condition would be prepared again for each row, which takes longer than it would save.
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

-- Called before rows are written within a security-restricted operation, where a deferred trigger is an error. It sends the
-- notification itself, makes the trigger immediate, and switches the trigger's own notification off. It does not take the
-- lock, since a long transaction would hold it until its end. Returns the setting that `wake_at_commit` restores.
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
    -- The trigger does not exist.
    return wish;
end $$;

-- Undoes `wake_at_once`: defers the trigger to the commit again.
create or replace function tidegate.wake_at_commit(wish text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('tidegate.notify', wish, true);
    set constraints tidegate.wake deferred;
exception when others then
    null;
end $$;

-- Why commits don't reliably wake listeners, or NULL if they do.
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

-- Writers that the snapshot does not see, and that may commit without a notification because another transaction is sending
-- one. A snapshot lists only running transactions that are older than the newest completed one. So the other running
-- transactions are queried as well, and after that, whether a transaction has ended in the meantime.
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

-- Without these functions, nodes of a version that can't read the current log format fail to poll it, and so bypass their
-- cached entries.
drop function if exists tidegate.in_progress(pg_snapshot);
drop function if exists tidegate.at_work(pg_snapshot);
