-- NOTIFY only wakes: the listener reads the log in any case, a heartbeat later.
--
-- It is sent by one transaction at a time, since senders queue on a lock of the whole server. Not
-- where transactions can be prepared: NOTIFY makes PREPARE TRANSACTION fail, and a prepared
-- transaction would keep the lock. There, `tidegate.notify = on` vouches for those who have it set.
-- And not into a queue that some idle listener fills up: a full one makes commits fail.
create or replace function tidegate.wake() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    wish text := coalesce(current_setting('tidegate.notify', true), '');
begin
    if wish <> 'off'
        and (wish = 'on' or current_setting('max_prepared_transactions') = '0')
        and pg_notification_queue_usage() < 0.5
        and pg_try_advisory_xact_lock(8388065642915395431)
    then
        perform pg_notify('tidegate', '');
    end if;
    return null;
end $$;

do $$ begin
    if not exists (select from pg_catalog.pg_trigger
        where tgrelid = 'tidegate.log'::regclass and tgname = 'wake')
    then
        create constraint trigger wake after insert on tidegate.log
            deferrable initially deferred for each row
            when (current_setting('tidegate.queued', true)
                is distinct from pg_current_xact_id()::text)
            execute function tidegate.wake();
        alter table tidegate.log enable always trigger wake;
    end if;
end $$;

-- Why wake-ups can't be counted on, or NULL if they can.
create or replace function tidegate.no_wakeups() returns text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select case
        when current_setting('tidegate.notify', true) = 'off' then 'tidegate.notify is off'
        when exists (select from pg_db_role_setting where 'tidegate.notify=off' = any (setconfig))
            then 'tidegate.notify is off for a role or database'
        when not exists (select from pg_trigger where tgname = 'wake' and tgenabled = 'A'
            and tgrelid = 'tidegate.log'::regclass) then 'the trigger on tidegate.log is disabled'
        when current_setting('max_prepared_transactions') <> '0'
            and coalesce(current_setting('tidegate.notify', true), '') <> 'on'
            then 'max_prepared_transactions is not 0 and tidegate.notify is not on'
    end;
end;
