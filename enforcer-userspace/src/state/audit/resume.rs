//! How the writer finds the log at its start, and what it makes of it: it goes on behind the last entry that is whole and in order. What
//! the daemon before had not vouched for may be torn; what it had vouched for must be there. Otherwise somebody changed it: the log says
//! so, and goes on.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use ring::hmac;
use uuid::Uuid;

use super::{
    super::{make_dir, sync_dir},
    AuditError, Opening, Shared,
    files::{LogDir, SegmentFile},
    pack::remove,
    queue::Queue,
    writer::{Place, Writer},
};
use crate::{
    audit::{
        Anchor, Begun, Found, HEADER_BYTES, HeadSaid, Header, KeyStatement, Kind, Lost, Moment, Opened,
        ReadError, SegmentReader, Signed, State, key_bytes,
    },
    path_error::PathError,
    signature::SigningKey,
};

const MACHINE_ID: &str = "/etc/machine-id";
/// Names what the machine's name is made for.
const MACHINE_USE: &[u8] = b"enforcer audit log";

/// The last segment, as far as it is to be believed.
struct Scanned {
    segment: SegmentFile,
    header: Header,
    state: State,
    /// The key in force at its end, as a header has it.
    key: [u8; 8],
    good_bytes: u64,
    /// Why there is no more to read, if that is not its end.
    broken: Option<String>,
    /// The chain value of the entry at which the head says that a checkpoint is.
    at_head: Option<crate::audit::Hash>,
}

/// What is said of what was found.
#[derive(Default)]
struct Findings {
    signs: Vec<String>,
    cut_bytes: u64,
    kept: Option<String>,
}

/// Opens the log, or begins one, and says how it was found.
pub(super) fn resume<'s>(
    opening: &Opening,
    queue: &Arc<Queue>,
    shared: &'s Shared,
) -> Result<Writer<'s>, AuditError> {
    let dir = &opening.dir;
    let moment = Moment { time: jiff::Timestamp::now(), boot_id: opening.boot_id.clone() };
    make_dir(dir.path())?;
    for path in dir.left_over()? {
        remove(&path)?;
    }
    let mut findings = Findings::default();
    let head = match dir.head() {
        Err(AuditError::Format { path, .. }) => {
            findings.signs.push(format!("`{}` is none", path.display()));
            None
        }
        head => head?,
    };
    let mut segments = dir.segments()?;
    let scanned = find_end(dir, &mut segments, head.as_ref(), &moment, &mut findings)?;
    compare(dir, head.as_ref(), scanned.as_ref(), &mut findings)?;
    let in_force = scanned.as_ref().map_or_else(|| key_bytes(&opening.key.trust_key().id()), |end| end.key);
    let (key, vouched) = key_to_use(opening, in_force, &mut findings)?;

    let is_new = scanned.is_none();
    let mut out = Vec::new();
    let (mut state, file, header, bytes) = match scanned {
        Some(scanned) => go_on(dir, scanned, &moment, &mut findings)?,
        None => begin(opening, &key, &moment, &mut out)?,
    };
    let Findings { signs, cut_bytes, kept } = findings;
    let found = match (signs.is_empty(), cut_bytes, is_new) {
        (false, ..) => Found::Tampered,
        (true, 1.., _) => Found::Torn,
        (true, 0, true) => Found::New,
        (true, 0, false) => Found::Sound,
    };
    let time = moment.time.to_string();
    let last = opening.events_before;
    if last > state.last_event {
        let first = state.last_event + 1;
        let why = "the daemon ended before they were written".to_owned();
        let lost = Lost { first, last, events: last - state.last_event, why, time: time.clone() };
        append(&mut state, Kind::Lost, &lost, &mut out);
    }
    if !vouched {
        let public = key.trust_key();
        let old = format!("{:016x}", u64::from_be_bytes(in_force));
        let ids = [old, public.id().to_string()];
        let statement = KeyStatement::new(state.log, state.sequence + 1, ids, public.to_pem(), &moment);
        let statement = serde_json::to_string(&statement).expect("it holds only text and numbers");
        append(&mut state, Kind::KeyChanged, &Signed { statement, signature: None }, &mut out);
    }
    let detail = (!signs.is_empty()).then(|| signs.join("; "));
    let said = head.map(|head| HeadSaid { log: head.log, sequence: head.sequence, chain: head.chain });
    let opened = Opened {
        found,
        cut_bytes,
        kept,
        detail: detail.clone(),
        head: said.filter(|_| found == Found::Tampered),
        events_before: last,
        release: opening.release.to_owned(),
        time,
        boot_id: moment.boot_id.clone(),
    };
    append(&mut state, Kind::Opened, &opened, &mut out);
    let place = Place { state, file, header, bytes };
    let writer = Writer::begin(opening, key, queue, shared, place, (&segments, &out))?;
    if let Some(detail) = detail {
        shared.sign(detail);
    }
    Ok(writer)
}

