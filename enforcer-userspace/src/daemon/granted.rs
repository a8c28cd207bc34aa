//! Sessions of users who are not operators: what the registration policy grants them, and nothing else. Each has what it asks for compared
//! with its grants beside the loop.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::http::StatusCode;
use nix::unistd::{Group, User};
use ring::digest::{Context, SHA256};

use super::{
    Beside, Daemon, StartError, To,
    asker::{Unvouched, asker, vouch},
    attest::Found,
    reply_to,
};
use crate::{
    clock,
    control::{
        dto,
        peer::Peer,
        server::{Answer, Call, Refusal, Request},
    },
    document,
    envelope::{self, Envelope},
    exit::one_line,
    path_error::PathError,
    record::{EventKind, EventLine},
    registration::{self, Executable, PolicyError, Principal},
};

/// How many sessions a user who is no operator may have begun at a time.
const MAX_SESSIONS_OF_USER: usize = 16;

/// Why the daemon does not know whom to grant what.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyFileError {
    #[error(transparent)]
    Io(#[from] PathError),
    #[error("`{}` belongs to user {owner}, or others may write it: its mode is {mode:o}", path.display())]
    Open { path: PathBuf, owner: u32, mode: u32 },
    #[error("read the registration policy `{}`", path.display())]
    Policy {
        path: PathBuf,
        #[source]
        source: PolicyError,
    },
}

/// A grant, with users, groups and envelopes looked up.
#[derive(Debug)]
pub(super) struct Grant {
    name: String,
    uids: Vec<u32>,
    gids: Vec<u32>,
    executables: Vec<Executable>,
    envelopes: Vec<Envelope>,
}

/// Who is granted what.
#[derive(Debug, Default)]
pub(super) struct Policy(Vec<Arc<Grant>>);

impl Policy {
    /// Reads it, with all that it names. What cannot be had is an error: a policy holds as it is written, or the daemon does not come up.
    pub(super) fn load(path: Option<&Path>) -> Result<Self, StartError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let wrong = |source| PolicyFileError::Policy { path: path.to_owned(), source };
        let grants = registration::parse(&read_ours(path)?).map_err(wrong)?;
        let mut read = Vec::new();
        for written in grants {
            let bad = |what: String| PolicyError::of_grant(&written.name, what);
            let uid = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
            let gid = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
            let mut envelopes = Vec::new();
            for path in &written.envelopes {
                let text = envelope::decode(read_ours(path)?).and_then(|text| envelope::parse(&text));
                let text =
                    text.map_err(|problems| wrong(bad(format!("`{}`: {problems}", path.display()))))?;
                envelopes.push(text);
            }
            let uids = numbers(&written.users, uid).map_err(|what| wrong(bad(format!("user {what}"))))?;
            let gids = numbers(&written.groups, gid).map_err(|what| wrong(bad(format!("group {what}"))))?;
            let (name, executables) = (written.name.clone(), written.executables.clone());
            read.push(Arc::new(Grant { name, uids, gids, executables, envelopes }));
        }
        Ok(Self(read))
    }

    pub(super) fn of(&self, peer: &Peer) -> Vec<Arc<Grant>> {
        let is_for = |grant: &&Arc<Grant>| {
            grant.uids.contains(&peer.uid) || grant.gids.iter().any(|gid| peer.gids.contains(gid))
        };
        self.0.iter().filter(is_for).cloned().collect()
    }
}

