//! What the kernel programs count, per CPU. Every fault has a counter; `enforcer status` shows them all.

use crate::wire_enum;

wire_enum! {
    /// An index into `COUNTERS`.
    pub enum Counter: u32 = "counter" {
        /// Operations of sessions that were allowed.
        Allowed = 0 => "allowed",
        /// Operations of sessions that were refused.
        Refused = 1 => "refused",
        /// Operations that enforce mode would have refused, let through in audit mode.
        Audited = 2 => "audited",
        /// Processes tagged, by fork or enrolment.
        TagsMade = 3 => "tags_made",
        /// Tags removed at the exit of a process.
        TagsRemoved = 4 => "tags_removed",
        /// Children whose tag could not be stored: denied everything by their cgroup.
        FaultTagStore = 5 => "fault_tag_store",
        /// Tags that belonged to an earlier process with the same tgid.
        FaultTagStale = 6 => "fault_tag_stale",
        /// Records that did not fit the ring buffer.
        FaultRecordLost = 7 => "fault_record_lost",
        /// A session table had no entry for a tag's slot: denied.
        FaultNoSession = 8 => "fault_no_session",
        /// A kernel structure could not be read: denied, or the record is incomplete.
        FaultKernelRead = 9 => "fault_kernel_read",
        /// An envelope's rules were missing or contradicted themselves: denied.
        FaultNoRules = 10 => "fault_no_rules",
        /// Packets of sessions that were dropped; what a socket was refused is recorded once.
        PacketsRefused = 11 => "packets_refused",
        /// Sockets that a session was seen to use though they were not made in it: held to its envelope from then on.
        SocketsAdopted = 12 => "sockets_adopted",
        /// A socket's storage could not be had: what was asked for is denied.
        FaultSocketStorage = 13 => "fault_socket_storage",
        /// Processes that were not in their session's cgroup when they were judged.
        Displaced = 14 => "displaced",
        /// What processes of sessions wanted to do to others, or to enforcement, and was refused.
        GuardRefused = 15 => "guard_refused",
        /// Execs that had to wait until their image was measured.
        ImagesWaited = 16 => "images_waited",
        /// Execs of images that are known not to be listed.
        ImagesUnlisted = 17 => "images_unlisted",
        /// An exec could not be told, or there was no room for its ticket: the process is refused everything.
        FaultImageStore = 18 => "fault_image_store",
        /// A process could not be stopped or killed at its exec: it is refused everything, and runs.
        FaultImageSignal = 19 => "fault_image_signal",
        /// Datagrams that no total has: there was no room for one.
        FaultFlowStore = 20 => "fault_flow_store",
    }
}

impl Counter {
    /// The number of counters.
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// Whether anything but zero means that something went wrong.
    pub const fn is_fault(self) -> bool {
        matches!(
            self,
            Self::FaultTagStore
                | Self::FaultTagStale
                | Self::FaultRecordLost
                | Self::FaultNoSession
                | Self::FaultKernelRead
                | Self::FaultNoRules
                | Self::FaultSocketStorage
                | Self::FaultImageStore
                | Self::FaultImageSignal
                | Self::FaultFlowStore
        )
    }
}
