-- Where changes are noted: one row for each statement that changed a tracked table, written in the
-- writer's own transaction.
create schema if not exists tidegate;

create table if not exists tidegate.meta (version int not null);

create table if not exists tidegate.log (
    xid xid8 not null default pg_current_xact_id(),
    tags text[] not null
);
create index if not exists log_xid on tidegate.log (xid);

-- What a snapshot sees was in the WAL before lsn, which was read after the snapshot was taken.
create table if not exists tidegate.marks (
    snapshot pg_snapshot not null,
    lsn pg_lsn not null,
    at timestamptz not null default clock_timestamp(),
    -- The fingerprint of the schema shortly before. Changes of the schema write no row.
    schema bigint
);
create index if not exists marks_lsn on tidegate.marks (lsn);
