//! What is there after a restart, seen from all sides, and whether it agrees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use integration::{DEADLINE, Envelope, PinnedMap, cgroup_members, scaled};
use serde_json::Value;

use crate::World;

/// As many as fit the tables of `enforcer-common`: `MAX_SESSIONS`, and the bytes of a row of `SESSIONS`.
const SLOTS: u32 = 16_384;
const ROW_BYTES: usize = 104;
/// The state of a slot that nobody has, or had.
const FREE: u8 = 0;

/// What is there after a restart, from all sides.
pub(crate) struct Found {
    pub(crate) sessions: BTreeMap<String, Value>,
    pub(crate) files: BTreeMap<String, Value>,
    pub(crate) tagged: BTreeSet<i64>,
    pub(crate) inside: BTreeSet<i64>,
    /// Cgroups, by id, below the daemon's and in the kernel's table.
    pub(crate) made: BTreeSet<u64>,
    pub(crate) listed: BTreeSet<u64>,
    pub(crate) taken: Vec<u32>,
    pub(crate) ended: usize,
}

pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

pub(crate) fn pids(session: &Value) -> impl Iterator<Item = i64> {
    session["processes"].as_array().expect("a list").iter().map(|it| it["pid"].as_i64().expect("a number"))
}

pub(crate) fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|it| it.ino())
}

impl World {
    pub(crate) fn look(&self) -> Found {
        let layout = self.daemon.layout();
        let map = |name: &str| PinnedMap::open(&layout.pin_dir.join("maps").join(name));
        let list = self.daemon.query("ps");
        let sessions = list["sessions"].as_array().expect("a list").iter();
        let files = fs::read_dir(layout.state_dir().join("sessions")).into_iter().flatten().flatten();
        let read = |path: PathBuf| {
            let file: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
            Some((text(&file, "id").to_owned(), file))
        };
        let control = map("CONTROL");
        let state = |slot: u32| control.lookup::<8>(&slot.to_ne_bytes()).expect("it is an array")[0];
        let mut events = fs::read(self.events_file()).unwrap_or_default();
        // Another file has begun meanwhile.
        if (events.len() as u64) < self.events_before {
            let before = self.events_file().with_extension("jsonl.1");
            events = [fs::read(before).expect("it is kept"), events].concat();
        }
        let since = String::from_utf8_lossy(&events[self.events_before as usize..]);
        Found {
            sessions: sessions.map(|it| (text(it, "id").to_owned(), it.clone())).collect(),
            files: files.filter_map(|entry| read(entry.path())).collect(),
            tagged: map("TASKS").keys::<4>().iter().map(|key| i32::from_ne_bytes(*key).into()).collect(),
            inside: cgroup_members(&layout.cgroup_dir()).into_iter().map(i64::from).collect(),
            made: cgroups_in(&layout.cgroup_dir()).iter().filter_map(|path| inode(path)).collect(),
            listed: map("CGROUPS").keys::<8>().iter().map(|key| u64::from_ne_bytes(*key)).collect(),
            taken: (0..SLOTS).filter(|slot| state(*slot) != FREE).collect(),
            ended: since.lines().filter(|line| line.contains("\"kind\":\"session-ended\"")).count(),
        }
    }

    /// What is wrong, if anything is.
    pub(crate) fn complaint(&self) -> Option<String> {
        let found = self.look();
        let Found { sessions, files, tagged, inside, made, listed, taken, ended } = &found;
        let known: BTreeSet<i64> = sessions.values().flat_map(pids).collect();
        let cgroups: BTreeSet<u64> =
            sessions.values().filter_map(|it| inode(Path::new(text(it, "cgroup")))).collect();
        let lives = |it: &&Value| pids(it).next().is_some();
        let nameless = sessions.values().filter(lives).find(|it| text(it, "owner") != Envelope::OWNER);
        let wrong = [
            (nameless.is_some(), "a session that lives has no metadata"),
            (&known != tagged, "processes listed and tagged"),
            (&known != inside, "processes listed and in cgroups"),
            (!sessions.keys().eq(files.keys()), "sessions listed and written down"),
            (&cgroups != made, "cgroups of sessions, and those that there are"),
            (!listed.is_superset(&cgroups), "cgroups of sessions that the kernel does not know"),
            // What a session sent last may be on its way for a while after its end.
            (listed.len() > sessions.len() + ended, "cgroups that the kernel knows"),
            (taken.len() > sessions.len() + ended, "slots that are taken"),
        ];
        let wrong = wrong.iter().find(|(is_wrong, _)| *is_wrong).map(|(_, what)| (*what).to_owned());
        let wrong = wrong.or_else(|| sessions.values().find_map(|it| self.chain_complaint(&found, it)));
        wrong.map(|what| {
            format!("{what}: {sessions:#?} known {known:?} tagged {tagged:?} inside {inside:?} files {:?} made {made:?} listed {listed:?} taken {taken:?} ended {ended}", files.keys())
        })
    }

