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
    where tgname in ('tidegate_insert'::name, 'tidegate_published'::name) and (select relpersistence <> 't' from pg_class where oid = tgrelid)
    union all
    select ev_class from pg_rewrite w
    where w.oid >= '16384'::oid and (select relkind = 'v' and relpersistence <> 't' from pg_class where oid = ev_class)
        -- Written so that each view's own dependencies are looked up, and not those on all tables for each view.
        and exists (select from pg_depend
            where classid = 'pg_rewrite'::regclass::oid and objid = w.oid and refclassid = 'pg_class'::regclass::oid
                and refobjid::int8 >= '16384'::int8 and refobjid <> ev_class
            offset 0)
),
-- The roles that may read any of these: the owners, those with a right to a relation or a column, those that may read
-- everything, and the database's owner, who is a member of pg_database_owner. Zero is PUBLIC. It looks at each relation
-- once: checking the rights of each role to each relation takes a minute if there are a thousand roles with settings and
-- ten thousand tables.
readers (role) as materialized (
    select relowner from readable join pg_class c on c.oid = relation
    union
    select grantee from readable join pg_class c on c.oid = relation, aclexplode(relacl)
    where privilege_type = 'SELECT'::text
    union
    select grantee from readable join pg_attribute on attrelid = relation, aclexplode(attacl)
    where attacl is not null and privilege_type = 'SELECT'::text
    union
    select oid from pg_roles where rolsuper or rolname = 'pg_read_all_data'::name
    union
    select datdba from pg_database where datname = current_database()
),
-- The roles with settings, and all that each can become.
becomes (setting, role) as materialized (
    with recursive becomes (setting, role) as (
        select setrole, setrole from pg_db_role_setting where setrole <> '0'::oid
        union
        select setting, m.roleid from becomes join pg_auth_members m on m.member = role
    )
    select setting, role from becomes
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
        and (setrole = '0'::oid
            -- Mostly, one role reads every relation, so a look at a few of them is enough.
            or setrole in (select setting from becomes cross join (select relation from readable limit 3) r
                where has_any_column_privilege(role, relation, 'select'::text))
            or exists (select from readers where role = '0'::oid)
            or setrole in (select setting from becomes join readers using (role)))
)
select snapshot, tidegate.no_event_trigger() is null as noted,
    case when snapshot is distinct from $1::text then (select coalesce(bit_xor(part), 0::int8) from parts) end as unnoted
from latest