fn append(state: &mut State, kind: Kind, payload: &impl serde::Serialize, out: &mut Vec<u8>) {
    let payload = serde_json::to_vec(payload).expect("it holds only text and numbers");
    state.append(kind, &payload, out);
}

/// The last segment in which there is something. Those that are none are put aside.
fn find_end(
    dir: &LogDir,
    segments: &mut Vec<SegmentFile>,
    head: Option<&Anchor>,
    moment: &Moment,
    findings: &mut Findings,
) -> Result<Option<Scanned>, AuditError> {
    while let Some(last) = segments.pop() {
        match scan(dir, &last, head)? {
            Ok(scanned) if scanned.state.sequence > 0 => return Ok(Some(scanned)),
            // A daemon was ended when it had just begun the log.
            Ok(scanned) if head.is_none() && scanned.broken.is_none() => remove(&last.path)?,
            Ok(_) => put_aside(dir, &last.path, moment)?,
            Err(why) => {
                findings.signs.push(format!("the segment `{}` cannot be read: {why}", last.name()));
                put_aside(dir, &last.path, moment)?;
            }
        }
    }
    Ok(None)
}

/// Reads a segment as far as it is in order. The inner error: it has no header.
fn scan(
    dir: &LogDir,
    segment: &SegmentFile,
    head: Option<&Anchor>,
) -> Result<Result<Scanned, ReadError>, AuditError> {
    let failed = |source| AuditError::Segment { path: segment.path.clone(), source };
    let mut reader = match SegmentReader::open(dir.open(segment)?) {
        Err(ReadError::Io(error)) if !segment.packed => return Err(failed(ReadError::Io(error))),
        Err(error) => return Ok(Err(error)),
        Ok(reader) => reader,
    };
    let header = *reader.header();
    let mut scanned = Scanned {
        segment: segment.clone(),
        header,
        state: State::at(&header),
        key: header.key,
        good_bytes: HEADER_BYTES as u64,
        broken: None,
        at_head: None,
    };
    if header.first != segment.first {
        return Ok(Err(ReadError::Header("it is of another segment")));
    }
    loop {
        let entry = match reader.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(Ok(scanned)),
            Err(ReadError::Io(error)) if !segment.packed => return Err(failed(ReadError::Io(error))),
            Err(error) => {
                scanned.broken = Some(error.to_string());
                return Ok(Ok(scanned));
            }
        };
        let mut after = scanned.state.clone();
        let new_key = changed_key(entry.kind, entry.payload);
        if let Err(broken) = after.follow(&entry) {
            scanned.broken = Some(format!("entry {}: {broken}", scanned.state.sequence + 1));
            return Ok(Ok(scanned));
        }
        if head.is_some_and(|head| head.sequence == entry.sequence) {
            scanned.at_head = Some(entry.chain);
        }
        scanned.state = after;
        scanned.key = new_key.unwrap_or(scanned.key);
        scanned.good_bytes = reader.offset();
    }
}

fn changed_key(kind: Kind, payload: &[u8]) -> Option<[u8; 8]> {
    if kind != Kind::KeyChanged {
        return None;
    }
    let statement = KeyStatement::read(&serde_json::from_slice(payload).ok()?)?;
    Some(u64::from_str_radix(&statement.new, 16).ok()?.to_be_bytes())
}

/// Whether the log still says what it said at the last checkpoint.
fn compare(
    dir: &LogDir,
    head: Option<&Anchor>,
    scanned: Option<&Scanned>,
    findings: &mut Findings,
) -> Result<(), AuditError> {
    let unreadable = !findings.signs.is_empty();
    let sign = match (head, scanned) {
        (None, None) if dir.stub_path().exists() => "segments were removed, and there is no other".to_owned(),
        (None, None) => return Ok(()),
        (Some(head), None) => {
            format!("log {} had {} entries, and there are none", head.log, head.sequence)
        }
        // Written after the first checkpoint, and before the second.
        (None, Some(end)) if end.state.checkpoint > 1 && !unreadable => {
            format!("`{}` is gone", dir.head_path().display())
        }
        (None, Some(_)) => return Ok(()),
        (Some(head), Some(end)) => {
            let (last, first) = (end.state.sequence, end.header.first);
            let chain = if head.sequence + 1 == first { Some(end.header.chain) } else { end.at_head };
            if head.log != end.state.log {
                format!("it is log {}, and it was log {}", end.state.log, head.log)
            } else if head.sequence > last {
                format!("it had {} entries at its last checkpoint, and ends with {last}", head.sequence)
            } else if head.sequence.saturating_add(1) < first {
                format!("`{}` is older than the log", dir.head_path().display())
            } else if chain != Some(head.chain) {
                format!("entry {} is not the checkpoint that it was", head.sequence)
            } else {
                return Ok(());
            }
        }
    };
    findings.signs.push(sign);
    if let Some(broken) = scanned.and_then(|end| end.broken.as_ref()) {
        findings.signs.push(broken.clone());
    }
    Ok(())
}

