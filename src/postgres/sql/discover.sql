-- The application's tables that this role may track, by the names that they have in tags: no partitions or children, which
-- their parent covers, and no tables of extensions.
select case n.nspname when 'public' then '' else n.nspname || '.' end || c.relname as name
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and c.relpersistence <> 't'
    and n.nspname not in ('pg_catalog', 'information_schema', 'tidegate') and n.nspname not like 'pg\_%'
    and pg_has_role(c.relowner, 'usage')
    and not exists (select from pg_inherits i join pg_class m on m.oid = i.inhrelid
        where i.inhparent = c.oid and not pg_has_role(m.relowner, 'usage'))
    and not exists (select from pg_inherits where inhrelid = c.oid)
    and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
        and d.deptype = 'e')
order by 1
