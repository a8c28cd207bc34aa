//! The programs' maps, typed. Opened from their pins, whoever made them; every key and value size is checked when a map
//! is opened.

use std::{mem::offset_of, path::PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use enforcer_common::{
    config::{MAX_SESSIONS, Meta},
    counter::Counter,
    identity::{HeldSocket, SessionRef, TaskTag},
    session::{ControlWord, SessionRow, Usage},
};

use super::{control::ControlWords, pins::Pins};

/// The names of all maps, as pinned.
pub(super) const NAMES: &[&str] = &[
    "TASKS",
    "CGROUPS",
    "LEVELS",
    "CONTROL",
    "SESSIONS",
    "PROCS",
    "USAGE",
    "FLOW_PERIOD",
    "FLOWS",
    "FLOW_RESTS",
    "FLOWS_MADE",
    "SOCKETS",
    "RULES",
    "UNIX_RULES",
    "IMAGES",
    "TICKETS",
    "LAST_TICKET",
    "CANARY",
    "ENROL",
    "RECORDS",
    "SEQUENCES",
    "COUNTERS",
    "META",
];

/// Why a map could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapsError {
    #[error("open the map at `{}`", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: Box<MapError>,
    },
    #[error("map the session control words into memory")]
    Mmap(#[source] nix::Error),
    #[error("{action} the kernel map `{map}`")]
    Access {
        action: &'static str,
        map: &'static str,
        #[source]
        source: Box<MapError>,
    },
    #[error("the kernel has no session slot {slot}")]
    NoSlot { slot: u32 },
    #[error("the kernel's tables have room for {} more blocks of rules, {needed} are needed", MAX_RULE_BLOCKS - used)]
    NoRuleRoom { needed: u64, used: u64 },
    #[error("take away the rules of envelope {envelope}: {error}")]
    NotRemoved { envelope: u32, error: String },
    #[error("start a thread")]
    Thread(#[source] std::io::Error),
}

/// The blocks that the tables of all envelopes may have together: 512 MiB of kernel memory. The largest envelope fits twice, so that
/// it can be replaced by one as large.
pub(super) const MAX_RULE_BLOCKS: u64 = 2 * crate::envelope::MAX_BLOCKS as u64;

pub(super) fn access(action: &'static str, map: &'static str) -> impl FnOnce(MapError) -> MapsError {
    move |source| MapsError::Access { action, map, source: Box::new(source) }
}

pub(super) fn open<T: TryFrom<Map, Error = MapError>>(pins: &Pins, name: &str) -> Result<T, MapsError> {
    let path = pins.map(name);
    let opened = MapData::from_pin(&path).and_then(Map::from_map_data).and_then(T::try_from);
    opened.map_err(|source| MapsError::Open { path, source: Box::new(source) })
}

/// A map as the kernel gives it.
pub(super) fn open_data(pins: &Pins, name: &str) -> Result<MapData, MapsError> {
    let path = pins.map(name);
    MapData::from_pin(&path).map_err(|source| MapsError::Open { path, source: Box::new(source) })
}

/// The map that says what the others are.
pub(super) fn open_meta(pins: &Pins) -> Result<Array<MapData, Meta>, MapsError> {
    open(pins, "META")
}

pub(super) fn read_meta(meta: &Array<MapData, Meta>) -> Result<Meta, MapsError> {
    meta.get(&0, 0).map_err(access("read", "META"))
}

pub(super) fn write_meta(meta: &mut Array<MapData, Meta>, value: Meta) -> Result<(), MapsError> {
    meta.set(0, value, 0).map_err(access("write", "META"))
}

pub(super) fn open_records(pins: &Pins) -> Result<RingBuf<MapData>, MapsError> {
    open(pins, "RECORDS")
}

pub(super) type Tasks = HashMap<MapData, u32, TaskTag>;

/// Who is in which session, and which sessions stand.
pub(crate) struct SessionMaps {
    tasks: Tasks,
    cgroups: HashMap<MapData, u64, SessionRef>,
    levels: Array<MapData, u64>,
    control: ControlWords,
    sessions: Array<MapData, SessionRow>,
    procs: Array<MapData, u64>,
    usage: Array<MapData, Usage>,
    counters: PerCpuArray<MapData, u64>,
    sequences: PerCpuArray<MapData, u64>,
    /// The kernel's id of that map: another one numbers anew.
    pub(crate) numbering: u32,
}

impl SessionMaps {
    pub(super) fn open(pins: &Pins) -> Result<Self, MapsError> {
        let path = pins.map("CONTROL");
        let open_error = |source| MapsError::Open { path: path.clone(), source: Box::new(source) };
        let control = MapData::from_pin(&path).map_err(open_error)?;
        let words = ControlWords::map(&control).map_err(MapsError::Mmap)?;
        // Checks the sizes that the mapping relies on.
        let typed = Map::from_map_data(control).and_then(Array::<MapData, u64>::try_from);
        let typed = typed.map_err(open_error)?;
        if typed.len() != MAX_SESSIONS {
            return Err(MapsError::NoSlot { slot: typed.len() });
        }
        Ok(Self {
            tasks: open(pins, "TASKS")?,
            cgroups: open(pins, "CGROUPS")?,
            levels: open(pins, "LEVELS")?,
            control: words,
            sessions: open(pins, "SESSIONS")?,
            procs: open(pins, "PROCS")?,
            usage: open(pins, "USAGE")?,
            counters: open(pins, "COUNTERS")?,
            sequences: open(pins, "SEQUENCES")?,
            numbering: open_data(pins, "SEQUENCES")?.info().map_err(access("look at", "SEQUENCES"))?.id(),
        })
    }

    /// The tag of a process, if it has one.
    pub(crate) fn tag(&self, tgid: u32) -> Result<Option<TaskTag>, MapsError> {
        tag(&self.tasks, tgid)
    }

    /// Every tag. Processes come and go meanwhile: one that lives throughout is in it.
    pub(crate) fn tags(&self) -> Result<Vec<(u32, TaskTag)>, MapsError> {
        tags(&self.tasks)
    }

    pub(crate) fn set_cgroup(&mut self, id: u64, session: SessionRef) -> Result<(), MapsError> {
        self.cgroups.insert(id, session, 0).map_err(access("write", "CGROUPS"))
    }

    pub(crate) fn remove_cgroup(&mut self, id: u64) -> Result<(), MapsError> {
        ignore_absent(self.cgroups.remove(&id)).map_err(access("write", "CGROUPS"))
    }

    /// The session that a cgroup belongs to.
    pub(crate) fn session_of(&self, cgroup_id: u64) -> Result<Option<SessionRef>, MapsError> {
        match self.cgroups.get(&cgroup_id, 0) {
            Ok(session) => Ok(Some(session)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(access("read", "CGROUPS")(error)),
        }
    }

    /// What is fixed for the session in a slot.
    pub(crate) fn row(&self, slot: u32) -> Result<SessionRow, MapsError> {
        self.sessions.get(&slot, 0).map_err(access("read", "SESSIONS"))
    }

    /// The ids of all cgroups that belong to a session.
    pub(crate) fn cgroups(&self) -> Result<Vec<u64>, MapsError> {
        self.cgroups.keys().collect::<Result<_, _>>().map_err(access("read", "CGROUPS"))
    }

    pub(crate) fn control(&self, slot: u32) -> Result<ControlWord, MapsError> {
        self.control.load(slot).ok_or(MapsError::NoSlot { slot })
    }

    /// One atomic store: the change is in force for every decision that starts after it.
    pub(crate) fn set_control(&mut self, slot: u32, word: ControlWord) -> Result<(), MapsError> {
        if self.control.store(slot, word) { Ok(()) } else { Err(MapsError::NoSlot { slot }) }
    }

    /// Fills a slot that no session has: its row, no live process, and nothing used.
    pub(crate) fn prepare(&mut self, slot: u32, row: SessionRow) -> Result<(), MapsError> {
        self.sessions.set(slot, row, 0).map_err(access("write", "SESSIONS"))?;
        self.procs.set(slot, 0, 0).map_err(access("write", "PROCS"))?;
        self.usage.set(slot, Usage::default(), 0).map_err(access("write", "USAGE"))
    }

    /// Says that no process has the slot's tag any more: for one whose tags were taken away.
    pub(crate) fn forget_processes(&mut self, slot: u32) -> Result<(), MapsError> {
        self.procs.set(slot, 0, 0).map_err(access("write", "PROCS"))
    }

    /// What a session has used of its limits.
    pub(crate) fn usage(&self, slot: u32) -> Result<Usage, MapsError> {
        self.usage.get(&slot, 0).map_err(access("read", "USAGE"))
    }

    /// Says at which levels cgroups of sessions stand that are not below our own parent.
    pub(crate) fn set_levels(&mut self, levels: u64) -> Result<(), MapsError> {
        self.levels.set(0, levels, 0).map_err(access("write", "LEVELS"))
    }

    /// Live tagged processes of a session.
    pub(crate) fn processes(&self, slot: u32) -> Result<u64, MapsError> {
        self.procs.get(&slot, 0).map_err(access("read", "PROCS"))
    }

    /// How many records each CPU has lost.
    pub(crate) fn lost(&self) -> Result<Vec<u64>, MapsError> {
        let lost =
            self.counters.get(&Counter::FaultRecordLost.raw(), 0).map_err(access("read", "COUNTERS"))?;
        Ok(lost.iter().copied().collect())
    }

    /// How many records each CPU has made, and lost.
    pub(crate) fn made(&self) -> Result<Vec<u64>, MapsError> {
        let made = self.sequences.get(&0, 0).map_err(access("read", "SEQUENCES"))?;
        Ok(made.iter().copied().collect())
    }

    /// Every counter, summed over the CPUs, in the order of [`Counter::ALL`].
    pub(crate) fn counters(&self) -> Result<Vec<(Counter, u64)>, MapsError> {
        let sum = |counter: &Counter| {
            let values = self.counters.get(&counter.raw(), 0).map_err(access("read", "COUNTERS"))?;
            Ok((*counter, values.iter().sum()))
        };
        Counter::ALL.iter().map(sum).collect()
    }
}

pub(super) fn tag(tasks: &Tasks, tgid: u32) -> Result<Option<TaskTag>, MapsError> {
    match tasks.get(&tgid, 0) {
        Ok(tag) => Ok(Some(tag)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(access("read", "TASKS")(error)),
    }
}

pub(super) fn tags(tasks: &Tasks) -> Result<Vec<(u32, TaskTag)>, MapsError> {
    tasks.iter().collect::<Result<_, _>>().map_err(access("read", "TASKS"))
}

/// Taking away what is not there is no failure.
pub(super) fn ignore_absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// What the iterator over open files has written: one value after the other.
pub(super) fn held_sockets(bytes: &[u8]) -> Vec<HeldSocket> {
    let read = |bytes: &[u8; size_of::<HeldSocket>()]| {
        let number = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let short = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        HeldSocket {
            cookie: u64::from(number(0)) | u64::from(number(4)) << 32,
            tgid: number(offset_of!(HeldSocket, tgid)),
            fd: number(offset_of!(HeldSocket, fd)),
            netns: number(offset_of!(HeldSocket, netns)),
            family: short(offset_of!(HeldSocket, family)),
            protocol: short(offset_of!(HeldSocket, protocol)),
            native: bytes[offset_of!(HeldSocket, native)],
            adopted: bytes[offset_of!(HeldSocket, adopted)],
            pad: [0; 6],
        }
    };
    bytes.as_chunks().0.iter().map(read).collect()
}