    /// Whether a session stands below whom it is said to, also in the kernel, and does not stand still.
    pub(crate) fn chain_complaint(&self, found: &Found, session: &Value) -> Option<String> {
        let id = text(session, "id");
        let (file, cgroup) = (found.files.get(id)?, Path::new(text(session, "cgroup")));
        match fs::read_to_string(cgroup.join("cgroup.freeze")) {
            Ok(text) if text.trim() == "0" => {}
            Ok(_) => return Some(format!("{id} stands still")),
            Err(error) => return Some(format!("{id} has ended meanwhile, or: {error}")),
        }
        let slot = |value: &Value| {
            let number = |name: &str| value[name].as_u64().expect("a number") as u32;
            [number("slot"), number("generation")]
        };
        let mut above: Vec<[u32; 2]> = Vec::new();
        let mut next = session["parent"].as_str();
        while let Some(parent) = next {
            let Some(there) = found.sessions.get(parent) else {
                return Some(format!("{id} is below {parent}, which is not there"));
            };
            if text(there, "state") != "active" && text(session, "state") == "active" {
                return Some(format!("{id} is active, and {parent} above it is not"));
            }
            above.push(slot(&found.files[parent]));
            next = there["parent"].as_str();
        }
        let said: Vec<[u32; 2]> =
            file["parent"]["ancestors"].as_array().into_iter().flatten().map(slot).collect();
        if said != above {
            return Some(format!("{id} is written down below {said:?}, and is below {above:?}"));
        }
        let rows = PinnedMap::open(&self.daemon.layout().pin_dir.join("maps/SESSIONS"));
        let row = rows.lookup::<ROW_BYTES>(&slot(file)[0].to_ne_bytes()).expect("it is an array");
        let word = |at: usize| u32::from_ne_bytes(row[at..at + 4].try_into().expect("four bytes"));
        let depth = word(36) as usize;
        let held: Vec<[u32; 2]> =
            (0..depth).map(|level| [word(40 + 8 * level), word(44 + 8 * level)]).collect();
        let hexadecimal: String = row[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        (held != above || hexadecimal != id.replace('-', ""))
            .then(|| format!("the kernel has {hexadecimal} below {held:?} for {id} below {above:?}"))
    }

    /// Whether those that stand lowest can show who gave them what they have, signed.
    #[track_caller]
    pub(crate) fn verify_chains(&self, when: &str) {
        const AT_MOST: usize = 3;
        let found = self.look();
        let depth = |session: &Value| {
            let parent = |it: &Value| found.sessions.get(it["parent"].as_str()?).cloned();
            std::iter::successors(Some(session.clone()), parent).count()
        };
        let mut known: Vec<(usize, &str)> = found
            .sessions
            .iter()
            .filter(|(_, session)| text(session, "owner") == Envelope::OWNER)
            .map(|(id, session)| (depth(session), id.as_str()))
            .collect();
        known.sort_unstable();
        for (depth, id) in known.iter().rev().take(AT_MOST) {
            let shown = self.daemon.layout().outcome(&["chain", id, "--format", "json"]);
            // One that has ended meanwhile has taken its chain along only if others were told of it by then.
            if self.look().sessions.contains_key(*id) {
                let shown: Value = serde_json::from_str(&shown.success().join("\n")).expect("it is JSON");
                assert_eq!(shown["hops"].as_array().map(Vec::len), Some(*depth), "{when}: {id}");
            }
        }
    }

    /// Waits until everything agrees.
    #[track_caller]
    pub(crate) fn check(&self, when: &str) {
        let end = Instant::now() + scaled(DEADLINE);
        while let Some(complaint) = self.complaint() {
            assert!(Instant::now() < end, "{when}: {complaint}");
            thread::sleep(scaled(Duration::from_millis(50)));
        }
    }
}

pub(crate) fn cgroups_in(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    paths.sort();
    paths
}
