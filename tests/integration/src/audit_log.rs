//! Audit logs, as bytes: read and written by what `docs/audit-log.md` says, and by none of the enforcer's code, so that a test can change
//! them as somebody else would.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::{DEADLINE, Finished, Layout, Process, unique, wait_until};

const HEADER_BYTES: usize = 128;
const CHECKPOINT: u8 = 3;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    pub kind: u8,
    pub sequence: u64,
    pub payload: Vec<u8>,
    pub chain: [u8; 32],
}

impl RawEntry {
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("it is short").to_le_bytes();
        let head = [&length[..], &[self.kind], &self.sequence.to_le_bytes()].concat();
        [&head[..], &self.payload, &self.chain].concat()
    }

    pub fn is_checkpoint(&self) -> bool {
        self.kind == CHECKPOINT
    }

    /// The chain value that it should have behind this one.
    pub fn chain_after(&self, before: [u8; 32]) -> [u8; 32] {
        let length = u32::try_from(self.payload.len()).expect("it is short").to_le_bytes();
        let parts: [&[u8]; 5] = [&before, &[self.kind], &self.sequence.to_le_bytes(), &length, &self.payload];
        digest(&SHA256, &parts.concat()).as_ref().try_into().expect("32 bytes")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).expect("every payload is JSON")
    }
}

/// A segment, unpacked.
#[derive(Clone, Debug)]
pub struct RawSegment {
    pub path: PathBuf,
    pub header: Vec<u8>,
    pub entries: Vec<RawEntry>,
    /// Of an entry that is not whole.
    pub rest: Vec<u8>,
}

impl RawSegment {
    /// Reads it, packed or not.
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("it is there");
        let is_packed = path.extension().is_some_and(|extension| extension == "zst");
        let bytes = if is_packed { zstd::decode_all(&bytes[..]).expect("it is packed") } else { bytes };
        let (header, mut rest) = bytes.split_at(HEADER_BYTES);
        let mut entries = Vec::new();
        while let Some((head, tail)) = rest.split_at_checked(13) {
            let length = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
            let Some((body, tail)) = tail.split_at_checked(length + 32) else { break };
            let (payload, chain) = body.split_at(length);
            entries.push(RawEntry {
                kind: head[4],
                sequence: u64::from_le_bytes(head[5..].try_into().expect("eight bytes")),
                payload: payload.to_vec(),
                chain: chain.try_into().expect("32 bytes"),
            });
            rest = tail;
        }
        Self { path: path.to_owned(), header: header.to_vec(), entries, rest: rest.to_vec() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let entries = self.entries.iter().flat_map(RawEntry::bytes);
        self.header.iter().copied().chain(entries).chain(self.rest.iter().copied()).collect()
    }

    #[track_caller]
    pub fn write(&self) {
        fs::write(&self.path, self.bytes()).expect("it is ours");
    }

    /// The chain value before the first entry, as the header says.
    pub fn chain_before(&self) -> [u8; 32] {
        self.header[40..72].try_into().expect("32 bytes")
    }

    pub fn first(&self) -> u64 {
        u64::from_le_bytes(self.header[32..40].try_into().expect("eight bytes"))
    }

    /// Makes the chain values right from an entry on.
    pub fn rechain(&mut self, from: usize) {
        let mut before = if from == 0 { self.chain_before() } else { self.entries[from - 1].chain };
        for entry in &mut self.entries[from..] {
            entry.chain = entry.chain_after(before);
            before = entry.chain;
        }
    }
}

/// A copy of a log, with where it ends and the public key, to do something to.
#[derive(Debug)]
pub struct LogCopy {
    place: PathBuf,
}

impl LogCopy {
    /// Of a daemon's log, as it stands.
    #[track_caller]
    pub fn of(layout: &Layout) -> Self {
        let copy = Self { place: layout.file(&unique("log")) };
        let pem = layout.outcome(&["audit", "key"]).success().join("\n") + "\n";
        copy.fill(&layout.state_dir());
        fs::write(copy.key(), pem).expect("it is ours");
        copy
    }

    /// Another one, of this one.
    #[track_caller]
    pub fn again(&self) -> Self {
        let copy = Self { place: self.place.with_file_name(unique("log")) };
        copy.fill(&self.place);
        fs::copy(self.key(), copy.key()).expect("it is ours");
        copy
    }

