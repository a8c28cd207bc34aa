//! Sessions that have ended, as far back as they are remembered: who they were, and how they ended.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Daemon, DaemonError};
use crate::{
    chain::Hop,
    clock,
    control::dto,
    session::{Session, Status},
    settings::Settings,
    state::{EndedFile, StateError},
};

/// How many are remembered. The events tell of all.
const REMEMBERED: usize = 1000;
/// How much of a command is kept, in bytes: of a long one, the beginning.
const MAX_COMMAND: usize = 4 << 10;

/// A session that has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) session: dto::SessionInfo,
    /// The last statement of what it was given.
    pub(super) hop: Option<Hop>,
}

/// The sessions that have ended.
#[derive(Debug)]
pub(super) struct Past {
    file: EndedFile,
    sessions: VecDeque<Ended>,
    /// In the file, the forgotten ones included.
    written: usize,
}

impl Past {
    pub(super) fn open(settings: &Settings) -> Result<Self, StateError> {
        let file = EndedFile::at(&settings.ended());
        let mut sessions: VecDeque<_> = file.load()?.into();
        let written = sessions.len();
        sessions.drain(..written.saturating_sub(REMEMBERED));
        Ok(Self { file, sessions, written })
    }

    fn insert(&mut self, session: Ended) -> Result<(), StateError> {
        self.sessions.push_back(session);
        if self.sessions.len() > REMEMBERED {
            self.sessions.pop_front();
        }
        if self.written >= 2 * REMEMBERED {
            self.written = self.sessions.len();
            return self.file.rewrite(self.sessions.iter());
        }
        self.written += 1;
        self.sessions.back().map_or(Ok(()), |session| self.file.append(session))
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = &dto::SessionInfo> {
        self.sessions.iter().map(|ended| &ended.session)
    }

    pub(super) fn of(&self, id: Uuid) -> Option<&Ended> {
        let id = id.to_string();
        self.sessions.iter().find(|ended| ended.session.id == id)
    }
}

impl Daemon {
    /// Remembers a session that has just ended. Why, in one word.
    pub(super) fn remember_ended(&mut self, session: &Session) -> &'static str {
        let now_ns = clock::boot_ns();
        let why = match self.registry.standing_of(session, now_ns) {
            Status::Active | Status::Registering => "exit",
            Status::Expired => "expired",
            Status::Revoked => "revoked",
            Status::Quarantined => "quarantined",
        };
        let info = self.describe(session, now_ns);
        self.remember_as(info, session.hop.clone(), why);
        why
    }

    /// Remembers a session as ended now, for this reason.
    pub(super) fn remember_as(&mut self, mut info: dto::SessionInfo, hop: Option<Hop>, why: &str) {
        info.state = "ended".to_owned();
        info.ended = Some(clock::wall(clock::boot_ns()).to_string());
        info.end_reason = Some(why.to_owned());
        info.processes.clear();
        let mut taken = 0;
        let fits = |word: &String| {
            taken += word.len() + 1;
            taken <= MAX_COMMAND
        };
        info.command = std::mem::take(&mut info.command).into_iter().take_while(fits).collect();
        info.command.shrink_to_fit();
        let remembered = self.past.insert(Ended { session: info, hop });
        self.survive(remembered.map_err(DaemonError::from));
    }
}
