//! Merkle trees as RFC 9162 (2.1) has them: roots that grow with the leaves, and paths from a leaf to the root.

use super::hash::Hash;

/// The hash of a leaf: here of an entry's chain value, which is made of the entry.
pub(super) fn leaf(chain: Hash) -> Hash {
    Hash::of(&[&[0], &chain.0])
}

fn node(left: Hash, right: Hash) -> Hash {
    Hash::of(&[&[1], &left.0, &right.0])
}

/// A tree of which only the roots of its full parts are kept: as many as the number of leaves has binary digits.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    leaves: u64,
    /// The largest first.
    full: Vec<Hash>,
}

impl Tree {
    pub(super) fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // One part for each digit; the ones at the end carry.
        for _ in 0..self.leaves.trailing_ones() {
            if let Some(left) = self.full.pop() {
                hash = node(left, hash);
            }
        }
        self.full.push(hash);
        self.leaves += 1;
    }

    pub(super) const fn leaves(&self) -> u64 {
        self.leaves
    }

    pub(super) fn root(&self) -> Hash {
        let folded = self.full.iter().rev().copied().reduce(|right, left| node(left, right));
        folded.unwrap_or_else(|| Hash::of(&[]))
    }
}

/// The root of these leaves.
fn root(leaves: &[Hash]) -> Hash {
    let mut tree = Tree::default();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    tree.root()
}

/// What stands beside the way from a leaf to the root, the nearest first. Empty if there is no such leaf.
pub(super) fn path(leaves: &[Hash], at: usize) -> Vec<Hash> {
    if at >= leaves.len() || leaves.len() < 2 {
        return Vec::new();
    }
    // The largest power of two below the number of leaves.
    let half = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(half);
    let (mut beside, last) =
        if at < half { (path(left, at), root(right)) } else { (path(right, at - half), root(left)) };
    beside.push(last);
    beside
}

/// The root that a leaf and its path lead to (2.1.3.2); nothing if there can be no such path.
pub(super) fn root_from(leaf: Hash, at: u64, leaves: u64, path: &[Hash]) -> Option<Hash> {
    if at >= leaves {
        return None;
    }
    let (mut at, mut last, mut hash) = (at, leaves - 1, leaf);
    for beside in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node(*beside, hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(hash, *beside);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u8) -> Vec<Hash> {
        (0..count).map(|n| leaf(Hash([n; 32]))).collect()
    }

    /// MTH as the RFC writes it.
    fn model(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::of(&[]),
            [leaf] => *leaf,
            leaves => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node(model(left), model(right))
            }
        }
    }

    #[test]
    fn roots_and_paths_are_those_of_the_rfc() {
        for count in 0..70 {
            let leaves = leaves(count);
            assert_eq!(root(&leaves), model(&leaves), "{count}");
            for at in 0..leaves.len() {
                let path = path(&leaves, at);
                let found = |leaf, at, path: &[Hash]| root_from(leaf, at, leaves.len() as u64, path);
                assert_eq!(found(leaves[at], at as u64, &path), Some(model(&leaves)), "{at} of {count}");
                // Controls: another leaf, another place, a path that is too short or too long.
                assert_ne!(found(Hash::ZERO, at as u64, &path), Some(model(&leaves)));
                if leaves.len() > 1 {
                    let other = (at as u64 + 1) % leaves.len() as u64;
                    assert_ne!(found(leaves[at], other, &path), Some(model(&leaves)), "{at} of {count}");
                    assert_ne!(found(leaves[at], at as u64, &path[1..]), Some(model(&leaves)));
                }
                let longer = [&path[..], &[Hash::ZERO]].concat();
                assert_eq!(found(leaves[at], at as u64, &longer), None, "{at} of {count}");
            }
            assert_eq!(root_from(Hash::ZERO, u64::from(count), u64::from(count), &[]), None);
        }
    }

    /// Leaves of length 1, as in the tests of RFC 6962 implementations, would be other leaves than ours; the empty root is the same.
    #[test]
    fn empty_root_is_that_of_nothing() {
        assert_eq!(root(&[]).to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
