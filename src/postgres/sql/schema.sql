-- Where changes are noted: one row for each statement that changed a tracked table, written in the
-- writer's own transaction.
create schema if not exists tidegate;

create table if not exists tidegate.meta (version int not null);

-- As `guard` does for all, but before a row of this one is deleted, which a publication of all tables would refuse.
do $$ begin
    if exists (select from pg_catalog.pg_class where oid = 'tidegate.meta'::pg_catalog.regclass and relreplident <> 'f') then
        alter table tidegate.meta replica identity full;
    end if;
    -- Which would hide the version from its owner.
    if exists (select from pg_catalog.pg_class where oid = 'tidegate.meta'::pg_catalog.regclass and relforcerowsecurity) then
        alter table tidegate.meta no force row level security;
    end if;
end $$;

-- Locked by who installs, and by who marks or trims the log. Advisory locks would be open to every role; a table is
-- locked only by those who may write to it.
create table if not exists tidegate.installation ();
create table if not exists tidegate.housekeeping ();

create table if not exists tidegate.log (
    xid xid8 not null default pg_current_xact_id(),
    -- What changed; NULLs mean nothing.
    tags text[] not null,
    -- If there is one, what changed of this table, in the short form that tidegate.named reads.
    relation oid
);

-- From a version without that. Writers that hold a table's lock wait for the log's, so it is taken last.
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
    -- This locks the table even where there is one.
    if pg_catalog.to_regclass('tidegate.log_xid') is null then
        create index log_xid on tidegate.log (xid);
    end if;
end $$;

-- What a snapshot sees was in the WAL before lsn, which was read after the snapshot was taken.
create table if not exists tidegate.marks (
    -- A pg_snapshot. As text it can be compared, which who replicates it does to find the row.
    snapshot text not null,
    lsn pg_lsn not null,
    at timestamptz not null default clock_timestamp(),
    -- The fingerprint of the schema shortly before. Not every change of the schema writes a row.
    schema bigint,
    cluster bigint not null default (pg_control_system()).system_identifier
);
create index if not exists marks_lsn on tidegate.marks (lsn);
create index if not exists marks_xmax on tidegate.marks (pg_snapshot_xmax(snapshot::pg_snapshot), lsn);
