-- The log of changes: one row for each statement that changed a tracked table, written in the writer's own transaction.
create schema if not exists tidegate;

create table if not exists tidegate.meta (version int not null);

-- `guard` does this for all tables. This one needs it before a row is deleted, since without a replica identity, a
-- publication of all tables makes the DELETE fail.
do $$ begin
    if exists (select from pg_catalog.pg_class where oid = 'tidegate.meta'::pg_catalog.regclass and relreplident <> 'f') then
        alter table tidegate.meta replica identity full;
    end if;
    -- Forced row security would hide the version from the table's owner.
    if exists (select from pg_catalog.pg_class where oid = 'tidegate.meta'::pg_catalog.regclass and relforcerowsecurity) then
        alter table tidegate.meta no force row level security;
    end if;
end $$;

-- Empty tables that serve as locks: one for installing, one for marking and trimming the log. Any role could take an
-- advisory lock; a table can be locked only by roles that may write to it.
create table if not exists tidegate.installation ();
create table if not exists tidegate.housekeeping ();

create table if not exists tidegate.log (
    xid xid8 not null default pg_current_xact_id(),
    -- The keys of what changed; NULLs are ignored.
    tags text[] not null,
    -- If set, `tags` has keys of this table, in the short form that tidegate.named reads.
    relation oid
);

-- Upgrades a version without the column `relation`. Writers that hold a table's lock wait for the log's lock, so the log's
-- lock is taken last.
do $$
declare
    tracked oid;
begin
    if not exists (select from pg_catalog.pg_attribute
        where attrelid = 'tidegate.log'::regclass and attname = 'relation' and not attisdropped)
    then
        for tracked in select distinct tgrelid from pg_catalog.pg_trigger
            where tgfoid = pg_catalog.to_regproc('tidegate.changed') order by 1
        loop
            execute pg_catalog.format('lock table only %s in share row exclusive mode', tracked::regclass);
        end loop;
        alter table tidegate.log add column relation oid;
    end if;
    -- CREATE INDEX would lock the table even if the index exists.
    if pg_catalog.to_regclass('tidegate.log_xid') is null then
        create index log_xid on tidegate.log (xid);
    end if;
end $$;

-- Marks: everything that `snapshot` sees was in the WAL before `lsn`, since `lsn` was read after the snapshot was taken.
create table if not exists tidegate.marks (
    -- A pg_snapshot, stored as text: unlike a pg_snapshot, text can be compared, which replication needs to find the row.
    snapshot text not null,
    lsn pg_lsn not null,
    at timestamptz not null default clock_timestamp(),
    -- The fingerprint of the schema shortly before. Not every change of the schema writes a row.
    schema bigint,
    cluster bigint not null default (pg_control_system()).system_identifier
);
do $$ begin
    if pg_catalog.to_regclass('tidegate.marks_lsn') is null then
        create index marks_lsn on tidegate.marks (lsn);
    end if;
    if pg_catalog.to_regclass('tidegate.marks_xmax') is null then
        create index marks_xmax on tidegate.marks (pg_snapshot_xmax(snapshot::pg_snapshot), lsn);
    end if;
end $$;
