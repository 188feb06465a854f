-- This runs on the application's connections, whose search path may list other schemas before pg_catalog. So each function,
-- operator and type is qualified with its schema, unless its name is part of the grammar.
select (select system_identifier from pg_catalog.pg_control_system()) as system_identifier,
    (select d.oid::bigint from pg_catalog.pg_database d
        where d.datname operator(pg_catalog.=) pg_catalog.current_database()) as database,
    case when pg_catalog.pg_is_in_recovery() then coalesce(
        (select received_tli from pg_catalog.pg_stat_wal_receiver),
        (select case when min_recovery_end_timeline operator(pg_catalog.<>) 0 then min_recovery_end_timeline end
            from pg_catalog.pg_control_recovery()))
    else ('x' operator(pg_catalog.||) pg_catalog.left(pg_catalog.pg_walfile_name(
            pg_catalog.pg_current_wal_insert_lsn()), 8))::bit(32)::int end
        as timeline,
    pg_catalog.pg_is_in_recovery() as standby,
    (case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
        else pg_catalog.pg_current_wal_insert_lsn() end)::pg_catalog.text as position,
    -- Zero while there is no history: before the first one, and after a recovery until a node has begun a new one.
    coalesce((select case when pg_catalog.has_sequence_privilege(h.oid, 'select') and (pg_catalog.pg_is_in_recovery()
                or pg_catalog.pg_relation_size(u.oid::pg_catalog.regclass) operator(pg_catalog.>) 0::bigint)
            then pg_catalog.pg_sequence_last_value(h.oid::pg_catalog.regclass) end
        from pg_catalog.pg_class h join pg_catalog.pg_class u
            on u.relnamespace operator(pg_catalog.=) h.relnamespace
        where h.relnamespace operator(pg_catalog.=) pg_catalog.to_regnamespace('tidegate')::pg_catalog.oid
            and h.relname operator(pg_catalog.=) 'history' and h.relkind operator(pg_catalog.=) 'S'
            and u.relname operator(pg_catalog.=) 'uninterrupted'), 0::bigint) as history,
    (extract(epoch from pg_catalog.pg_postmaster_start_time()) operator(pg_catalog.*) 1000000)::bigint as started,
    pg_catalog.host(pg_catalog.inet_server_addr()) as address,
    pg_catalog.inet_server_port() as port,
    pg_catalog.pg_backend_pid() as process
