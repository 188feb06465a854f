-- A hash of everything in the catalogue that a result can depend on. See fingerprint.rs.
--
-- A row is hashed by its oid and by the transaction that wrote it, so that a change shows even if it was undone since. The
-- rows of pg_class are hashed by columns instead, since TRUNCATE and GRANT rewrite them too; a table's name and schema are
-- covered by the row of its type.
with now as materialized (
    -- Subtracting ages takes a third of the time of parsing the transaction number from its text.
    select age('3'::xid)::int8 + 3::int8 as xid
),
temporary as materialized (
    select oid from pg_namespace where nspname ~ '^pg_(toast_)?temp_'::text
),
relations as materialized (
    select oid, relkind, relpersistence, relispartition, relrowsecurity, relforcerowsecurity, relname,
        relnamespace
    from pg_class
    where oid >= '16384'::oid and relkind = any ('{r,p,v,m,f,c,S}'::"char"[]) and relpersistence <> 't'
        and relnamespace not in (select oid from temporary)
),
-- Catalogue, object, part of the object, age of the row.
rows (catalogue, object, part, age) as (
    select 1, attrelid, attnum::int4, age(a.xmin) from pg_attribute a
        where attnum > 0 and attrelid = any (array(select oid from relations))
    union all
    select 2, oid, 0, age(xmin) from pg_type
        where oid >= '16384'::oid and typnamespace not in (select oid from temporary)
    union all
    select 3, oid, 0, age(xmin) from pg_trigger where starts_with(tgname::text, 'tidegate_'::text)
        and tgfoid in (select oid from pg_proc where pronamespace = to_regnamespace('tidegate'::text)::oid)
    union all
    select 4, oid, 0, age(xmin) from pg_rewrite where oid >= '16384'::oid and ev_class in (select oid from relations)
    union all
    select 5, oid, 0, age(xmin) from pg_attrdef where adrelid in (select oid from relations)
    union all
    select 6, oid, 0, age(xmin) from pg_policy where polrelid in (select oid from relations)
    union all
    select 7, inhrelid, inhseqno, age(xmin) from pg_inherits where inhrelid in (select oid from relations)
    union all
    select 8, oid, 0, age(xmin) from pg_proc
        where oid >= '16384'::oid and pronamespace not in (select oid from temporary)
    union all
    select 9, oid, 0, age(xmin) from pg_operator
        where oid >= '16384'::oid and oprnamespace not in (select oid from temporary)
    union all
    select 10, oid, 0, age(xmin) from pg_cast where oid >= '16384'::oid and not exists (
        select from pg_type t where t.oid in (castsource, casttarget)
            and t.typnamespace in (select oid from temporary))
    union all
    select 11, oid, 0, age(xmin) from pg_enum where not exists (
        select from pg_type t where t.oid = enumtypid and t.typnamespace in (select oid from temporary))
    union all
    select 12, oid, 0, age(xmin) from pg_namespace where nspname !~ '^pg_'::text
    union all
    select 13, oid, 0, age(xmin) from pg_collation
        where oid >= '16384'::oid and collnamespace not in (select oid from temporary)
    union all
    select 14, oid, 0, age(xmin) from pg_conversion
        where oid >= '16384'::oid and connamespace not in (select oid from temporary)
    union all
    select 15, oid, 0, age(xmin) from pg_opclass
        where oid >= '16384'::oid and opcnamespace not in (select oid from temporary)
    union all
    select 16, oid, 0, age(xmin) from pg_amop where oid >= '16384'::oid
    union all
    select 17, oid, 0, age(xmin) from pg_amproc where oid >= '16384'::oid
    union all
    select 18, oid, 0, age(xmin) from pg_transform
    union all
    select 19, oid, 0, age(xmin) from pg_ts_config where cfgnamespace not in (select oid from temporary)
    union all
    select 20, oid, 0, age(xmin) from pg_ts_dict where dictnamespace not in (select oid from temporary)
    union all
    select 21, mapcfg, maptokentype * 256 + mapseqno, age(m.xmin) from pg_ts_config_map m
        where not exists (select from pg_ts_config c
            where c.oid = mapcfg and c.cfgnamespace in (select oid from temporary))
    union all
    -- Its state changes without effect on a result, so only its existence counts.
    select 22, srrelid, (srsubid::int8 - 2147483648)::int4, 2147483647 from pg_subscription_rel
    union all
    -- Security labels, by which an extension may show different values to different roles.
    select 23, objoid, objsubid, age(xmin) from pg_seclabel
        where classoid = 'pg_class'::regclass::oid and objoid = any (array(select oid from relations))
    union all
    select 24, oid, 0, age(xmin) from pg_publication where pubname = 'tidegate'::name
    union all
    select 25, oid, 0, age(xmin) from pg_publication_rel
        where prpubid in (select oid from pg_publication where pubname = 'tidegate'::name)
),
-- hashint8extended combines both halves of its argument by XOR. So the object and the transaction are hashed one after the
-- other: as two halves, rows of two objects that one transaction rewrites, such as those of a type and its array type, could
-- cancel each other out.
parts (part) as (
    select hashint8extended(case age when 2147483647 then 0 else ((select xid from now) - age) & 4294967295 end,
        hashint8extended(object::int8, catalogue::int8 * 4294967296 + part))
    from rows
    union all
    select hashint8extended(ascii(relkind::text) * 65536 + ascii(relpersistence::text) * 256
            + relispartition::int4 * 4 + relrowsecurity::int4 * 2 + relforcerowsecurity::int4,
        hashint8extended(oid::int8, 0::int8))
    from relations
    -- Sequences have no row in pg_type, so their names are hashed here.
    union all
    select hashtextextended(oid::text || ' '::text || relnamespace::text || ' '::text || relname::text, 0::int8)
    from relations where relkind = 'S'
)
select coalesce(bit_xor(part), 0::int8) from parts
