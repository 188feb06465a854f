select (select system_identifier from pg_control_system()) as system_identifier,
    (select d.oid::int8 from pg_database d where d.datname = current_database()) as database,
    case when pg_is_in_recovery() then coalesce(
        (select received_tli from pg_stat_wal_receiver),
        (select nullif(min_recovery_end_timeline, 0) from pg_control_recovery()))
    else ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int end
        as timeline,
    pg_is_in_recovery() as standby,
    (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
        else pg_current_wal_insert_lsn() end)::text as position,
    -- Zero while there is none: before the first, and after a recovery until a node has begun another. Each value is
    -- cast to what a function or operator of the system takes, since one that fits better could be anyone's.
    coalesce((select case when has_sequence_privilege(h.oid, 'select')
                and (pg_is_in_recovery() or pg_relation_size(u.oid::regclass) > 0::bigint)
            then pg_sequence_last_value(h.oid::regclass) end
        from pg_class h join pg_class u on u.relnamespace = h.relnamespace
        where h.relnamespace = to_regnamespace('tidegate')::oid and h.relname = 'history' and h.relkind = 'S'
            and u.relname = 'uninterrupted'), 0::bigint) as history,
    extract(epoch from pg_postmaster_start_time())::bigint as started,
    host(inet_server_addr()) as address,
    inet_server_port() as port,
    pg_backend_pid() as process
