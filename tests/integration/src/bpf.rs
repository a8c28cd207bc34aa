//! What the kernel has loaded, seen through `bpftool` and not through the enforcer.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The ids of all objects of a kind that the kernel has: `prog`, `map` or `link`.
pub fn live_ids(kind: &str) -> BTreeSet<u64> {
    let list = bpftool(&[kind, "show"]).unwrap_or_else(|error| panic!("bpftool {kind} show: {error}"));
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

/// The kernel memory of each map that a pinned map of maps holds, in bytes.
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
        let map =
            bpftool(&["map", "show", "id", &id.to_string()]).unwrap_or_else(|error| panic!("{id}: {error}"));
        map["bytes_memlock"].as_u64().expect("a number of bytes")
    });
    inner.collect()
}

/// How many entries a pinned map has.
pub fn entries(pinned: &Path) -> usize {
    let name = pinned.to_str().expect("a pin's path is text");
    let dump = bpftool(&["map", "dump", "pinned", name]).unwrap_or_else(|error| panic!("{name}: {error}"));
    dump.as_array().expect("a list").len()
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
