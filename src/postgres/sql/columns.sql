select a.attname::text as name,
    format_type(a.atttypid, a.atttypmod) as type,
    (a.atttypid = any (array['int2', 'int4', 'int8', 'oid', 'text', 'varchar', 'uuid']::regtype[])
            or t.typtype = 'e')
        and a.attgenerated <> 'v'
        and not exists (select from pg_collation c
            where c.oid = a.attcollation and not c.collisdeterministic) as taggable,
    exists (select from pg_index i where i.indrelid = a.attrelid and i.indisprimary
        and a.attnum = any (i.indkey)) as key
from pg_attribute a join pg_type t on t.oid = a.atttypid
where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
order by a.attnum
