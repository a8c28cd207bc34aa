//! Tagging what runs, and finding the sockets that it holds: the only code that writes `ENROL`, and that runs the iterators which
//! read it.
//!
//! There is one `ENROL`. Whoever writes it keeps it until the iterator has run through: what goes on beside the daemon's loop,
//! registering and cutting, takes turns at it with the loop and with each other, and a turn is one walk over tasks or files.

use std::{
    fs::File,
    io::{self, Read as _},
    sync::{Arc, Mutex, PoisonError},
};

use aya::maps::{Array, MapData};
use enforcer_common::identity::{EnrolKind, EnrolRequest, HeldSocket, SessionRef, TaskTag};

use super::{
    maps::{self, MapsError, Tasks, access, ignore_absent, open},
    object::KernelError,
    pins::Pins,
};

/// A handle, to be cloned for whoever works beside the loop.
#[derive(Clone)]
pub(crate) struct Tagger {
    maps: Arc<Mutex<TaggerMaps>>,
    pins: Pins,
}

/// Reads tags, and waits for nobody's turn.
pub(crate) struct Tags(Tasks);

impl Tags {
    /// The tag of a process, if it has one.
    pub(crate) fn of(&self, tgid: u32) -> Result<Option<TaskTag>, MapsError> {
        maps::tag(&self.0, tgid)
    }
}

struct TaggerMaps {
    enrol: Array<MapData, EnrolRequest>,
    tasks: Tasks,
}

impl Tagger {
    pub(super) fn open(pins: &Pins) -> Result<Self, MapsError> {
        let maps = TaggerMaps { enrol: open(pins, "ENROL")?, tasks: open(pins, "TASKS")? };
        Ok(Self { maps: Arc::new(Mutex::new(maps)), pins: pins.clone() })
    }

    pub(crate) fn reader(&self) -> Result<Tags, MapsError> {
        open(&self.pins, "TASKS").map(Tags)
    }

    /// Tags one process. The answer is the tag that the kernel now holds for it, read back.
    pub(crate) fn enrol(&self, tgid: u32, session: SessionRef) -> Result<TaskTag, KernelError> {
        self.tag_running(session, EnrolKind::Process, tgid)?;
        self.tag(tgid)?.ok_or(KernelError::NotTagged { tgid })
    }

    /// Gives a process of its parent's to a session. The answer is the tag that the kernel now holds for it, read back.
    pub(crate) fn hand_over(&self, tgid: u32, session: SessionRef) -> Result<TaskTag, KernelError> {
        self.tag_running(session, EnrolKind::HandOver, tgid)?;
        self.tag(tgid)?.ok_or(KernelError::NotTagged { tgid })
    }

    /// Tags processes that run already: those in the session's cgroup and below it, or one and its descendants. Once through all
    /// processes of the host; to be done again until it finds no more.
    pub(crate) fn tag_running(
        &self,
        session: SessionRef,
        kind: EnrolKind,
        tgid: u32,
    ) -> Result<(), KernelError> {
        self.walk("enrol_task", EnrolRequest { session, tgid, kind: kind.raw() }).map(drop)
    }

    /// The network sockets that a session's processes hold. Those that were made elsewhere are taken for the session's from now on.
    pub(crate) fn held_sockets(&self, session: SessionRef) -> Result<Vec<HeldSocket>, KernelError> {
        let request = EnrolRequest { session, tgid: 0, kind: EnrolKind::Process.raw() };
        Ok(maps::held_sockets(&self.walk("enrol_socket", request)?))
    }

    /// Gives back the sockets that were taken for a session: one that did not come about.
    pub(crate) fn release_sockets(&self, session: SessionRef) -> Result<(), KernelError> {
        let request = EnrolRequest { session, tgid: 0, kind: EnrolKind::Release.raw() };
        self.walk("enrol_socket", request).map(drop)
    }

    /// The tag of a process, if it has one.
    pub(crate) fn tag(&self, tgid: u32) -> Result<Option<TaskTag>, MapsError> {
        maps::tag(&self.turn().tasks, tgid)
    }

    /// The processes that have a session's tag. They come and go meanwhile: one that lives throughout is in it.
    pub(crate) fn tags_of(&self, session: SessionRef) -> Result<Vec<(u32, TaskTag)>, MapsError> {
        let mut tags = maps::tags(&self.turn().tasks)?;
        tags.retain(|(_, tag)| tag.session == session);
        Ok(tags)
    }

    /// Every tag, likewise.
    pub(crate) fn tags(&self) -> Result<Vec<(u32, TaskTag)>, MapsError> {
        maps::tags(&self.turn().tasks)
    }

    /// Takes a process's tag away: for one whose registration did not come about.
    pub(crate) fn remove_tag(&self, tgid: u32) -> Result<(), MapsError> {
        ignore_absent(self.turn().tasks.remove(&tgid)).map_err(access("write", "TASKS"))
    }

    /// Says what is asked for, and has the kernel run the iterator once. What it writes.
    fn walk(&self, program: &str, request: EnrolRequest) -> Result<Vec<u8>, KernelError> {
        let mut turn = self.turn();
        let mut ask = |request| turn.enrol.set(0, request, 0).map_err(access("write", "ENROL"));
        ask(request)?;
        let output = self.iterate(program);
        // Nobody who reads the iterator later tags anything.
        ask(EnrolRequest::NONE)?;
        output.map_err(KernelError::Iterate)
    }

    /// Opening a pinned iterator runs it once.
    fn iterate(&self, program: &str) -> io::Result<Vec<u8>> {
        let mut iterator = File::open(self.pins.link(program))?;
        let mut output = Vec::new();
        loop {
            match iterator.read_to_end(&mut output) {
                // After a million objects of which the program said nothing (v6.1/kernel/bpf/bpf_iter.c, MAX_ITER_OBJECTS): it goes on.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(|_| output),
            }
        }
    }

    /// Whoever has had it before, and however that ended: each walk says anew what it is for.
    fn turn(&self) -> std::sync::MutexGuard<'_, TaggerMaps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
