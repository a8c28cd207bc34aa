//! The processes of a session, as the kernel reported them: who made whom, and what each runs. A process that has ended is
//! kept for as long as one it made lives, so that a lineage has no holes.

use std::collections::{BTreeMap, HashMap};

/// A process: its id, and its start on the boot clock, because ids are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ProcessKey {
    pub(crate) tgid: u32,
    pub(crate) start_ns: u64,
}

#[derive(Debug)]
struct Process {
    parent: Option<ProcessKey>,
    comm: Option<String>,
    /// As the caller of `execve` wrote it.
    path: Option<String>,
    ended: bool,
    /// Processes it made that are still in the tree.
    children: usize,
}

/// What is known of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessView<'a> {
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
}

impl ProcessTree {
    pub(crate) fn new(root: ProcessKey) -> Self {
        let mut tree = Self { processes: HashMap::new(), live: BTreeMap::new() };
        tree.insert(root, None, None);
        tree
    }

    /// A process made another one, which runs the same program until it executes another.
    pub(crate) fn fork(&mut self, parent_tgid: u32, child: ProcessKey) {
        if self.processes.contains_key(&child) {
            return;
        }
        let parent = self.live.get(&parent_tgid).copied();
        let inherited =
            parent.and_then(|key| self.processes.get(&key)).map(|p| (p.comm.clone(), p.path.clone()));
        self.insert(child, parent, inherited);
    }

    /// A process now runs this program.
    pub(crate) fn exec(&mut self, tgid: u32, comm: String, path: Option<String>) {
        if let Some(process) = self.live.get(&tgid).and_then(|key| self.processes.get_mut(key)) {
            process.comm = Some(comm);
            process.path = path;
        }
    }

    /// A process has ended.
    pub(crate) fn exit(&mut self, tgid: u32) {
        let Some(key) = self.live.remove(&tgid) else {
            return;
        };
        if let Some(process) = self.processes.get_mut(&key) {
            process.ended = true;
        }
        self.prune(Some(key));
    }

    /// Says what is known of a process from elsewhere, where the kernel's reports did not.
    pub(crate) fn describe(&mut self, tgid: u32, comm: Option<String>, path: Option<String>) {
        if let Some(process) = self.live.get(&tgid).and_then(|key| self.processes.get_mut(key)) {
            process.comm = process.comm.take().or(comm);
            process.path = process.path.take().or(path);
        }
    }

    /// Puts the tree right after reports were missed: exactly `tags` live, each with the parent that its tag names.
    pub(crate) fn reconcile(&mut self, tags: &[(ProcessKey, u32)]) {
        let gone: Vec<_> =
            self.live.values().filter(|key| !tags.iter().any(|(tag, _)| tag == *key)).copied().collect();
        for key in gone {
            self.exit(key.tgid);
        }
        let mut missing: Vec<_> = tags.iter().filter(|(key, _)| !self.processes.contains_key(key)).collect();
        // Parents start before their children.
        missing.sort_by_key(|(key, _)| key.start_ns);
        for (key, parent_tgid) in missing {
            self.fork(*parent_tgid, *key);
        }
    }

    /// The processes that live, by id.
    pub(crate) fn live(&self) -> impl Iterator<Item = ProcessView<'_>> {
        self.live.values().filter_map(|key| self.view(*key))
    }

    /// From the first process of the session to this one, as far as known.
    pub(crate) fn lineage(&self, tgid: u32) -> Vec<ProcessView<'_>> {
        let mut lineage: Vec<_> =
            std::iter::successors(self.live.get(&tgid).copied(), |key| self.processes.get(key)?.parent)
                .filter_map(|key| self.view(key))
                .collect();
        lineage.reverse();
        lineage
    }

    fn view(&self, key: ProcessKey) -> Option<ProcessView<'_>> {
        let process = self.processes.get(&key)?;
        Some(ProcessView {
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
        self.processes.insert(key, Process { parent, comm, path, ended: false, children: 0 });
        // An earlier process with this id whose exit was not reported has ended.
        if let Some(earlier) = self.live.insert(key.tgid, key) {
            if let Some(process) = self.processes.get_mut(&earlier) {
                process.ended = true;
            }
            self.prune(Some(earlier));
        }
    }

    /// Forgets an ended process that made none that is still there, and then whoever made it, likewise.
    fn prune(&mut self, mut key: Option<ProcessKey>) {
        while let Some(candidate) = key {
            match self.processes.get(&candidate) {
                Some(process) if process.ended && process.children == 0 => {}
                _ => return,
            }
            key = self.processes.remove(&candidate).and_then(|process| process.parent);
            if let Some(maker) = key.and_then(|key| self.processes.get_mut(&key)) {
                maker.children -= 1;
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
        tree.lineage(tgid).into_iter().map(|process| (process.tgid, process.comm)).collect()
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
        assert!(tree.processes.is_empty(), "nothing is kept for processes that nobody descends from");
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
