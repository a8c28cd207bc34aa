//! A host of its own, as far as the network goes, that can fall silent: as one does whose power has failed, it answers nothing more,
//! and nobody is told.

use std::net::Ipv4Addr;
use std::process::Command;

use integration::{NetNs, system, unique};

const MAC: &str = "02:00:00:00:00:02";

#[derive(Debug)]
pub(crate) struct FarHost {
    pub(crate) namespace: NetNs,
    pub(crate) address: Ipv4Addr,
    /// Our end of the cable.
    near: String,
}

impl FarHost {
    pub(crate) fn new() -> Self {
        let [high, low] = u16::try_from(std::process::id() % 0xffff).expect("it is less").to_be_bytes();
        // Of the addresses for tests of networks: ours are the processes', which nobody else has.
        let (ours, address) =
            (format!("198.18.{high}.{}/30", low & !3 | 1), Ipv4Addr::new(198, 18, high, low & !3 | 2));
        let near: String = unique("fh").chars().take(15).collect();
        let far = Self { namespace: NetNs::new(), address, near };
        let (near, here) = (far.near.as_str(), std::process::id().to_string());
        far.ip(&["link", "add", "far", "address", MAC, "type", "veth", "peer", "name", near, "netns", &here]);
        far.ip(&["link", "set", "far", "up"]);
        system(&["ip", "address", "add", &ours, "dev", near]);
        system(&["ip", "link", "set", near, "up"]);
        // Not asked for: that there is no answer would tell that the host is gone.
        let text = address.to_string();
        system(&["ip", "neighbour", "replace", &text, "lladdr", MAC, "dev", near, "nud", "permanent"]);
        far.come_back();
        far
    }

    /// What it is sent from now on is nobody's there.
    pub(crate) fn fall_silent(&self) {
        self.ip(&["address", "delete", &format!("{}/30", self.address), "dev", "far"]);
    }

    pub(crate) fn come_back(&self) {
        self.ip(&["address", "add", &format!("{}/30", self.address), "dev", "far"]);
    }

    #[track_caller]
    fn ip(&self, arguments: &[&str]) {
        let mut ip = Command::new("ip");
        self.namespace.put(&mut ip);
        let ended = ip.args(arguments).output().expect("`ip` is installed");
        assert!(ended.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

impl Drop for FarHost {
    fn drop(&mut self) {
        // With one end go both; it may not have come so far.
        drop(Command::new("ip").args(["link", "delete", &self.near]).output());
    }
}
