-- What no event trigger can note of the schema: the event triggers themselves, partitions that are being detached, which
-- takes two transactions, and settings that connections begin with.
--
-- $1: the snapshot at the last look. If none has ended since, all is as it was, and nothing is read.
with latest as materialized (
    select pg_current_snapshot()::text as snapshot
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
    -- Any role may set its own, so only those count that can read what may be cached.
    select hashtextextended('setting '::text || setdatabase::text || ' '::text || setrole::text || ' '::text
        || xmin::text, 0::int8) from pg_db_role_setting s
    where setdatabase in ('0'::oid, (select oid from pg_database where datname = current_database()))
        and (setrole = '0'::oid or exists (select from pg_trigger
            where tgname = 'tidegate_insert' and has_any_column_privilege(setrole, tgrelid, 'select'::text)))
)
select snapshot, tidegate.no_event_trigger() is null as noted,
    case when snapshot is distinct from $1::text then (select coalesce(bit_xor(part), 0::int8) from parts) end as unnoted
from latest
