-- Creates the event triggers, if the role may do so: a superuser, or rds_superuser on RDS. It runs at each install, since
-- the installing role may be a different one each time. If everything is in place, it changes and locks nothing.
--
-- The function runs with its owner's rights at each DDL statement in the database. So it is created only if the same role
-- owns the schema and the table that the function writes to: another owner of the schema could replace that table by one
-- with a trigger of their own.
do $tidegate$
declare
    -- This must never make a schema change fail. If the change can't be recorded, a warning is raised.
    body text := $body$
declare
    matters boolean := true;
    -- Types of objects that can't affect a result. The command tag does not decide: ALTER INDEX renames tables too.
    unseen constant text[] := array['index', 'statistics object', 'default acl', 'publication', 'publication relation',
        'publication namespace', 'user mapping', 'large object'];
    -- Nodes learn of the changes of its tables by this publication.
    ours constant text := '^(.* in publication )?tidegate$';
begin
    begin
        if tg_event = 'sql_drop' then
            -- An object that belongs to a temporary table, such as a policy, is not marked as temporary, but its
            -- address names the schema pg_temp.
            matters := exists (select from pg_event_trigger_dropped_objects() d
                where not d.is_temporary and d.address_names[1] is distinct from 'pg_temp'
                    and not (d.object_type = 'cast' and d.object_identity ~ E'\\mpg_temp\\.')
                    and ((d.object_type = any (unseen)) is not true or d.object_identity ~ ours));
        else
            matters := exists (select from (
                    -- `offset 0` applies these conditions first: some other rows have no object to identify.
                    select * from pg_event_trigger_ddl_commands() c
                    where c.command_tag not in ('GRANT', 'REVOKE', 'COMMENT', 'ALTER DEFAULT PRIVILEGES',
                            'REFRESH MATERIALIZED VIEW')
                        and ((c.object_type = any (unseen)) is not true or c.object_identity ~ ours)
                    offset 0) c
                where c.schema_name is distinct from 'pg_temp'
                    and (pg_identify_object_as_address(c.classid, c.objid, 0)).object_names[1]
                        is distinct from 'pg_temp'
                    and not (c.object_type = 'cast' and c.object_identity ~ E'\\mpg_temp\\.'));
        end if;
    exception when others then
        -- On any error, record the change to be safe.
    end;
    if matters then
        -- Don't check for an existing row of this transaction: of two SERIALIZABLE transactions that read and write
        -- the table, one would fail.
        insert into tidegate.ddl default values;
        -- As tidegate.wake() does, but without its lock, even if another transaction is sending: this transaction may
        -- be long, and would hold the lock until its end.
        if coalesce(current_setting('tidegate.notify', true), '') <> 'off'
            and (current_setting('tidegate.notify', true) = 'on'
                or current_setting('max_prepared_transactions') = '0')
            and pg_notification_queue_usage() < 0.5
        then
            perform pg_notify('tidegate', '');
        end if;
    end if;
exception when others then
    raise warning 'tidegate could not record this schema change: %', sqlerrm
        using hint = 'Cached results may be of the previous schema: restart the nodes, or drop the event triggers '
            '(tidegate status says more).';
end $body$;
    -- A command that made a foreign table a partition must not make writes to its parent fail.
    spare text := $body$
begin
    -- Skip the DDL that this function runs itself.
    if coalesce(current_setting('tidegate.sparing', true), '') <> 'on' then
        perform set_config('tidegate.sparing', 'on', true);
        perform tidegate.spare_foreign();
        perform set_config('tidegate.sparing', '', true);
    end if;
exception when undefined_function or invalid_schema_name then
    -- Nothing is tracked any more.
when others then
    raise warning 'writes to a table will fail, since a foreign table was added below it: %', sqlerrm
        using hint = 'Run `tidegate uninstall` for the table, or detach the foreign table.';
end $body$;
    -- A partition that was added to a published table must not make writes to it fail.
    publish text := $body$
begin
    if coalesce(current_setting('tidegate.sparing', true), '') <> 'on' then
        perform set_config('tidegate.sparing', 'on', true);
        perform tidegate.publish_partitions(array(
            select c.objid from pg_event_trigger_ddl_commands() c where c.classid = 'pg_class'::regclass));
        perform set_config('tidegate.sparing', '', true);
    end if;
exception when undefined_function or invalid_schema_name then
    -- Nothing is tracked any more.
when others then
    raise warning 'writes to a new partition may fail, since it has no replica identity: %', sqlerrm
        using hint = 'Run `tidegate install --source wal` for the table.';
end $body$;
    wanted record;
begin
    if tidegate.no_event_trigger() is null and (select pg_catalog.count(*) from pg_catalog.pg_proc
        where (oid = pg_catalog.to_regproc('tidegate.note_ddl')::oid and prosrc = body)
            or (oid = pg_catalog.to_regproc('tidegate.note_foreign')::oid and prosrc = spare)
            or (oid = pg_catalog.to_regproc('tidegate.note_partition')::oid and prosrc = publish)) = 3
        and (select pg_catalog.count(*) from pg_catalog.pg_event_trigger
            where evtname in ('tidegate_foreign', 'tidegate_partition') and evtenabled = 'A') = 2
    then
        return;
    end if;
    if (select pg_catalog.count(*) from pg_catalog.pg_namespace n
            join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = 'ddl'
            join pg_catalog.pg_roles r on r.oid = n.nspowner and r.oid = c.relowner
            where n.nspname = 'tidegate' and r.rolname = current_user) = 0
    then
        return;
    end if;
    execute format('create or replace function tidegate.note_ddl() returns event_trigger language plpgsql '
        'security definer set search_path = pg_catalog, pg_temp as %L', body);
    execute format('create or replace function tidegate.note_foreign() returns event_trigger language plpgsql '
        'security definer set search_path = pg_catalog, pg_temp as %L', spare);
    execute format('create or replace function tidegate.note_partition() returns event_trigger language plpgsql '
        'security definer set search_path = pg_catalog, pg_temp as %L', publish);
    revoke all on function tidegate.note_ddl(), tidegate.note_foreign(), tidegate.note_partition() from public;
    for wanted in
        select * from (values ('tidegate_ddl', 'ddl_command_end', 'note_ddl'), ('tidegate_drop', 'sql_drop', 'note_ddl'),
            ('tidegate_foreign', 'ddl_command_end when tag in (''ALTER TABLE'', ''CREATE FOREIGN TABLE'', '
                '''ALTER FOREIGN TABLE'')', 'note_foreign'),
            ('tidegate_partition', 'ddl_command_end when tag in (''ALTER TABLE'', ''CREATE TABLE'', '
                '''CREATE SCHEMA'')', 'note_partition')) w (name, event, function)
    loop
        if not exists (select from pg_catalog.pg_event_trigger where evtname = wanted.name) then
            execute format('create event trigger %I on %s execute function tidegate.%I()', wanted.name, wanted.event,
                wanted.function);
        end if;
        execute format('alter event trigger %I enable always', wanted.name);
    end loop;
exception when insufficient_privilege then
    -- Without event triggers, nodes find schema changes by comparing the catalogue.
    null;
end $tidegate$;
