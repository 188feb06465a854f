do $tidegate$
declare
:names
    wanted text;
    declared text[];
    family record;
    tagged text[];
    wrong text;
begin
    foreach wanted in array tables loop
        select r.root, r.root_name, r.kinds, r.several_parents, r.subscription into family from (
:relation
        ) r;
        if family.root is null then
            raise exception 'there is no table `%`: write `table` for one of schema public, else `schema.table`', wanted;
        elsif cardinality(family.kinds) > 0 then
            raise exception '`%` is % and can''t be tracked', wanted, family.kinds[1];
        elsif family.several_parents then
            raise exception '`%` inherits from several tables', wanted;
        elsif family.subscription is not null and not :is_published then
            raise exception 'the subscription `%` writes to `%`, and replicated changes fire no statement trigger',
                family.subscription, wanted;
        end if;
        -- All columns of the family: a table and its partition may both be named.
        declared := array(select d.declared_column from unnest(owners, columns) d (owner, declared_column)
            where family.root = (select o.root from (
:relation_of_owner
            ) o));
        select array_agg(c.name) filter (where c.name = any (declared) or (c.key and c.taggable)),
            (select d from unnest(declared) d except
                select x.name from (
:columns
                ) x where x.taggable limit 1)
            into tagged, wrong from (
:columns
            ) c;
        if wrong is not null then
            raise exception 'column `%` of `%` does not exist, or has a type that can''t be declared', wrong, wanted;
        end if;
        perform tidegate.:change;
    end loop;
end $tidegate$;
