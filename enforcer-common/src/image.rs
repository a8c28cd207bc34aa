//! Images: which program a process executes, by what the kernel knows of its file, and what the daemon found when it measured it.
//!
//! An exec in a session that is held to a list leads to one of three ends. The kernel finds the image in `IMAGES`, as one that was
//! measured and is listed: nothing stands against the process. Or as one that is not listed: the tag says so. Or it does not find it:
//! the process gets a ticket, under which `TICKETS` says what it executes, and stops; until the daemon has answered there, whoever
//! has the ticket is refused everything. A child has its parent's ticket, as it has its image. An answer is to a ticket, which is never
//! given out again, so that it cannot be taken for one about another image.
//!
//! What an image that is not listed executes is refused as that is, though it be listed: by arguments, environment and descriptors, it
//! would do another's work.

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
        /// Another one executed it that is not listed, or was not measured: refused everything, whatever it is.
        Under = 6 => "under-unlisted",
    }
}

/// What the daemon says of an image.
pub const NO_ANSWER: u64 = 0;
/// It is listed.
pub const LISTED: u64 = 1;
/// It is not.
pub const UNLISTED: u64 = 2;

const ANSWER_BITS: u32 = 2;

/// An answer as it stands in a table: with what it is about, an inode or a ticket, in one word, which is read as a whole. A place in a
/// table may come to be another entry's while somebody reads there.
pub const fn answer(about: u64, answer: u64) -> u64 {
    about << ANSWER_BITS | answer
}

/// The answer in a word of a table, if it is about this.
#[inline(always)]
pub const fn answer_about(about: u64, word: u64) -> u64 {
    let said = word & ((1 << ANSWER_BITS) - 1);
    if word == answer(about, said) { said } else { NO_ANSWER }
}

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
    /// [`answer`] about its number. Written by the daemon; the rest never changes.
    pub answer: u64,
    pub tgid: u32,
    /// 1 if it is for an exec, at which the process stopped.
    pub stopped: u16,
    /// 1 if what was executed names an interpreter, which then is the image.
    pub script: u16,
}

impl Ticket {
    /// The answer to the ticket of this number.
    #[inline(always)]
    pub const fn answer_to(&self, number: u64) -> u64 {
        answer_about(number, self.answer)
    }
}

kernel_pod!(ImageId: 48, ImageKey: 64, Ticket: 80);

/// Images that are known at one time, for all lists. The one that was not executed for the longest time makes room: then it is measured again.
pub const MAX_IMAGES: u32 = 16_384;

/// Tickets at one time. Who finds no room is refused everything.
pub const MAX_TICKETS: u32 = 32_768;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_answer_is_about_one_thing(about in 0..1_u64 << 62, other in 0..1_u64 << 62, said in 1_u64..3) {
            let word = answer(about, said);
            prop_assert_eq!(answer_about(about, word), said);
            prop_assert_eq!(answer_about(other, word) == said, other == about);
        }
    }

    #[test]
    fn nothing_is_no_answer() {
        assert_eq!(answer_about(0, 0), NO_ANSWER);
        assert_eq!(answer_about(7, 0), NO_ANSWER);
        assert_eq!(answer_about(7, answer(7, NO_ANSWER)), NO_ANSWER);
    }
}
