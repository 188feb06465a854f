with tracked as materialized (
    select oid, tgrelid, xmin, tgenabled from pg_trigger
    where tgname like 'tidegate\_%'
        and tgfoid in (select oid from pg_proc where pronamespace = to_regnamespace('tidegate'))
),
parts (part) as (
    select hashtextextended(concat_ws(' ', 'class', oid, relname, relnamespace, relkind,
        relpersistence, relispartition, relrowsecurity, relforcerowsecurity, relowner), 0)
    from pg_class where oid >= 16384 and relkind in ('r', 'p', 'v', 'm', 'f')
        and relpersistence <> 't'
    union all
    select hashtextextended(concat_ws(' ', 'trigger', oid, xmin), 0) from tracked
    union all
    select hashtextextended(concat_ws(' ', 'column', attrelid, attnum, xmin), 0)
    from pg_attribute where attnum > 0 and attrelid in (select tgrelid from tracked)
    union all
    select hashtextextended(concat_ws(' ', 'rule', oid, xmin), 0)
    from pg_rewrite where oid >= 16384
    union all
    select hashtextextended(concat_ws(' ', 'subscription', srsubid, srrelid), 0) from pg_subscription_rel
    union all
    select hashtextextended(concat_ws(' ', 'parent', inhrelid, inhparent), 0) from pg_inherits
    union all
    select hashtextextended(concat_ws(' ', 'policy', oid, xmin), 0) from pg_policy
    union all
    select hashtextextended(concat_ws(' ', 'function', oid, xmin), 0)
    from pg_proc where oid >= 16384
    union all
    select hashtextextended(concat_ws(' ', 'operator', oid, xmin), 0)
    from pg_operator where oid >= 16384
    union all
    select hashtextextended(concat_ws(' ', 'cast', oid, xmin), 0)
    from pg_cast where oid >= 16384
    union all
    select hashtextextended(concat_ws(' ', 'schema', oid, nspname), 0)
    from pg_namespace where nspname !~ '^pg_'
)
select hashtextextended(coalesce(sum(part), 0)::text, 0) from parts
