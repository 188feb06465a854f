-- The columns of a table by which its triggers key changes at present.
select distinct a.attname::text
from pg_trigger t join pg_attribute a on a.attrelid = t.tgrelid and not a.attisdropped
    and a.attnum::text = any (string_to_array(split_part(encode(t.tgargs, 'escape'), E'\\000', 2), ' '))
where t.tgrelid = $1 and t.tgname like 'tidegate\_%'
order by 1
