//! The processes of a session, as the kernel reported them: who made whom, and what each runs. A process that has ended is
//! kept for as long as one it made lives, so that a lineage has no holes: up to a bound, because a chain of processes that
//! each make one more and end would otherwise grow without end.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Ended processes that are kept for the lineage of others; the oldest are forgotten first, but never the session's first.
const MAX_ENDED: usize = 1024;
/// Processes of a lineage, from the youngest up; beyond them only the session's first is named.
const MAX_LINEAGE: usize = 32;

/// A process: its id, and its start on the boot clock, because ids are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ProcessKey {
    pub(crate) tgid: u32,
    pub(crate) start_ns: u64,
}

impl ProcessKey {
    /// No process.
    pub(crate) const NONE: Self = Self { tgid: 0, start_ns: 0 };

    /// The same for no two processes, of any boot.
    pub(crate) fn unique(self, boot_id: &str) -> String {
        format!("{boot_id}:{}:{}", self.tgid, self.start_ns)
    }
}

#[derive(Debug)]
struct Process {
    parent: Option<ProcessKey>,
    comm: Option<String>,
    /// As the caller of `execve` wrote it.
    path: Option<String>,
    /// SHA-256 of that, hexadecimal, where it was measured.
    digest: Option<String>,
    ended: bool,
    /// Processes it made that are still in the tree.
    children: usize,
}

/// What is known of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessView<'a> {
    pub(crate) key: ProcessKey,
    pub(crate) tgid: u32,
    pub(crate) parent: Option<u32>,
    pub(crate) comm: Option<&'a str>,
    pub(crate) path: Option<&'a str>,
}

/// The processes of one session.
#[derive(Debug)]
pub(crate) struct ProcessTree {
    processes: HashMap<ProcessKey, Process>,
    /// Those that live, by id.
    live: BTreeMap<u32, ProcessKey>,
    /// Those that have ended, oldest first; some of them are forgotten already.
    ended: VecDeque<ProcessKey>,
    root: ProcessKey,
}

impl ProcessTree {
    pub(crate) fn new(root: ProcessKey) -> Self {
        let mut tree =
            Self { processes: HashMap::new(), live: BTreeMap::new(), ended: VecDeque::new(), root };
        // Of a session that nobody is in yet there is no first process.
        if root != ProcessKey::NONE {
            tree.insert(root, None, None);
        }
        tree
    }

    /// A process made another one, which runs the same program until it executes another.
    pub(crate) fn fork(&mut self, parent_tgid: u32, child: ProcessKey) {
        if self.processes.contains_key(&child) {
            return;
        }
        let parent = self.live.get(&parent_tgid).copied();
        let maker = parent.and_then(|key| self.processes.get(&key));
        let inherited = maker.map(|p| (p.comm.clone(), p.path.clone()));
        let digest = maker.and_then(|maker| maker.digest.clone());
        self.insert(child, parent, inherited);
        if let Some(digest) = digest {
            self.measured(child, &digest);
        }
    }

    /// A process now runs this program.
    pub(crate) fn exec(&mut self, tgid: u32, comm: String, path: Option<String>) {
        if let Some(process) = self.live.get(&tgid).and_then(|key| self.processes.get_mut(key)) {
            process.comm = Some(comm);
            process.path = path;
            process.digest = None;
        }
    }

    /// What a process executes has this digest.
    pub(crate) fn measured(&mut self, key: ProcessKey, digest: &str) {
        if let Some(process) = self.processes.get_mut(&key) {
            process.digest = Some(digest.to_owned());
        }
    }

    /// The digest of what a process executes, if that was measured.
    pub(crate) fn digest(&self, tgid: u32) -> Option<&str> {
        self.processes.get(self.live.get(&tgid)?)?.digest.as_deref()
    }

    /// A process has ended.
    pub(crate) fn exit(&mut self, tgid: u32) {
        let Some(key) = self.live.remove(&tgid) else {
            return;
        };
        self.end(key);
    }

    /// Says what is known of a process from elsewhere, where the kernel's reports did not.
    pub(crate) fn describe(&mut self, tgid: u32, comm: Option<String>, path: Option<String>) {
        if let Some(process) = self.live.get(&tgid).and_then(|key| self.processes.get_mut(key)) {
            process.comm = process.comm.take().or(comm);
            process.path = process.path.take().or(path);
        }
    }