fn numbers(
    principals: &[Principal],
    find: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> Result<Vec<u32>, String> {
    let number = |principal: &Principal| match principal {
        Principal::Number(number) => Ok(*number),
        Principal::Name(name) => match find(name) {
            Ok(Some(number)) => Ok(number),
            Ok(None) => Err(format!("`{name}` is not known here")),
            Err(error) => Err(format!("`{name}`: {error}")),
        },
    };
    principals.iter().map(number).collect()
}

/// What is in a file that nobody but us can write.
fn read_ours(path: &Path) -> Result<Vec<u8>, PolicyFileError> {
    let file = File::open(path).map_err(PathError::at("open", path))?;
    let metadata = file.metadata().map_err(PathError::at("look at", path))?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != nix::unistd::geteuid().as_raw() || mode & 0o022 != 0 {
        return Err(PolicyFileError::Open { path: path.to_owned(), owner, mode });
    }
    let mut bytes = Vec::new();
    let limit = document::MAX_BYTES.max(envelope::MAX_TEXT as u64) + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(PathError::at("read", path))?;
    Ok(bytes)
}

/// What a user asked for, compared with what is granted.
pub(super) struct Weighed {
    peer: Peer,
    enrol: dto::Enrol,
    agent: String,
    /// The name of the grant, and what the files are that the envelope names.
    granted: Result<(String, Vec<Found>), Refusal>,
    to: To,
}

impl Daemon {
    /// Has a user who is no operator begin a session, if a grant covers it.
    pub(super) fn enrol_granted(&mut self, peer: Peer, enrol: dto::Enrol, to: To) {
        let weighing = self.weighing(&peer, &enrol);
        let (grants, envelope) = match weighing {
            Ok(weighing) => weighing,
            Err(refusal) => {
                self.record_ungranted(&peer, &refusal);
                return reply_to(to, Err(refusal));
            }
        };
        let measurer = self.attestation.measurer.clone();
        self.beside(move || {
            let granted = weigh(&peer, &grants, &envelope);
            // Only now: what is not granted to be named is not read.
            let granted = granted.map(|name| (name, measurer.look_before(&envelope.exec)));
            let agent = envelope.metadata.name;
            Beside::Weighed(Box::new(Weighed { peer, enrol, agent, granted, to }))
        });
    }

    /// All that can be refused without comparing.
    fn weighing(&self, peer: &Peer, enrol: &dto::Enrol) -> Result<(Vec<Arc<Grant>>, Envelope), Refusal> {
        let grants = self.policy.of(peer);
        if grants.is_empty() {
            let message = format!("nothing is granted to user {}", peer.uid);
            return Err(not_granted(message));
        }
        let of_user = self.registry.iter().filter(|session| {
            session.grant.registered_by_uid == peer.uid && session.grant.parent_id().is_none()
        });
        if of_user.count() >= MAX_SESSIONS_OF_USER {
            let message = format!("user {} has {MAX_SESSIONS_OF_USER} sessions already", peer.uid);
            return Err(Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "no-room", message));
        }
        Ok((grants, self.read_envelope(&enrol.envelope)?))
    }

    /// Begins the session, by whom it was asked for, under the envelope that was compared.
    pub(super) fn end_weighing(&mut self, weighed: Weighed) {
        let Weighed { peer, enrol, agent, granted, to } = weighed;
        if self.registering.is_some() {
            // From the start, when that is done.
            return self.waiting.push_back(Call { peer, request: Request::Enrol(enrol), reply: to });
        }
        let enrolled = granted.and_then(|(grant, found)| {
            // What was so before the comparison may not be so any more.
            vouch(&peer).map_err(|why| match why {
                Unvouched::TryAgain => Unvouched::try_again(),
                Unvouched::No(why) => Refusal::new(StatusCode::FORBIDDEN, "forbidden", why),
            })?;
            self.weighing(&peer, &enrol)?;
            self.require_as_named(&agent, &found)?;
            Ok((grant, self.enrol(&peer, enrol)?))
        });
        match &enrolled {
            Err(refusal) => self.record_ungranted(&peer, refusal),
            Ok((grant, enrolled)) => {
                let detail = format!("session {} of user {} by grant `{grant}`", enrolled.id, peer.uid);
                let line = EventLine::new(EventKind::SessionGranted, &clock::wall(clock::boot_ns()));
                let mut line = line.asked_by(asker(&peer)).detail(detail);
                let session = enrolled.id.parse().ok().and_then(|id| self.registry.get(id));
                line.session = session.map(|session| session.text.clone());
                self.events.write(line);
            }
        }
        reply_to(to, enrolled.map(|(_, enrolled)| Answer::Enrolled(enrolled)));
    }

    fn record_ungranted(&mut self, peer: &Peer, refusal: &Refusal) {
        self.record_refusal(peer, &format!("is no operator, and asked to enrol: {}", refusal.message));
    }
}

fn not_granted(message: impl Into<String>) -> Refusal {
    let refusal = Refusal::new(StatusCode::FORBIDDEN, "not-granted", message);
    refusal.hint("an operator grants it: `enforcer daemon --registration-policy FILE`")
}

/// The first grant that covers it; or why none does.
fn weigh(peer: &Peer, grants: &[Arc<Grant>], envelope: &Envelope) -> Result<String, Refusal> {
    let mut why = Vec::new();
    for grant in grants {
        match covers(peer, grant, envelope) {
            Ok(()) => return Ok(grant.name.clone()),
            Err(reason) => why.push(format!("grant `{}`: {reason}", grant.name)),
        }
    }
    Err(not_granted(why.join("; ")))
}

fn covers(peer: &Peer, grant: &Grant, envelope: &Envelope) -> Result<(), String> {
    if !grant.executables.is_empty() && !runs_one_of(peer, &grant.executables)? {
        return Err("whoever asks does not run one of its executables".to_owned());
    }
    let mut why = "it has no envelope of this agent, owner, operator and model".to_owned();
    for granted in &grant.envelopes {
        let key = |envelope: &Envelope| {
            let it = &envelope.metadata;
            [it.name.clone(), it.owner.clone(), it.operator.clone(), it.model.clone()]
        };
        if key(granted) != key(envelope) {
            continue;
        }
        match envelope::excess(envelope, granted) {
            Ok(excess) if excess.is_empty() => match not_named(envelope, granted) {
                None => return Ok(()),
                Some(path) => why = format!("it names the file `{path}`, which what is granted does not"),
            },
            Ok(excess) => why = envelope::excess_lines(&excess, "it", "what is granted").join(", "),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// A file that an envelope has the daemon read, and that another does not: the daemon may read what its user may not.
fn not_named<'a>(envelope: &'a Envelope, granted: &Envelope) -> Option<&'a str> {
    let other = envelope.exec.files.iter().find(|file| !granted.exec.files.contains(file));
    other.map(|file| file.path.as_str())
}

/// Whether the process that asks runs one of these files: the same file, and not another one by that path somewhere else.
fn runs_one_of(peer: &Peer, executables: &[Executable]) -> Result<bool, String> {
    let link = PathBuf::from(format!("/proc/{}/exe", peer.pid));
    let open = || File::open(&link).map_err(PathError::at("open", &link));
    let image = open().map_err(|error| one_line(&error))?;
    let own = image.metadata().map_err(|error| error.to_string())?;
    for Executable { path, sha256 } in executables {
        let same = fs::metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == (own.dev(), own.ino()));
        let digest = || digest(&image).map_err(|error| error.to_string());
        if same && sha256.as_ref().map_or(Ok(true), |wanted| digest().map(|found| found == *wanted))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn digest(mut file: &File) -> std::io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut part = vec![0; 1 << 20];
    std::io::Seek::rewind(&mut file)?;
    loop {
        match file.read(&mut part)? {
            0 => break,
            read => context.update(&part[..read]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}
