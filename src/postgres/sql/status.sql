with recursive tracked as (
    select tgrelid, tgname, tgenabled::text as enabled, tgoldtable is not null or tgnewtable is not null as transitions,
        pg_catalog.string_to_array(pg_catalog.split_part(pg_catalog.encode(tgargs, 'escape'), E'\\000', 2), ' ') as numbers,
        -- An earlier version's have none.
        case when tgnargs > 2 then pg_catalog.split_part(pg_catalog.encode(tgargs, 'escape'), E'\\000', 3) end as places
    from pg_trigger where pg_catalog.starts_with(tgname::text, 'tidegate_')
        and tgfoid in (select oid from pg_proc where pronamespace = 'tidegate'::regnamespace::oid)
),
upwards (start, member) as (
    select tgrelid, tgrelid from tracked union
    select u.start, i.inhparent from upwards u join pg_inherits i on i.inhrelid = u.member
),
roots as (
    select distinct member as root from upwards
    where not exists (select from pg_inherits where inhrelid = member)
),
family (root, member) as (
    select root, root from roots union
    select f.root, i.inhrelid from family f join pg_inherits i on i.inhparent = f.member
    join pg_class c on c.oid = i.inhrelid and c.relpersistence <> 't'
),
delivered (oid) as (
    -- As tables.rs decides whether reads may rely on it.
    select r.prrelid from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    where p.pubname = 'tidegate' and p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate and not p.pubviaroot
        and to_jsonb(r) ->> 'prqual' is null
    union select i.inhrelid from delivered d join pg_inherits i on i.inhparent = d.oid and not i.inhdetachpending
    join pg_class c on c.oid = i.inhrelid and c.relispartition
),
above_foreign (root, member) as (
    select f.root, i.inhparent from family f join pg_foreign_table t on t.ftrelid = f.member
        join pg_inherits i on i.inhrelid = f.member
    union
    select a.root, i.inhparent from above_foreign a join pg_inherits i on i.inhrelid = a.member
),
names as (
    select c.oid, case n.nspname when 'public' then '' else n.nspname::text || '.' end || c.relname::text as name,
        c.relpersistence, c.relrowsecurity
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid in (select member from family)
)
select r.name as root, m.name as member, event, t.enabled,
    exists (select from tracked x where x.tgrelid = f.root and x.tgname = 'tidegate_published') as published,
    c.relkind = 'r' and c.oid not in (select oid from delivered) as unpublished,
    c.relkind = 'r' and c.relreplident <> 'f' as unidentified,
    array(select a.attname::text from pg_attribute a
        where a.attrelid = f.root and not a.attisdropped and a.attnum::text = any (
            select pg_catalog.unnest(own.numbers) from tracked own where own.tgrelid = f.root)
        order by a.attnum) as columns,
    pg_catalog.array_remove(array[
        case when r.relpersistence = 'u'
            then 'it is unlogged: a crash empties it without firing a trigger' end,
        case when exists (select from tracked x where x.tgrelid in
                (select y.member from family y where y.root = f.root)
                and x.places <> pg_catalog.array_to_string(array(
                    select c.place from (select attnum, pg_catalog.row_number() over (order by attnum) as place
                        from pg_attribute where attrelid = x.tgrelid and attnum > 0 and not attisdropped) c
                    where c.attnum::text = any (x.numbers) order by c.attnum), ' '))
            then 'a column was dropped: each change may count as a change of all rows until the next install' end,
        case when r.relrowsecurity
            then 'it has row security: results depend on the role' end,
        case when exists (select from above_foreign a join tracked x on x.tgrelid = a.member
                where a.root = f.root and x.transitions)
            then 'writes to it fail, since its triggers use transition tables and it has a foreign table below it' end,
        case when exists (select from pg_inherits where inhrelid in
                (select x.member from family x where x.root = f.root)
                group by inhrelid having pg_catalog.count(*) > 1)
            then 'one of its tables has several parents: changes are recorded under the name of only one of them' end
    ], null) as warnings,
    array(select distinct s.subname::text from pg_subscription_rel r join pg_subscription s on s.oid = r.srsubid
        where r.srrelid in (select x.member from family x where x.root = f.root) order by 1) as subscriptions,
    array(select x.name from family y join names x on x.oid = y.member join pg_foreign_table t on t.ftrelid = y.member
        where y.root = f.root order by 1) as foreign_tables
from family f join names r on r.oid = f.root join names m on m.oid = f.member
    join pg_class c on c.oid = f.member and c.relkind <> 'f'
    cross join pg_catalog.unnest(array['insert', 'update', 'delete', 'truncate']) event
    left join tracked t on t.tgrelid = f.member and t.tgname = 'tidegate_' || event
order by 1, 2, 3
