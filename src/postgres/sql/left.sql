-- Releases the advisory locks of the session, and returns what else earlier statements left behind in it. Sent as a simple
-- query, which begins its transaction when it arrives: an older one is one that an earlier statement began. Names are
-- qualified, since the search path may name pg_catalog after other schemas.
select pg_catalog.pg_advisory_unlock_all(),
    pg_catalog.transaction_timestamp() operator(pg_catalog.<) pg_catalog.statement_timestamp() as in_transaction,
    pg_catalog.pg_my_temp_schema() operator(pg_catalog.<>) 0::pg_catalog.oid and (
        exists (select from pg_catalog.pg_class c
            where c.relnamespace operator(pg_catalog.=) pg_catalog.pg_my_temp_schema())
        or exists (select from pg_catalog.pg_type t
            where t.typnamespace operator(pg_catalog.=) pg_catalog.pg_my_temp_schema())
    ) as has_temporary_objects
