//! The rules of every envelope in use: a table each, made as large as its rules need.
//!
//! A table is filled before anybody can see it and never changes. Its number is given to another one only after every
//! program that may have read the number has ended: the kernel waits for the programs that run whenever a map of maps is
//! written to (v6.1/kernel/bpf/syscall.c, maybe_wait_bpf_programs). Putting a table in place waits by that for about 8 ms (6.18, HZ 250);
//! taking one away waits twice, and so is left to a thread.

use std::{
    collections::{HashMap, HashSet},
    sync::mpsc,
    thread,
};

use aya::maps::{Array, HashMap as KernelHashMap, HashOfMaps, MapData};
use enforcer_common::{
    guard::UnixKey,
    rules::{Block, MAX_ENVELOPES},
};

use super::{
    maps::{MAX_RULE_BLOCKS, MapsError, access, ignore_absent, open},
    pins::Pins,
};
use crate::envelope::CompiledRules;

type Table = Array<MapData, Block>;
type Tables = HashOfMaps<MapData, u32, Table>;
type UnixSockets = KernelHashMap<MapData, UnixKey, u32>;

/// The number of no envelope: writing under it does nothing but wait for the programs that run.
const NOBODY: u32 = 0;

/// The compiled rules of every envelope in use.
pub(crate) struct RuleMaps {
    tables: Tables,
    sockets: UnixSockets,
    /// The Unix sockets that the rules of each envelope name.
    named: HashMap<u32, Vec<UnixKey>>,
    /// The blocks of each table that was installed or found in use.
    blocks: HashMap<u32, u64>,
    /// Tables that are being taken away: their numbers are not free yet.
    going: HashSet<u32>,
    remover: Remover,
}

impl RuleMaps {
    pub(super) fn open(pins: &Pins) -> Result<Self, MapsError> {
        Ok(Self {
            tables: open(pins, "RULES")?,
            sockets: open(pins, "UNIX_RULES")?,
            named: HashMap::new(),
            blocks: HashMap::new(),
            going: HashSet::new(),
            remover: Remover::start(open(pins, "RULES")?, open(pins, "UNIX_RULES")?)?,
        })
    }

    /// Writes the rules of an envelope under a number that no session uses yet. All or nothing.
    pub(crate) fn install(&mut self, envelope: u32, rules: &CompiledRules) -> Result<(), MapsError> {
        let needed = rules.blocks.len() as u64;
        let used: u64 = self.blocks.values().sum();
        if used + needed > MAX_RULE_BLOCKS {
            return Err(MapsError::NoRuleRoom { needed, used });
        }
        let table = fill(rules)?;
        self.install_sockets(envelope, rules)?;
        if let Err(error) = self.tables.insert(envelope, &table, 0).map_err(access("write", "RULES")) {
            self.remove_sockets(envelope)?;
            return Err(error);
        }
        self.blocks.insert(envelope, needed);
        Ok(())
    }

    /// Before the table is there: a table says whether there are any.
    fn install_sockets(&mut self, envelope: u32, rules: &CompiledRules) -> Result<(), MapsError> {
        for (text, rule) in &rules.unix {
            let Some(key) = UnixKey::new(envelope, text) else { continue };
            if let Err(error) = self.sockets.insert(key, rule, 0).map_err(access("write", "UNIX_RULES")) {
                self.remove_sockets(envelope)?;
                return Err(error);
            }
            self.named.entry(envelope).or_default().push(key);
        }
        Ok(())
    }

    /// Those of an envelope that was never in force.
    fn remove_sockets(&mut self, envelope: u32) -> Result<(), MapsError> {
        remove_sockets(&mut self.sockets, &self.named.remove(&envelope).unwrap_or_default())
    }

    /// Takes away the rules of an envelope that no session uses any more, a little later.
    pub(crate) fn remove(&mut self, envelope: u32) {
        self.going.insert(envelope);
        self.remover.remove(envelope, self.named.remove(&envelope).unwrap_or_default());
    }

    /// Whether a number may be given to an envelope: also one whose rules are being taken away is not free.
    pub(crate) fn is_free(&self, envelope: u32) -> bool {
        (NOBODY + 1..MAX_ENVELOPES).contains(&envelope) && !self.going.contains(&envelope)
    }

    /// Learns which rules are gone by now.
    pub(crate) fn take_note(&mut self) -> Result<(), MapsError> {
        while let Ok((envelope, removed)) = self.remover.removed.try_recv() {
            // One that could not be taken away keeps its number and its room.
            removed?;
            self.going.remove(&envelope);
            self.blocks.remove(&envelope);
        }
        Ok(())
    }