/// The key that signs, and whether the one before vouches for it. A change of keys that was cut short is done.
fn key_to_use(
    opening: &Opening,
    in_force: [u8; 8],
    findings: &mut Findings,
) -> Result<(Arc<SigningKey>, bool), AuditError> {
    let is_in_force = |key: &Arc<SigningKey>| key_bytes(&key.trust_key().id()) == in_force;
    let (next, key) = (opening.dir.next_key_path(), opening.dir.key_path());
    if is_in_force(&opening.key) {
        // The log does not know it.
        remove(&next)?;
        return Ok((Arc::clone(&opening.key), true));
    }
    if let Some(next_key) = opening.next_key.as_ref().filter(|next_key| is_in_force(next_key)) {
        fs::rename(&next, &key).map_err(PathError::at("rename", &next))?;
        return Ok((Arc::clone(next_key), true));
    }
    findings.signs.push(format!("`{}` is not the key that signed the log", key.display()));
    Ok((Arc::clone(&opening.key), false))
}

type Start = (State, File, Header, u64);

/// Goes on at the end of a segment, behind what is whole.
fn go_on(
    dir: &LogDir,
    scanned: Scanned,
    moment: &Moment,
    findings: &mut Findings,
) -> Result<Start, AuditError> {
    let Scanned { segment, header, state, good_bytes, .. } = scanned;
    let path = dir.plain_path(segment.first);
    if segment.packed {
        // Nothing is written to it; those after it are gone.
        unpack(dir, &segment, good_bytes)?;
    }
    let opened = File::options().append(true).read(true).open(&path);
    let mut file = opened.map_err(PathError::at("open", &path))?;
    let bytes = file.metadata().map_err(PathError::at("look at", &path))?.len();
    findings.cut_bytes = bytes.saturating_sub(good_bytes);
    if findings.cut_bytes > 0 {
        if !findings.signs.is_empty() {
            let name = aside(&path, moment);
            let mut keep = || {
                let kept = dir.path().join(&name);
                let mut kept = File::options().create(true).append(true).mode(0o600).open(kept)?;
                file.seek(SeekFrom::Start(good_bytes))?;
                io::copy(&mut file, &mut kept)?;
                kept.sync_all()
            };
            keep().map_err(PathError::at("keep what was cut of", &path))?;
            findings.kept = Some(name);
        }
        file.set_len(good_bytes).map_err(PathError::at("shorten", &path))?;
    }
    Ok((state, file, header, good_bytes))
}

fn unpack(dir: &LogDir, segment: &SegmentFile, bytes: u64) -> Result<(), AuditError> {
    let path = dir.plain_path(segment.first);
    let temporary = dir.path().join(format!("{:020}.tmp", segment.first));
    let mut from = dir.open(segment)?.take(bytes);
    let mut write = || {
        let mut to = File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        io::copy(&mut from, &mut to)?;
        to.flush()?;
        to.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_dir(dir.path())
    };
    write().map_err(PathError::at("unpack", &segment.path))?;
    remove(&segment.path)
}

/// A log of its own, from its first entry on.
fn begin(
    opening: &Opening,
    key: &SigningKey,
    moment: &Moment,
    out: &mut Vec<u8>,
) -> Result<Start, AuditError> {
    let dir = &opening.dir;
    if dir.stub_path().exists() {
        put_aside(dir, &dir.stub_path(), moment)?;
    }
    let public = key.trust_key();
    let begun = Begun {
        version: Begun::VERSION,
        log: Uuid::now_v7(),
        host: opening.host.clone(),
        machine: machine(),
        key: public.to_pem(),
        time: moment.time.to_string(),
        boot_id: moment.boot_id.clone(),
        events_before: opening.events_before,
    };
    let mut state = State::begin(&begun);
    let header = state.header(&public.id());
    let file = dir.create(&header)?;
    append(&mut state, Kind::Begun, &begun, out);
    Ok((state, file, header, HEADER_BYTES as u64))
}

/// Names the machine, and says nothing else of its id, which is not to be known to others (machine-id(5)).
fn machine() -> Option<String> {
    let id = fs::read_to_string(MACHINE_ID).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, id.trim().as_bytes());
    let name = hmac::sign(&key, MACHINE_USE);
    Some(name.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

fn aside(path: &Path, moment: &Moment) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("damaged-{}-{name}", moment.time.as_nanosecond())
}

/// Keeps a file for whoever looks into it, under a name that is no segment's.
fn put_aside(dir: &LogDir, path: &Path, moment: &Moment) -> Result<(), AuditError> {
    let to = dir.path().join(aside(path, moment));
    Ok(fs::rename(path, to).map_err(PathError::at("rename", path))?)
}
