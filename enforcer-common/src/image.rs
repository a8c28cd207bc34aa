//! Images: which program a process executes, by what the kernel knows of its file, and what the daemon found when it measured it.
//!
//! An exec in a session that is held to a list leads to one of three ends. The kernel finds the image in `IMAGES`, as one that was
//! measured and is listed: nothing stands against the process. Or as one that is not listed: the tag says so. Or it does not find it:
//! the process gets a ticket, under which `TICKETS` says what it executes, and stops; until the daemon has answered there, whoever
//! has the ticket is refused everything. A child has its parent's ticket, as it has its image; the next exec takes it away. An answer is to a
//! ticket, which is never given out again, so that it cannot be taken for one about another image.

use crate::identity::SessionRef;
use crate::{kernel_pod, wire_enum};

wire_enum! {
    /// What an envelope says of images, in the header of its table.
    pub enum ImagePolicy: u32 = "image policy" {
        /// Every one may be executed, and none is looked at.
        Any = 0 => "any",
        /// One that is not listed is recorded.
        Audit = 1 => "audit",
        /// One that is not listed is refused everything.
        DenyEgress = 2 => "deny-egress",
        /// One that is not listed is killed.
        Kill = 3 => "kill",
    }
}

wire_enum! {
    /// What became of an exec, in its record.
    pub enum ImageState: u8 = "state of an image" {
        /// The session may execute everything.
        Any = 0 => "any",
        /// It was measured before, and is listed.
        Listed = 1 => "listed",
        /// It was measured before, and is not.
        Unlisted = 2 => "unlisted",
        /// It is to be measured, and the process waits for that.
        Waits = 3 => "waits",
        /// It is to be measured, and the process goes on.
        Unmeasured = 4 => "unmeasured",
        /// It cannot be told which it is, or no ticket could be had: refused everything.
        Lost = 5 => "lost",
    }
}

/// What the daemon says of an image.
pub const NO_ANSWER: u32 = 0;
/// It is listed.
pub const LISTED: u32 = 1;
/// It is not.
pub const UNLISTED: u32 = 2;

/// In the place of a ticket: nothing stands against the process.
pub const CLEAR: u64 = 0;
/// In the place of a ticket: whatever it executes was not measured, and will not be.
pub const NOT_MEASURED: u64 = u64::MAX;
/// In the place of a ticket: it executes what is not listed.
pub const NOT_LISTED: u64 = u64::MAX - 1;

/// What the kernel tells a file and its content by. Whoever writes to a file changes the time of its last change, which nobody can set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ImageId {
    pub inode: u64,
    pub size_bytes: u64,
    /// Last change, of content or of anything else; wall clock.
    pub ctime_s: i64,
    /// Last change of content; wall clock.
    pub mtime_s: i64,
    pub ctime_ns: u32,
    pub mtime_ns: u32,
    /// Of its file system, as the kernel counts: 12 bits, then 20.
    pub device: u32,
    /// Always zero.
    pub pad: u32,
}

/// An image, for one list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ImageKey {
    /// The beginning of the digest of the envelope's text: a list does not change under its name.
    pub list: [u32; 4],
    pub image: ImageId,
}

/// What `TICKETS` holds: who waits for an answer, and that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ticket {
    /// Zeros for a process that ran before it had a ticket.
    pub image: ImageId,
    pub session: SessionRef,
    /// The leader's, as in [`crate::identity::TaskTag`].
    pub start_ns: u64,
    pub tgid: u32,
    /// [`NO_ANSWER`], [`LISTED`] or [`UNLISTED`]. Written by the daemon; the rest never changes.
    pub answer: u32,
    /// 1 if it stopped itself for this.
    pub stopped: u32,
    /// 1 if what was executed names an interpreter, which then is the image.
    pub script: u32,
}

kernel_pod!(ImageId: 48, ImageKey: 64, Ticket: 80);

/// Images that are known at one time, for all lists. The one that was not executed for the longest time makes room: then it is measured again.
pub const MAX_IMAGES: u32 = 16_384;

/// Tickets at one time. Who finds no room is refused everything.
pub const MAX_TICKETS: u32 = 32_768;
