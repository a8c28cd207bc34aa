//! The enforcer's objects in the kernel, as the kernel describes them: read from descriptors, so that nothing else is needed.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use crate::techniques::objects;

/// `BPF_MODIFY_RETURN` and `BPF_LSM_MAC`: programs that can refuse what the kernel is about to do.
const MODIFY_RETURN: &str = "26";
const LSM: &str = "27";

/// What is pinned in a directory.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    pub(crate) links: Vec<u64>,
    pub(crate) maps: Vec<u64>,
    pub(crate) files: usize,
    /// Whether there is a program among them that guards more than the network, and that the kernel runs.
    pub(crate) guard: bool,
}

impl Pinned {
    /// Nothing, if there is no such directory any more.
    pub(crate) fn in_directory(pins: &Path) -> Self {
        let mut pinned = Self::default();
        for file in objects::files_below(pins).unwrap_or_default() {
            pinned.files += 1;
            let Ok(object) = objects::by_pin(&file) else { continue };
            let described = describe(&object);
            let number = |name: &str| described.get(name).and_then(|value| value.parse::<u64>().ok());
            pinned.links.extend(number("link_id"));
            pinned.maps.extend(number("map_id"));
            pinned.guard |= match described.get("attach_type").map(String::as_str) {
                Some(MODIFY_RETURN) => true,
                // It attaches without complaint, and never runs, where the kernel was not started with it.
                Some(LSM) => lsm_is_active(),
                _ => false,
            };
        }
        pinned
    }
}

/// Whether the link is there, and still attached to something.
pub(crate) fn link_works(id: u64) -> bool {
    objects::link(id).is_ok_and(|link| describe(&link).get("cgroup_id").is_none_or(|cgroup| cgroup != "0"))
}

fn describe(object: &OwnedFd) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd())).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn lsm_is_active() -> bool {
    let list = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    list.trim().split(',').any(|name| name == "bpf")
}
