with recursive named as (
    select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where case n.nspname when 'public' then '' else n.nspname || '.' end || c.relname = $1
        and c.relkind not in ('i', 'I', 't', 'c', 'S')
    order by n.nspname <> 'public' limit 1
),
upwards (member) as (
    select oid from named union
    select i.inhparent from pg_inherits i, upwards u where i.inhrelid = u.member
),
root as (
    select member from upwards
    where not exists (select from pg_inherits where inhrelid = member) limit 1
),
family (member) as (
    select member from upwards union
    -- A temporary child is visible only to its own session.
    select i.inhrelid from pg_inherits i, family f, pg_class c
    where i.inhparent = f.member and c.oid = i.inhrelid and c.relpersistence <> 't'
)
select c.oid as root,
    case n.nspname when 'public' then '' else n.nspname || '.' end || c.relname as root_name,
    array(select case
            when f.relkind = 'v' then 'a view'
            when f.relkind = 'm' then 'a materialized view'
            when f.relkind = 'f' then 'a foreign table, or has one among its partitions'
            when f.relpersistence = 't' then 'a temporary table'
            else 'a table of the system' end
        from family join pg_class f on f.oid = member
        join pg_namespace fn on fn.oid = f.relnamespace
        where f.relkind not in ('r', 'p') or f.relpersistence = 't'
            or fn.nspname in ('pg_catalog', 'information_schema', 'tidegate')) as kinds,
    exists (select from pg_inherits where inhrelid in (select member from family)
        group by inhrelid having count(*) > 1) as several_parents,
    (select s.subname::text from pg_subscription_rel r join pg_subscription s on s.oid = r.srsubid
        where r.srrelid in (select member from family) order by 1 limit 1) as subscription
from root join pg_class c on c.oid = member join pg_namespace n on n.oid = c.relnamespace
