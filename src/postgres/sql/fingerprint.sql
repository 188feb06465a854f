-- A hash of what event triggers can't record: the event triggers themselves, partitions that are being detached (which
-- takes two transactions), rights on schemas, and the settings that connections start with.
--
-- $1: the snapshot of the previous read. If no transaction has ended since, nothing has changed, and nothing is read.
with latest as materialized (
    select pg_current_snapshot()::text as snapshot
),
-- Relations whose results can be cached: tracked tables, and views of tables, which are read with their owners' rights.
-- Left out are temporary relations, which any role may create, and views of no table, which any role may read, such as
-- those of extensions.
readable (relation) as materialized (
    select tgrelid from pg_trigger
    where tgname = 'tidegate_insert' and (select relpersistence <> 't' from pg_class where oid = tgrelid)
    union all
    select ev_class from pg_rewrite w
    where w.oid >= '16384'::oid and (select relkind = 'v' and relpersistence <> 't' from pg_class where oid = ev_class)
        and exists (select from pg_depend
            where classid = 'pg_rewrite'::regclass::oid and objid = w.oid and refclassid = 'pg_class'::regclass::oid
                and refobjid >= '16384'::oid and refobjid <> ev_class)
),
parts (part) as (
    select hashtextextended('trigger '::text || oid::text || ' '::text || xmin::text, 0::int8) from pg_event_trigger
    where evtfoid in (select oid from pg_proc where pronamespace = to_regnamespace('tidegate'::text)::oid)
    union all
    select hashtextextended('detached '::text || inhrelid::text || ' '::text || inhparent::text || ' '::text
        || xmin::text, 0::int8) from pg_inherits
    where inhdetachpending
    union all
    select hashtextextended('subscription '::text || srsubid::text || ' '::text || srrelid::text, 0::int8)
    from pg_subscription_rel
    union all
    -- A search path skips schemas that the role may not use. The rights are hashed, not the rows' xmin: any role that may
    -- use a schema can rewrite its row by a GRANT without effect.
    select hashtextextended('schema '::text || oid::text || ' '::text || nspacl::text, 0::int8) from pg_namespace
    where nspname !~ '^pg_'::text and nspacl is not null
    union all
    -- Any role may change its own settings. So only roles count that can read a relation above, or can become a role that
    -- can: SET ROLE preserves the settings.
    select hashtextextended('setting '::text || setdatabase::text || ' '::text || setrole::text || ' '::text
        || xmin::text, 0::int8) from pg_db_role_setting
    where setdatabase in ('0'::oid, (select oid from pg_database where datname = current_database()))
        and (setrole = '0'::oid or exists (
            with recursive roles (role) as (
                select setrole
                union
                select m.roleid from pg_auth_members m join roles on m.member = role
            )
            select from roles cross join readable where has_any_column_privilege(role, relation, 'select'::text)))
)
select snapshot, tidegate.no_event_trigger() is null as noted,
    case when snapshot is distinct from $1::text then (select coalesce(bit_xor(part), 0::int8) from parts) end as unnoted
from latest
