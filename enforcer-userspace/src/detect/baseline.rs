//! What an agent has executed and reached so far, and whether that is enough to call something new. With a text form, which says of
//! itself whether it is whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Bound,
    str::FromStr,
};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::settings::Learning;
use crate::record::protocol_name;

/// Agents that there are baselines of: whoever may begin sessions can name any number.
pub(super) const MAX_AGENTS: usize = 256;
const VERSION: u32 = 1;
const HEAD: &str = "enforcer-baseline sha256:";

/// Where to: exactly this address, port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    /// Of IP.
    pub(crate) protocol: u16,
    pub(crate) address: IpAddr,
    /// 0 where the protocol has none.
    pub(crate) port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, address, port } = self;
        write!(f, "{} {}", protocol_name(*protocol), SocketAddr::new(*address, *port))
    }
}

/// An agent's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Baseline {
    /// When the agent did something for the first time, s of Unix time.
    since_s: i64,
    /// Sessions that have ended since.
    sessions: u64,
    /// Learning is over, and stays so.
    is_learned: bool,
    /// Paths as they were executed, each with the digests that its file had, where that was known.
    executables: BTreeMap<String, BTreeSet<String>>,
    /// Paths, and digests behind the first of one path.
    entries: usize,
    endpoints: BTreeSet<Endpoint>,
    is_unsaved: bool,
}

/// How something compares with a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Novelty {
    Known,
    /// It was not in it, and is now.
    Added,
    /// It is not in it, and there is no room.
    NoRoom,
}

/// Why a text is no baseline.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BaselineError {
    #[error("it is no baseline, or is not whole")]
    Damaged,
    #[error("it is a baseline of version {0}")]
    Version(u32),
    #[error("it is the baseline of another agent, `{}`", .0.escape_debug())]
    Agent(String),
    #[error("it cannot be read")]
    Json(#[source] serde_json::Error),
    #[error("`{}` is no destination", .0.escape_debug())]
    Endpoint(String),
}

/// The text behind the first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    agent: String,
    since: i64,
    sessions: u64,
    learned: bool,
    executables: BTreeMap<String, BTreeSet<String>>,
    /// Protocol's number, address and port.
    destinations: Vec<String>,
}

impl Baseline {
    pub(crate) fn new(now_s: i64) -> Self {
        Self {
            since_s: now_s,
            sessions: 0,
            is_learned: false,
            executables: BTreeMap::new(),
            entries: 0,
            endpoints: BTreeSet::new(),
            is_unsaved: true,
        }
    }

    pub(super) fn executed(&mut self, path: &str, sha256: Option<&str>, most: usize) -> Novelty {
        let is_full = self.entries >= most;
        let novelty = match (self.executables.get_mut(path), sha256) {
            // What it was before is not known either.
            (Some(_), None) => return Novelty::Known,
            (Some(digests), Some(sha256)) if digests.contains(sha256) => return Novelty::Known,
            (Some(digests), Some(sha256)) if digests.is_empty() => {
                digests.insert(sha256.to_owned());
                self.is_unsaved = true;
                return Novelty::Known;
            }
            _ if is_full => return Novelty::NoRoom,
            (Some(digests), Some(sha256)) => {
                digests.insert(sha256.to_owned());
                Novelty::Added
            }
            (None, sha256) => {
                let digests = sha256.map(str::to_owned).into_iter().collect();
                self.executables.insert(path.to_owned(), digests);
                Novelty::Added
            }
        };
        self.entries += 1;
        self.is_unsaved = true;
        novelty
    }

    pub(super) fn reached(&mut self, endpoint: Endpoint, most: usize) -> Novelty {
        if self.endpoints.contains(&endpoint) {
            return Novelty::Known;
        }
        if self.endpoints.len() >= most {
            return Novelty::NoRoom;
        }
        self.endpoints.insert(endpoint);
        self.is_unsaved = true;
        Novelty::Added
    }

    pub(super) fn is_learning(&mut self, rule: &Learning, now_s: i64) -> bool {
        if !self.is_learned {
            let passed_s = now_s.saturating_sub(self.since_s);
            let is_enough = self.sessions >= rule.sessions && passed_s >= rule.time_s;
            self.is_learned = is_enough || passed_s >= rule.at_most_s;
            self.is_unsaved |= self.is_learned;
        }
        !self.is_learned
    }