    /// Takes up the tables that are there. Those that `in_use` does not know, which a daemon that was killed left, go.
    pub(crate) fn sweep(&mut self, in_use: &HashMap<u32, u64>) -> Result<(), MapsError> {
        for key in self.sockets.keys() {
            let key = key.map_err(access("read", "UNIX_RULES"))?;
            self.named.entry(key.envelope).or_default().push(key);
        }
        let found: Vec<u32> =
            self.tables.keys().collect::<Result<_, _>>().map_err(access("read", "RULES"))?;
        for envelope in found {
            match in_use.get(&envelope) {
                Some(blocks) => {
                    self.blocks.insert(envelope, *blocks);
                }
                None if envelope == NOBODY => {}
                None => self.remove(envelope),
            }
        }
        // Of an envelope whose table was never put in place.
        let orphans: Vec<u32> = self.named.keys().filter(|it| !in_use.contains_key(*it)).copied().collect();
        orphans.into_iter().try_for_each(|envelope| self.remove_sockets(envelope))
    }
}

fn remove_sockets(sockets: &mut UnixSockets, keys: &[UnixKey]) -> Result<(), MapsError> {
    let mut remove = |key| ignore_absent(sockets.remove(key)).map_err(access("write", "UNIX_RULES"));
    keys.iter().try_for_each(&mut remove)
}

/// A table with these rules, that nobody can see yet.
fn fill(rules: &CompiledRules) -> Result<Table, MapsError> {
    let size = u32::try_from(rules.blocks.len()).unwrap_or(u32::MAX);
    let mut table = new_table(size)?;
    for (block, index) in rules.blocks.iter().zip(0..) {
        table.set(index, block, 0).map_err(access("fill a table for", "RULES"))?;
    }
    Ok(table)
}

/// A table of so many blocks. One flag lets tables of different sizes stand in one map (5.10; v5.10/kernel/bpf/arraymap.c,
/// array_map_meta_equal); the other has the blocks begin at a page, so that each is two cache lines and not parts of three
/// (v5.10/kernel/bpf/arraymap.c, array_map_alloc).
fn new_table(size: u32) -> Result<Table, MapsError> {
    const BPF_F_MMAPABLE: u32 = 1 << 10;
    const BPF_F_INNER_MAP: u32 = 1 << 12;
    Table::create(size, BPF_F_MMAPABLE | BPF_F_INNER_MAP).map_err(access("create a table for", "RULES"))
}

/// The thread that takes tables away. It ends when this is dropped.
struct Remover {
    to_remove: mpsc::Sender<(u32, Vec<UnixKey>)>,
    removed: mpsc::Receiver<(u32, Result<(), MapsError>)>,
}

impl Remover {
    fn start(mut tables: Tables, mut sockets: UnixSockets) -> Result<Self, MapsError> {
        let (to_remove, orders) = mpsc::channel::<(u32, Vec<UnixKey>)>();
        let (report, removed) = mpsc::channel();
        let work = move || {
            while let Ok(first) = orders.recv() {
                let batch: Vec<_> = std::iter::once(first).chain(orders.try_iter()).collect();
                let waited = wait_for_programs(&mut tables).map_err(|error| error.to_string());
                for (envelope, keys) in batch {
                    let removed = match &waited {
                        Ok(()) => ignore_absent(tables.remove(&envelope))
                            .map_err(access("write", "RULES"))
                            .and_then(|()| remove_sockets(&mut sockets, &keys)),
                        Err(error) => Err(MapsError::NotRemoved { envelope, error: error.clone() }),
                    };
                    if report.send((envelope, removed)).is_err() {
                        return;
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("rules".to_owned()).spawn(work);
        thread.map_err(MapsError::Thread)?;
        Ok(Self { to_remove, removed })
    }

    fn remove(&self, envelope: u32, keys: Vec<UnixKey>) {
        // Fails if the thread is gone, which only a panic can end: then the number is never free again.
        let _ended = self.to_remove.send((envelope, keys));
    }
}

/// Returns when every program that ran when it was called has ended.
fn wait_for_programs(tables: &mut Tables) -> Result<(), MapsError> {
    let nothing = new_table(1)?;
    tables.insert(NOBODY, &nothing, 0).map_err(access("write", "RULES"))
}