    /// Puts the tree right after reports were missed: exactly `tags` live, each with the parent that its tag names. Returns
    /// those that were not known.
    pub(crate) fn reconcile(&mut self, tags: &[(ProcessKey, u32)]) -> Vec<u32> {
        let alive: HashSet<_> = tags.iter().map(|(key, _)| *key).collect();
        let gone: Vec<_> = self.live.values().filter(|key| !alive.contains(key)).copied().collect();
        for key in gone {
            self.exit(key.tgid);
        }
        let mut missing: Vec<_> = tags.iter().filter(|(key, _)| !self.processes.contains_key(key)).collect();
        // Parents start before their children.
        missing.sort_by_key(|(key, _)| key.start_ns);
        for (key, parent_tgid) in &missing {
            self.fork(*parent_tgid, *key);
        }
        missing.into_iter().map(|(key, _)| key.tgid).collect()
    }

    /// The processes that live, by id.
    pub(crate) fn live(&self) -> impl Iterator<Item = ProcessView<'_>> {
        self.live.values().filter_map(|key| self.view(*key))
    }

    /// Likewise, by what tells them apart.
    pub(crate) fn live_keys(&self) -> impl Iterator<Item = ProcessKey> {
        self.live.values().copied()
    }

    /// From the session's first process to this one, and whether any between them are left out.
    pub(crate) fn lineage(&self, tgid: u32) -> (Vec<ProcessView<'_>>, bool) {
        let ancestors =
            std::iter::successors(self.live.get(&tgid).copied(), |key| self.processes.get(key)?.parent);
        let mut lineage: Vec<_> =
            ancestors.take(MAX_LINEAGE).map_while(|key| Some((key, self.view(key)?))).collect();
        let cut = lineage.last().is_some_and(|(oldest, _)| *oldest != self.root);
        if cut {
            lineage.extend(self.view(self.root).map(|view| (self.root, view)));
        }
        lineage.reverse();
        (lineage.into_iter().map(|(_, view)| view).collect(), cut)
    }

    fn view(&self, key: ProcessKey) -> Option<ProcessView<'_>> {
        let process = self.processes.get(&key)?;
        Some(ProcessView {
            key,
            tgid: key.tgid,
            parent: process.parent.map(|parent| parent.tgid),
            comm: process.comm.as_deref(),
            path: process.path.as_deref(),
        })
    }

    fn insert(
        &mut self,
        key: ProcessKey,
        parent: Option<ProcessKey>,
        program: Option<(Option<String>, Option<String>)>,
    ) {
        let (comm, path) = program.unwrap_or_default();
        if let Some(maker) = parent.and_then(|key| self.processes.get_mut(&key)) {
            maker.children += 1;
        }
        self.processes.insert(key, Process { parent, comm, path, digest: None, ended: false, children: 0 });
        // An earlier process with this id whose exit was not reported has ended.
        if let Some(earlier) = self.live.insert(key.tgid, key).filter(|earlier| *earlier != key) {
            self.end(earlier);
        }
    }

    fn end(&mut self, key: ProcessKey) {
        if let Some(process) = self.processes.get_mut(&key) {
            process.ended = true;
        }
        self.prune(Some(key));
        if key != self.root && self.processes.contains_key(&key) {
            self.ended.push_back(key);
        }
        while self.ended.len() > MAX_ENDED {
            // Those it made keep its key as their parent, and their lineage has a gap there. A key may have come back since, as
            // that of a process that lives: a report that was late.
            let oldest =
                self.ended.pop_front().filter(|key| self.processes.get(key).is_some_and(|p| p.ended));
            if let Some(parent) = oldest.and_then(|oldest| self.processes.remove(&oldest)?.parent) {
                self.forget_child_of(parent);
                self.prune(Some(parent));
            }
        }
    }

    fn forget_child_of(&mut self, parent: ProcessKey) {
        if let Some(maker) = self.processes.get_mut(&parent) {
            // Saturating: a process that was forgotten and is reported again does not know of those it made before.
            maker.children = maker.children.saturating_sub(1);
        }
    }

    /// Forgets an ended process that made none that is still there, and then whoever made it, likewise. The session's first
    /// process is always known.
    fn prune(&mut self, mut key: Option<ProcessKey>) {
        while let Some(candidate) = key {
            match self.processes.get(&candidate) {
                Some(process) if process.ended && process.children == 0 && candidate != self.root => {}
                _ => return,
            }
            key = self.processes.remove(&candidate).and_then(|process| process.parent);
            if let Some(parent) = key {
                self.forget_child_of(parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tgid: u32) -> ProcessKey {
        ProcessKey { tgid, start_ns: u64::from(tgid) * 10 }
    }

    fn names(tree: &ProcessTree, tgid: u32) -> Vec<(u32, Option<&str>)> {
        tree.lineage(tgid).0.into_iter().map(|process| (process.tgid, process.comm)).collect()
    }

    fn family() -> ProcessTree {
        let mut tree = ProcessTree::new(key(1));
        tree.exec(1, "agent".into(), Some("/bin/agent".into()));
        tree.fork(1, key(2));
        tree.exec(2, "sh".into(), None);
        tree.fork(2, key(3));
        tree
    }

    #[test]
    fn lineage_outlives_the_processes_in_it() {
        let mut tree = family();
        tree.exit(2);
        tree.exit(1);
        assert_eq!(names(&tree, 3), [(1, Some("agent")), (2, Some("sh")), (3, Some("sh"))]);
        assert_eq!(tree.live().map(|process| process.tgid).collect::<Vec<_>>(), [3]);
        tree.exit(3);
        assert_eq!(tree.processes.len(), 1, "of processes that nobody descends from, only the first is kept");
    }

    #[test]
    fn reused_id_is_another_process() {
        let mut tree = family();
        tree.exit(2);
        let reused = ProcessKey { tgid: 2, start_ns: 99 };
        tree.fork(1, reused);
        assert_eq!(names(&tree, 2), [(1, Some("agent")), (2, Some("agent"))]);
        assert_eq!(names(&tree, 3), [(1, Some("agent")), (2, Some("sh")), (3, Some("sh"))]);
    }

    #[test]
    fn reconcile_takes_the_kernels_word() {
        let mut tree = family();
        tree.reconcile(&[(key(3), 2), (key(5), 4), (key(4), 3)]);
        assert_eq!(names(&tree, 5).len(), 5);
        assert_eq!(tree.live().map(|process| process.tgid).collect::<Vec<_>>(), [3, 4, 5]);
    }

    /// `for (;;) if (fork()) exit(0);`: one process at a time, each the child of the one before.
    #[test]
    fn endless_chain_is_kept_short() {
        let mut tree = ProcessTree::new(key(1));
        tree.exec(1, "agent".into(), None);
        for tgid in 2..20_000 {
            tree.fork(tgid - 1, key(tgid));
            tree.exit(tgid - 1);
        }
        let (lineage, cut) = tree.lineage(19_999);
        assert!(cut);
        assert_eq!(lineage.len(), MAX_LINEAGE + 1);
        assert_eq!((lineage[0].tgid, lineage[0].comm), (1, Some("agent")), "the first is always named");
        assert_eq!(lineage.last().map(|process| process.tgid), Some(19_999));
        assert!(tree.processes.len() <= MAX_ENDED + 2, "{}", tree.processes.len());
        assert!(tree.ended.len() <= MAX_ENDED);
        tree.exit(19_999);
        assert_eq!(tree.live().count(), 0);
    }

    /// What the tags said before the records arrived: a process is forgotten, reported again, and ends again.
    #[test]
    fn reports_that_are_late_do_no_harm() {
        let mut tree = ProcessTree::new(key(1));
        tree.reconcile(&[(key(1), 0), (key(2), 1), (key(3), 2)]);
        tree.reconcile(&[(key(1), 0), (key(3), 2)]);
        for tgid in (10..2_400).step_by(2) {
            tree.fork(1, key(tgid));
            tree.fork(tgid, key(tgid + 1));
            tree.exit(tgid);
            tree.exit(tgid + 1);
        }
        tree.fork(1, key(2));
        tree.exit(2);
        tree.fork(1, key(2));
        tree.exit(3);
        let known: Vec<_> = tree.live().map(|process| process.tgid).collect();
        assert_eq!(known, [1, 2]);
        assert!(known.iter().all(|tgid| !tree.lineage(*tgid).0.is_empty()), "who lives, is known");
    }

    proptest::proptest! {
        /// Reports in any order, with any of them missing: no panic, and nothing lives that is not known.
        #[test]
        fn any_reports_leave_a_sound_tree(steps in proptest::collection::vec((0u8..5, 1u32..12, 1u32..12, 0u64..3), 0..400)) {
            let mut tree = ProcessTree::new(key(1));
            for (what, a, b, start_ns) in steps {
                let other = ProcessKey { tgid: b, start_ns };
                match what {
                    0 | 1 => tree.fork(a, other),
                    2 => tree.exit(a),
                    3 => tree.exec(a, "x".into(), None),
                    _ => drop(tree.reconcile(&[(key(1), 0), (other, a)])),
                }
                for tgid in tree.live.keys() {
                    proptest::prop_assert!(!tree.lineage(*tgid).0.is_empty());
                }
            }
        }
    }

    #[test]
    fn many_short_lived_children_leave_nothing() {
        let mut tree = ProcessTree::new(key(1));
        for tgid in 2..10_000 {
            tree.fork(1, key(tgid));
            tree.exit(tgid);
        }
        assert_eq!(tree.processes.len(), 1);
    }
}
