//! In which order to try prefix lengths: a search tree over the lengths that an envelope has.
//!
//! An entry at the length tried leads to the longer ones, none to the shorter ones. So a prefix needs a marker at each
//! shorter length on its way. The tree is the one with the fewest markers among those that are at most one level deeper
//! than need be: when nearly all prefixes have one length, that length is tried first and needs none.

use enforcer_common::net::Family;
use enforcer_common::rules::{LengthNode, LengthPlan, MAX_LOOKUPS};

/// How many lengths there can be: 0 to 128.
pub(super) const LENGTHS: usize = 129;

/// A search tree over the lengths of one family.
#[derive(Debug)]
pub(super) struct Tree(Option<Box<Node>>);

#[derive(Debug)]
struct Node {
    bits: u8,
    shorter: Tree,
    longer: Tree,
}

impl Tree {
    /// The tree for so many prefixes of each length.
    pub(super) fn new(counts: &[u64; LENGTHS]) -> Self {
        let present: Vec<(u8, u64)> =
            (0..).zip(counts).filter(|(_, count)| **count > 0).map(|(bits, count)| (bits, *count)).collect();
        // As few levels as a tree of so many lengths can have, and one.
        let levels = (present.len() + 1).next_power_of_two().ilog2() as usize + 1;
        Planner::new(present).tree(levels.min(MAX_LOOKUPS))
    }

    pub(super) fn depth(&self) -> usize {
        self.0.as_ref().map_or(0, |node| 1 + node.shorter.depth().max(node.longer.depth()))
    }

    /// The lengths less than `bits` that are tried before it.
    pub(super) fn shorter_on_the_way_to(&self, bits: u8) -> impl Iterator<Item = u8> {
        let mut tree = self;
        std::iter::from_fn(move || {
            loop {
                let node = tree.0.as_ref()?;
                match node.bits.cmp(&bits) {
                    std::cmp::Ordering::Less => {
                        tree = &node.longer;
                        return Some(node.bits);
                    }
                    std::cmp::Ordering::Equal => return None,
                    std::cmp::Ordering::Greater => tree = &node.shorter,
                }
            }
        })
    }

    /// Writes the tree into its family's part of a plan.
    pub(super) fn write(&self, plan: &mut LengthPlan, family: Family) {
        let mut free = LengthPlan::root(family);
        self.write_at(plan, &mut free);
    }

    fn write_at(&self, plan: &mut LengthPlan, free: &mut usize) {
        let Some(node) = &self.0 else { return };
        let at = *free;
        *free += 1;
        node.longer.write_at(plan, free);
        let miss = match &node.shorter.0 {
            None => LengthNode::END,
            Some(_) => u8::try_from(*free).expect("a plan has fewer than 255 nodes"),
        };
        node.shorter.write_at(plan, free);
        plan.nodes[at] = LengthNode { bits: node.bits, miss };
    }
}

/// Finds the best tree for every run of lengths, from the leaves up.
struct Planner {
    present: Vec<(u8, u64)>,
    /// Prefixes up to each length.
    sums: Vec<u64>,
    /// Of lengths `from..to` within so many levels: the number of markers, and the length at the root. `None`: there is no
    /// such tree.
    best: std::collections::HashMap<(usize, usize, usize), Option<(u64, usize)>>,
}

impl Planner {
    fn new(present: Vec<(u8, u64)>) -> Self {
        let mut sums = vec![0];
        sums.extend(present.iter().scan(0, |sum, (_, count)| {
            *sum += count;
            Some(*sum)
        }));
        Self { present, sums, best: std::collections::HashMap::new() }
    }

    fn tree(mut self, levels: usize) -> Tree {
        let all = self.present.len();
        let found = self.best(0, all, levels);
        debug_assert!(all == 0 || found.is_some(), "{all} lengths in {levels} levels");
        self.build(0, all, levels)
    }

    fn build(&mut self, from: usize, to: usize, levels: usize) -> Tree {
        let Some((_, root)) = self.best(from, to, levels).filter(|_| from < to) else {
            return Tree(None);
        };
        let (shorter, longer) = (self.build(from, root, levels - 1), self.build(root + 1, to, levels - 1));
        Tree(Some(Box::new(Node { bits: self.present[root].0, shorter, longer })))
    }

    fn best(&mut self, from: usize, to: usize, levels: usize) -> Option<(u64, usize)> {
        if from == to {
            return Some((0, from));
        }
        // A tree of so many levels has at most 2^levels - 1 nodes.
        if to - from >= 1 << levels {
            return None;
        }
        if let Some(known) = self.best.get(&(from, to, levels)) {
            return *known;
        }
        let mut best: Option<(u64, usize)> = None;
        for root in from..to {
            let shorter = self.best(from, root, levels - 1);
            let longer = self.best(root + 1, to, levels - 1);
            if let (Some((shorter, _)), Some((longer, _))) = (shorter, longer) {
                let markers = shorter + longer + self.sums[to] - self.sums[root + 1];
                if best.is_none_or(|(fewest, _)| markers < fewest) {
                    best = Some((markers, root));
                }
            }
        }
        self.best.insert((from, to, levels), best);
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(present: &[(usize, u64)]) -> Tree {
        let mut counts = [0; LENGTHS];
        for (bits, count) in present {
            counts[*bits] = *count;
        }
        Tree::new(&counts)
    }

    /// The lengths tried for an address that has entries at `there` and at every marker on the way to them.
    fn tried(plan: &LengthPlan, family: Family, there: &[u8]) -> Vec<u8> {
        let mut index = LengthPlan::root(family);
        let mut tried = Vec::new();
        loop {
            let node = plan.nodes[index];
            if node.bits > family.bits() {
                return tried;
            }
            tried.push(node.bits);
            let longer = there.iter().any(|bits| *bits > node.bits);
            match (longer || there.contains(&node.bits), longer) {
                (true, true) => index += 1,
                (true, false) => return tried,
                (false, _) if node.miss == LengthNode::END => return tried,
                (false, _) => index = node.miss.into(),
            }
        }
    }

    #[test]
    fn every_length_is_found_within_the_bound() {
        for family in Family::ALL {
            for step in 1..=usize::from(family.bits()) {
                let lengths: Vec<_> =
                    (0..=usize::from(family.bits())).step_by(step).map(|bits| (bits, 1)).collect();
                let tree = tree(&lengths);
                assert!(tree.depth() <= MAX_LOOKUPS, "{step}: {}", tree.depth());
                let mut plan = LengthPlan::default();
                tree.write(&mut plan, *family);
                for (bits, _) in &lengths {
                    let bits = *bits as u8;
                    let tried = tried(&plan, *family, &[bits]);
                    assert!(tried.contains(&bits), "{bits} of {family}, step {step}: {tried:?}");
                }
            }
        }
    }

    #[test]
    fn the_length_of_nearly_all_prefixes_needs_no_markers() {
        let tree = tree(&[(8, 3), (16, 10), (24, 100), (32, 1_000_000)]);
        assert_eq!(tree.shorter_on_the_way_to(32).count(), 0);
        assert!(tree.depth() <= 4);
    }

    #[test]
    fn no_lengths_make_no_plan() {
        let mut plan = LengthPlan::default();
        tree(&[]).write(&mut plan, Family::V4);
        assert_eq!(plan, LengthPlan::default());
    }
}
