select distinct a.attname::text
from pg_constraint k join pg_attribute a on a.attrelid = k.conrelid and a.attnum = any (k.conkey)
where k.conrelid = $1 and k.contype = 'f'
order by 1