    pub(crate) fn write(&self, agent: &str) -> String {
        let endpoint = |Endpoint { protocol, address, port }: &Endpoint| {
            format!("{protocol} {}", SocketAddr::new(*address, *port))
        };
        let file = File {
            version: VERSION,
            agent: agent.to_owned(),
            since: self.since_s,
            sessions: self.sessions,
            learned: self.is_learned,
            executables: self.executables.clone(),
            destinations: self.endpoints.iter().map(endpoint).collect(),
        };
        let text = serde_json::to_string(&file).expect("it holds only text and numbers");
        format!("{HEAD}{}\n{text}\n", digest_of(&text))
    }

    pub(crate) fn parse(text: &str, agent: &str) -> Result<Self, BaselineError> {
        let (head, text) = text.split_once('\n').ok_or(BaselineError::Damaged)?;
        let text = text.strip_suffix('\n').ok_or(BaselineError::Damaged)?;
        if head.strip_prefix(HEAD) != Some(&digest_of(text)) {
            return Err(BaselineError::Damaged);
        }
        let file: File = serde_json::from_str(text).map_err(BaselineError::Json)?;
        if file.version != VERSION {
            return Err(BaselineError::Version(file.version));
        }
        if file.agent != agent {
            return Err(BaselineError::Agent(file.agent));
        }
        let endpoint = |text: String| {
            let (protocol, to) = text.split_once(' ')?;
            let (protocol, to) = (protocol.parse().ok()?, SocketAddr::from_str(to).ok()?);
            Some(Endpoint { protocol, address: to.ip(), port: to.port() })
        };
        let endpoints = file.destinations.into_iter();
        let endpoints = endpoints.map(|text| endpoint(text.clone()).ok_or(BaselineError::Endpoint(text)));
        Ok(Self {
            since_s: file.since,
            sessions: file.sessions,
            is_learned: file.learned,
            entries: file.executables.values().map(|digests| digests.len().max(1)).sum(),
            executables: file.executables,
            endpoints: endpoints.collect::<Result<_, _>>()?,
            is_unsaved: false,
        })
    }
}

fn digest_of(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Those of all agents.
#[derive(Debug, Default)]
pub(super) struct Baselines(BTreeMap<String, Baseline>, String);

impl Baselines {
    pub(super) fn new(all: impl Iterator<Item = (String, Baseline)>) -> Self {
        Self(all.take(MAX_AGENTS).collect(), String::new())
    }

    /// That of an agent, which begins now if there is none; nothing if there is no place for one.
    pub(super) fn of(&mut self, agent: &str, now_s: i64) -> Option<&mut Baseline> {
        if !self.0.contains_key(agent) {
            if self.0.len() >= MAX_AGENTS {
                return None;
            }
            self.0.insert(agent.to_owned(), Baseline::new(now_s));
        }
        self.0.get_mut(agent)
    }

    pub(super) fn end_session(&mut self, agent: &str) {
        if let Some(baseline) = self.0.get_mut(agent) {
            baseline.sessions = baseline.sessions.saturating_add(1);
            baseline.is_unsaved = true;
        }
    }

    /// Goes on behind the last one that was taken, so that each has its turn.
    pub(super) fn take_unsaved(&mut self, most: usize) -> Vec<(String, String)> {
        let unsaved = |(agent, baseline): (&String, &Baseline)| baseline.is_unsaved.then(|| agent.clone());
        let behind = (Bound::Excluded(self.1.clone()), Bound::Unbounded);
        let before = (Bound::Unbounded, Bound::Included(self.1.clone()));
        let agents = self.0.range(behind).chain(self.0.range(before)).filter_map(unsaved);
        let agents: Vec<String> = agents.take(most).collect();
        if let Some(last) = agents.last() {
            self.1.clone_from(last);
        }
        let written = agents.into_iter().filter_map(|agent| {
            let baseline = self.0.get_mut(&agent)?;
            baseline.is_unsaved = false;
            let text = baseline.write(&agent);
            Some((agent, text))
        });
        written.collect()
    }

    pub(super) fn keep_unsaved(&mut self, agent: &str) {
        if let Some(baseline) = self.0.get_mut(agent) {
            baseline.is_unsaved = true;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The entries of all.
    #[cfg(test)]
    pub(super) fn entries(&self) -> (usize, usize) {
        let executables = self.0.values().map(|baseline| baseline.entries).sum();
        (executables, self.0.values().map(|baseline| baseline.endpoints.len()).sum())
    }
}
