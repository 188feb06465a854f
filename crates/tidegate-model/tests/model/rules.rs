//! The rules that can be broken.

use super::worlds::World;

/// One rule broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The fence is read before the snapshot of the drain.
    FenceBeforeSnapshot,
    /// The fence of a batch is the commit of its first row.
    FenceOfFirstRow,
    /// The fence is where the log was when the trigger ran.
    FenceOfTrigger,
    /// A fill from the primary claims all that was in the log.
    ClaimsTheWholeLog,
    /// The primary's position is taken after the read.
    PrimaryPositionAfterRead,
    /// A replica's position is taken after the read.
    ReplicaPositionAfterRead,
    /// A replica's read claims the primary's position.
    PrimaryPositionForReplica,
    /// The position is of another server behind the same name.
    PositionOfAnotherReplica,
    /// A replica is read whether or not it has what the response needs.
    AnyReplica,
    /// A replica's read claims what the node had not seen when the read was planned.
    ReplicaPastSeen,
    /// A replica is read by a schema that it may not have yet.
    SchemaPastReplica,
    /// A read counts though the node has learned since that the schema changed.
    ReadAcrossSchemas,
    /// A position that a drain begins with counts as seen before the drain has found changes of the schema.
    SeenBeforeDrain,
    /// A drain's position counts as seen though the schema has changed since the drain's snapshot.
    SeenPastSchema,
    /// Of several reads the greatest position counts.
    GreatestOfReads,
    /// Nothing is written after a drain that moved a fence.
    NoAnnouncement,
    /// A waiter takes a response unchecked.
    NoCheckAtDelivery,
    /// Whoever came before takes whatever has been computed since.
    WaiterTakesAnything,
    /// Whoever came before takes what another history proves.
    WaiterOfAnyEpoch,
    /// An entry is kept and served without checking the fences.
    NoFenceCheck,
    /// Rows are taken by the greatest transaction id that was seen.
    DrainByGreatestId,
    /// A node that missed rows goes on as if it had not.
    NoFloorAfterTrim,
    /// A node that starts trusts entries from before the log begins.
    NoFloorAtStart,
    /// A drain that finds more than it has a budget for goes on as if it had found nothing.
    NoFloorPastBudget,
    /// A drain that finds more than it has a budget for reads as much as it may, and goes on.
    DrainsPartly,
    /// A node that starts with less than the log holds trusts entries as far back as the log goes.
    NoFloorAtStartPastBudget,
    /// A node that starts takes the oldest mark for the fence of every row.
    FenceOfOldestMark,
    /// A mark's position is read before its snapshot.
    MarkBeforeSnapshot,
    /// Entries of another epoch are judged by their positions.
    NoEpoch,
    /// The epoch leaves out the database's oid.
    NoDatabase,
    /// Entries of another database are judged by their positions.
    EntryOfAnyDatabase,
    /// A session is served without the node having followed to where it wrote.
    NoCatchUp,
    /// A node takes a session for followed if its last poll ended past the session's position.
    FollowedByItsEnd,
    /// A node takes a session for followed if its last poll began at the session's position.
    FollowedAtEqual,
    /// A replica is read whatever its timeline.
    ReplicaOfAnyTimeline,
    /// A node applies a batch of another node though it missed some before it.
    BatchAfterGap,
    /// A node applies a batch of another history.
    BatchOfAnyEpoch,
    /// A node that starts takes over what another one had drained, and not its fences.
    JoinsWithoutFences,
    /// A node that starts takes over what another one knew a while ago, and takes it for all that there is.
    JoinsWithAnOldCheckpoint,
    /// A node takes a session for followed if the poll behind a batch ended past the session's position.
    BatchFollowedByItsEnd,
    /// A response lacks the dependencies of the values that it uses.
    OuterWithoutTags,
    /// A response claims what its own reads prove, whatever the values prove that it uses.
    OuterWithoutPosition,
    /// A response has the history of its node, whatever history its values have.
    OuterWithoutEpoch,
    /// A value that is served stale counts for nothing.
    StaleInnerIsForgotten,
    /// A value is used whether or not the node has followed the session.
    InnerIgnoresSession,
    /// A replica is read for a response that is not stored, whatever the session has written.
    PassIgnoresSession,
    /// What a request writes does not count for what it reads.
    OwnWriteRaisesNothing,
    /// What a request writes is taken to be before a position whose observation began before the write.
    OwnWritePastItsPosition,
    /// What a request writes counts for its reads, and not for values that it uses.
    InnerIgnoresOwnWrite,
    /// What the stream delivers is raised at once, to where its commit record ends.
    RaiseAtDelivery,
    /// A watermark completes before the stream has delivered its message.
    WatermarkWithoutMessage,
    /// A watermark forgets what was delivered and is not visible to its snapshot.
    WatermarkDropsPending,
    /// A transaction whose commit record is from before the slot counts for nothing when it becomes visible.
    NoFloorForUndelivered,
    /// A node whose slot was lost goes on with another one.
    LostSlotGoesOn,
    /// A slot that outlives its connection forgets what was delivered and is not visible.
    ConfirmsPending,
    /// A stream is continued though the slot has forgotten changes that the node does not know.
    ResumesPastConfirmed,
    /// A stream is continued though transactions from before the slot are not visible yet.
    ResumesWithUndelivered,
}

