//! What the kernel has loaded, seen through `bpftool` and not through the enforcer.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

use serde_json::Value;

use crate::{DEADLINE, Daemon, say, wait_until};

/// The ids of all objects of a kind that the kernel has: `prog`, `map` or `link`.
pub fn live_ids(kind: &str) -> BTreeSet<u64> {
    // One that is being made, which is everybody's, is an error of the whole list.
    let list = wait_until(DEADLINE, &format!("bpftool {kind} show"), || {
        bpftool(&[kind, "show"]).inspect_err(|error| say(&format!("bpftool {kind} show: {error}"))).ok()
    });
    list.as_array().expect("a list").iter().filter_map(|object| object["id"].as_u64()).collect()
}

/// The ids of the objects of a kind that are pinned below `directory`.
pub fn pinned_ids(kind: &str, directory: &Path) -> BTreeSet<u64> {
    let mut ids = BTreeSet::new();
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for path in entries.map(|entry| entry.expect("the directory can be read").path()) {
        if path.is_dir() {
            ids.extend(pinned_ids(kind, &path));
            continue;
        }
        let name = path.to_str().expect("a pin's path is text");
        // Fails for a pin of another kind.
        ids.extend(bpftool(&[kind, "show", "pinned", name]).ok().and_then(|object| object["id"].as_u64()));
    }
    ids
}

/// The kernel memory of each map that a pinned map of maps holds, in bytes; without those that go while this looks.
pub fn inner_memory(pinned: &Path) -> Vec<u64> {
    let name = pinned.to_str().expect("a pin's path is text");
    let dump = bpftool(&["map", "dump", "pinned", name]).unwrap_or_else(|error| panic!("{name}: {error}"));
    let inner = dump.as_array().expect("a list").iter().map(|entry| {
        let bytes = entry["value"].as_array().expect("the bytes of an id");
        let id = bytes.iter().rev().fold(0, |id, byte| {
            let byte =
                byte.as_str().and_then(|byte| u64::from_str_radix(byte.trim_start_matches("0x"), 16).ok());
            id << 8 | byte.expect("a byte")
        });
        match bpftool(&["map", "show", "id", &id.to_string()]) {
            Ok(map) => Some(map["bytes_memlock"].as_u64().expect("a number of bytes")),
            Err(error) if error.contains("No such file") => None,
            Err(error) => panic!("{id}: {error}"),
        }
    });
    inner.flatten().collect()
}

/// How many entries a pinned map has.
pub fn entries_of(pinned: &Path) -> usize {
    let name = pinned.to_str().expect("a pin's path is text");
    let dump = bpftool(&["map", "dump", "pinned", name]).unwrap_or_else(|error| panic!("{name}: {error}"));
    dump.as_array().expect("a list").len()
}

/// A pinned map, whose entries can be read as bytes.
#[derive(Debug)]
pub struct PinnedMap(OwnedFd);

impl PinnedMap {
    #[track_caller]
    pub fn open(pinned: &Path) -> Self {
        const OBJ_GET: i32 = 7;
        let path = CString::new(pinned.as_os_str().as_bytes()).expect("a path has no zero");
        let fd = bpf(OBJ_GET, &[path.as_ptr() as u64, 0]);
        let fd = fd.unwrap_or_else(|error| panic!("{}: {error}", pinned.display()));
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The value of a key, if there is one. `BYTES` is the size of values.
    pub fn lookup<const BYTES: usize>(&self, key: &[u8]) -> Option<[u8; BYTES]> {
        const LOOKUP_ELEM: i32 = 1;
        let mut value = [0; BYTES];
        let found =
            bpf(LOOKUP_ELEM, &[self.0.as_raw_fd() as u64, key.as_ptr() as u64, value.as_mut_ptr() as u64, 0]);
        found.ok().map(|_| value)
    }

    /// All keys that there are. `BYTES` is their size.
    pub fn keys<const BYTES: usize>(&self) -> Vec<[u8; BYTES]> {
        const GET_NEXT_KEY: i32 = 4;
        let mut keys: Vec<[u8; BYTES]> = Vec::new();
        let mut next = [0; BYTES];
        loop {
            let last = keys.last().map_or(ptr::null(), |key| key.as_ptr()) as u64;
            if bpf(GET_NEXT_KEY, &[self.0.as_raw_fd() as u64, last, next.as_mut_ptr() as u64]).is_err() {
                return keys;
            }
            keys.push(next);
        }
    }
}

/// A pinned hash map, filled to the brim with entries that mean nothing to anybody. They go on drop.
#[derive(Debug)]
pub struct FullMap {
    map: OwnedFd,
    keys: Vec<u32>,
}

impl FullMap {
    /// With keys of 32 bits from `first` upwards, which nobody else uses, and zeros for values of so many bytes.
    #[track_caller]
    pub fn fill(pinned: &Path, first: u32, value_bytes: usize) -> Self {
        const OBJ_GET: i32 = 7;
        const UPDATE_ELEM: i32 = 2;
        let path = CString::new(pinned.as_os_str().as_bytes()).expect("a path has no zero");
        let fd = bpf(OBJ_GET, &[path.as_ptr() as u64, 0]).expect("it is pinned");
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        let map = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut full = Self { map, keys: Vec::new() };
        let value = vec![0u8; value_bytes];
        for key in first.. {
            match bpf(UPDATE_ELEM, &[full.fd(), (&raw const key) as u64, value.as_ptr() as u64, 0]) {
                Ok(_) => full.keys.push(key),
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => break,
                Err(error) => panic!("{}: {error}", pinned.display()),
            }
        }
        full
    }

    /// How many entries there was room for.
    pub fn added(&self) -> usize {
        self.keys.len()
    }

    fn fd(&self) -> u64 {
        self.map.as_raw_fd() as u64
    }
}

impl Drop for FullMap {
    fn drop(&mut self) {
        const DELETE_ELEM: i32 = 3;
        for key in &self.keys {
            // It may have been removed by somebody who took it for something else.
            let _ = bpf(DELETE_ELEM, &[self.fd(), ptr::from_ref(key) as u64]);
        }
    }
}

/// The system call, with the first of its attributes; those that are left out are zero. Pointers in them must be valid.
fn bpf(command: i32, attributes: &[u64]) -> std::io::Result<i32> {
    let (pointer, bytes) = (attributes.as_ptr(), size_of_val(attributes));
    // SAFETY: the attributes outlive the call, and what they point to is the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, bytes) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Runs bpftool; its JSON or what it complained of.
fn bpftool(arguments: &[&str]) -> Result<Value, String> {
    let output = Command::new("bpftool")
        .arg("--json")
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .expect("these tests need bpftool");
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(text.into_owned());
    }
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}

/// A per-CPU value of 64 bits, for more CPUs than anybody has.
const EVERY_CPU_BYTES: usize = 8 << 10;

/// How many records each CPU has made, as the kernel counts.
#[track_caller]
pub fn records_made(daemon: &Daemon) -> Vec<u64> {
    let map = PinnedMap::open(&daemon.layout().pin_dir.join("maps/SEQUENCES"));
    let bytes = map.lookup::<EVERY_CPU_BYTES>(&0u32.to_ne_bytes()).expect("it has one entry");
    bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes"))).collect()
}