    #[track_caller]
    fn fill(&self, from: &Path) {
        let copy = || {
            fs::create_dir_all(self.dir()).expect("the directory is ours");
            // First, so that the log has come at least as far.
            fs::copy(from.join("audit.head"), self.head())?;
            let stub = || fs::read(from.join("audit/removed.stub")).ok();
            let removed = stub();
            let entries = fs::read_dir(from.join("audit"))?.collect::<Result<Vec<_>, _>>()?;
            for path in entries.iter().map(fs::DirEntry::path) {
                fs::copy(&path, self.dir().join(path.file_name().expect("a name")))?;
            }
            // An entry that speaks of a stub comes before it: in a segment that may have been copied before that.
            if removed == stub() { Ok(()) } else { Err(std::io::Error::from(ErrorKind::NotFound)) }
        };
        wait_until(DEADLINE, "it is copied", || match copy() {
            Ok(()) => Some(()),
            // A segment was packed or removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::remove_dir_all(&self.place).expect("it is ours");
                None
            }
            Err(error) => panic!("copy the log in `{}`: {error}", from.display()),
        });
    }

    pub fn dir(&self) -> PathBuf {
        self.place.join("audit")
    }

    pub fn head(&self) -> PathBuf {
        self.place.join("audit.head")
    }

    pub fn key(&self) -> PathBuf {
        self.place.join("key.pem")
    }

    /// Takes the place of the directory of another copy, whose head and key stay.
    #[track_caller]
    pub fn replace_dir_of(&self, other: &Self) {
        fs::remove_dir_all(other.dir()).expect("it is ours");
        let copied = Command::new("cp").arg("-a").arg(self.dir()).arg(other.dir()).status();
        assert!(copied.expect("there is `cp`").success());
    }

    /// The files of the segments, the oldest first. Of one that is there twice the packed one, as the enforcer has it.
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir()).expect("it is there");
        let paths = entries.map(|entry| entry.expect("it can be read").path());
        let is_segment = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.len() >= 24
                && name.as_bytes()[..20].iter().all(u8::is_ascii_digit)
                && !name.ends_with(".tmp")
        };
        let mut segments: Vec<PathBuf> = paths.filter(is_segment).collect();
        segments.sort();
        let all = segments.clone();
        segments.retain(|path| !all.contains(&path.with_added_extension("zst")));
        segments
    }

    /// Has no packed segments any more.
    #[track_caller]
    pub fn unpack(&self) -> Vec<RawSegment> {
        let unpack = |path: PathBuf| {
            let mut segment = RawSegment::read(&path);
            if path.extension().is_some_and(|extension| extension == "zst") {
                segment.path = path.with_extension("");
                segment.write();
                fs::remove_file(path).expect("it is ours");
            }
            segment
        };
        self.segments().into_iter().map(unpack).collect()
    }

    /// What `enforcer audit verify` says of it, and how it ends.
    #[track_caller]
    pub fn outcome(&self, layout: &Layout, more: &[&str]) -> Finished {
        let mut command = layout.command(&["audit", "verify", "--format", "json", "--dir"]);
        command.arg(self.dir()).args(more);
        if !more.contains(&"--key") {
            command.arg("--key").arg(self.key());
        }
        Process::spawn(command).finish(DEADLINE)
    }

    /// What it says: a document, whose exit code must agree with it.
    #[track_caller]
    pub fn verify(&self, layout: &Layout) -> Value {
        self.verify_with(layout, &[])
    }

    #[track_caller]
    pub fn verify_with(&self, layout: &Layout, more: &[&str]) -> Value {
        let finished = self.outcome(layout, more);
        let text = finished.stdout.join("\n");
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", finished.stderr));
        let code = if value["sound"] == true { 0 } else { 1 };
        assert_eq!(finished.status.code(), Some(code), "{value}");
        value
    }

    #[track_caller]
    pub fn expect_sound(&self, layout: &Layout) -> Value {
        let value = self.verify(layout);
        assert_eq!(value["sound"], true, "{value}");
        value
    }

    /// That something is wrong, first with this entry. In which segment, and what.
    #[track_caller]
    pub fn expect_finding(&self, layout: &Layout, what: &str, sequence: u64) -> (String, String) {
        let value = self.verify(layout);
        assert_eq!(value["sound"], false, "{what}: {value}");
        assert_eq!(value["finding"]["sequence"], sequence, "{what}: {value}");
        let text = |name: &str| value["finding"][name].as_str().expect("text").to_owned();
        (text("segment"), text("what"))
    }
}
