//! `cgroup`.

use super::Place;
use crate::config::loaded;

/// A cgroup of the v2 hierarchy.
#[derive(Clone, Copy)]
pub(crate) struct Cgroup(Place);

impl Cgroup {
    pub(super) const fn at(place: Place) -> Self {
        Self(place)
    }

    /// The id of its ancestor so many levels below the root, itself included; 0 if it is not that deep, `None` if it cannot be
    /// read.
    #[inline(always)]
    pub(crate) fn ancestor_id(self, level: u32) -> Option<u64> {
        if self.0.load::<u32>(loaded!(offsets.cgroup_level))? < level {
            return Some(0);
        }
        let ancestors = loaded!(offsets.cgroup_ancestors);
        let ancestor = self.0.follow(ancestors.wrapping_add(level.wrapping_mul(size_of::<u64>() as u32)))?;
        ancestor.follow(loaded!(offsets.cgroup_kn))?.load(loaded!(offsets.kernfs_node_id))
    }
}
