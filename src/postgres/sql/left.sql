-- Releases the session's advisory locks, and returns what else earlier statements left behind in the session. It is sent as
-- a simple query, whose implicit transaction begins on arrival: if the transaction began earlier, an earlier statement left
-- it open. Names are qualified, since the search path may list other schemas before pg_catalog.
select pg_catalog.pg_advisory_unlock_all(),
    pg_catalog.transaction_timestamp() operator(pg_catalog.<) pg_catalog.statement_timestamp() as in_transaction,
    pg_catalog.pg_my_temp_schema() operator(pg_catalog.<>) 0::pg_catalog.oid and (
        exists (select from pg_catalog.pg_class c
            where c.relnamespace operator(pg_catalog.=) pg_catalog.pg_my_temp_schema())
        or exists (select from pg_catalog.pg_type t
            where t.typnamespace operator(pg_catalog.=) pg_catalog.pg_my_temp_schema())
    ) as has_temporary_objects