impl Mutant {
    /// Each, and the smallest world that catches it.
    pub(crate) const ALL: [(Self, World); 62] = [
        (Self::FenceBeforeSnapshot, World::REPLICAS),
        (Self::FenceOfFirstRow, World::ONE_NODE),
        (Self::FenceOfTrigger, World::ONE_NODE),
        (Self::ClaimsTheWholeLog, World::ONE_NODE),
        (Self::PrimaryPositionAfterRead, World::ONE_NODE),
        (Self::ReplicaPositionAfterRead, World::REPLICAS),
        (Self::PrimaryPositionForReplica, World::SESSION),
        (Self::PositionOfAnotherReplica, World::REPLICAS),
        (Self::AnyReplica, World::REPLICAS),
        (Self::ReplicaPastSeen, World::RELAY_SCHEMA),
        (Self::SchemaPastReplica, World::SCHEMA_AWAY),
        (Self::ReadAcrossSchemas, World::SCHEMA_TOWARDS),
        (Self::SeenBeforeDrain, World::SCHEMA_SESSION),
        (Self::SeenPastSchema, World::SCHEMA_NODES),
        (Self::GreatestOfReads, World::TWO_READS),
        (Self::NoAnnouncement, World::ONE_NODE),
        (Self::NoCheckAtDelivery, World::ONE_NODE),
        (Self::WaiterTakesAnything, World::WAITS),
        (Self::WaiterOfAnyEpoch, World::WAITS_FAILOVER),
        (Self::NoFenceCheck, World::ONE_NODE),
        (Self::DrainByGreatestId, World::ONE_NODE),
        (Self::NoFloorAfterTrim, World::MARKS),
        (Self::NoFloorAtStart, World::MARKS),
        (Self::NoFloorPastBudget, World::BUDGET),
        (Self::DrainsPartly, World::BUDGET_NESTED),
        (Self::NoFloorAtStartPastBudget, World::BUDGET),
        (Self::FenceOfOldestMark, World::MARKS),
        (Self::MarkBeforeSnapshot, World::MARKS),
        (Self::NoEpoch, World::FAILOVER),
        (Self::NoDatabase, World::COPY_WRITTEN),
        (Self::EntryOfAnyDatabase, World::COPY),
        (Self::NoCatchUp, World::SESSION),
        (Self::FollowedByItsEnd, World::SESSION),
        (Self::FollowedAtEqual, World::SESSION),
        (Self::ReplicaOfAnyTimeline, World::FAILOVER),
        (Self::BatchAfterGap, World::RELAY),
        (Self::BatchOfAnyEpoch, World::RELAY_FAILOVER),
        (Self::BatchFollowedByItsEnd, World::RELAY_SESSION),
        (Self::JoinsWithoutFences, World::RELAY_JOIN),
        (Self::JoinsWithAnOldCheckpoint, World::RELAY_JOIN),
        (Self::OuterWithoutTags, World::NESTED),
        (Self::OuterWithoutPosition, World::NESTED),
        (Self::OuterWithoutEpoch, World::NESTED_FAILOVER),
        (Self::StaleInnerIsForgotten, World::NESTED_STALE),
        (Self::InnerIgnoresSession, World::NESTED_SESSION),
        (Self::PassIgnoresSession, World::NESTED_SESSION),
        (Self::OwnWriteRaisesNothing, World::OWN_WRITES),
        (Self::OwnWritePastItsPosition, World::OWN_WRITES),
        (Self::InnerIgnoresOwnWrite, World::OWN_WRITES),
        (Self::RaiseAtDelivery, World::STREAM),
        (Self::WatermarkWithoutMessage, World::STREAM),
        (Self::WatermarkDropsPending, World::STREAM),
        (Self::NoFloorForUndelivered, World::STREAM_RESTART),
        (Self::LostSlotGoesOn, World::STREAM_RESTART),
        (Self::ConfirmsPending, World::STREAM_RESUME),
        (Self::ResumesPastConfirmed, World::STREAM_RESUME),
        (Self::ResumesWithUndelivered, World::STREAM_RESUME),
        (Self::FenceBeforeSnapshot, World::STREAM_REPLICAS),
        (Self::NoFenceCheck, World::STREAM),
        (Self::FollowedByItsEnd, World::STREAM_SESSION),
        (Self::FollowedAtEqual, World::STREAM_SESSION),
        (Self::NoEpoch, World::STREAM_FAILOVER),
    ];
}
