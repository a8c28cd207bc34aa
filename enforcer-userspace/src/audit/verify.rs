//! Whether a log is what was written. Segments and entries are handed over in order; the first thing that is wrong ends it.
//!
//! Trust begins with keys that somebody has from elsewhere. Such a key vouches for all before a checkpoint that it signed, because the
//! checkpoint's chain value is made of it; and for the keys that come after it, because each is signed by the one before.

use ring::rand::SecureRandom;
use uuid::Uuid;

use super::{
    entry::{Entry, Header, Kind, key_bytes},
    finding::{Finding, Flaw, LastCheckpoint, Report},
    reader::ReadError,
    state::{Broken, State, read},
    statement::{
        Anchor, Begun, CheckpointStatement, Found, KeyStatement, Lost, Opened, Removed, Signed, Stub,
        StubStatement,
    },
};
use crate::signature::TrustKey;

/// More is not said.
const MAX_NOTES: usize = 100;

/// Takes a log, piece by piece.
pub(crate) struct Verifier<'r> {
    random: &'r dyn SecureRandom,
    trusted: Vec<TrustKey>,
    /// From where; what, if it is one; whether its entry came by.
    anchors: Vec<(String, Option<Anchor>, bool)>,
    stub: Option<(Stub, StubStatement)>,
    stub_is_none: bool,
    /// The entry that speaks of it.
    stub_said: Option<u64>,
    state: Option<State>,
    /// Every key that was in force, the last one last.
    keys: Vec<TrustKey>,
    /// Whether that one is trusted, or vouched for by one that is.
    vouched: bool,
    /// The first checkpoint of those at the end that no trusted key signed.
    untrusted: Option<(u64, String)>,
    segment: String,
    /// Of the first segment that is there.
    header: Option<Header>,
    report: Report,
}

impl<'r> Verifier<'r> {
    /// Without any trusted keys, only that the log agrees with itself is looked at.
    pub(crate) fn new(trusted: Vec<TrustKey>, stub: Option<Stub>, random: &'r dyn SecureRandom) -> Self {
        let read = stub.as_ref().map(StubStatement::read);
        let stub_is_none = matches!(read, Some(None));
        Self {
            random,
            trusted,
            anchors: Vec::new(),
            stub: stub.zip(read.flatten()),
            stub_is_none,
            stub_said: None,
            state: None,
            keys: Vec::new(),
            vouched: false,
            untrusted: None,
            segment: String::new(),
            header: None,
            report: Report::default(),
        }
    }

    /// A checkpoint that must be in the log, or something that is none where one should be; from where, for people.
    pub(crate) fn expect(&mut self, from: String, anchor: Option<Anchor>) {
        self.anchors.push((from, anchor, false));
    }

    /// For people, beside what was found.
    pub(crate) fn note(&mut self, note: String) {
        if self.report.notes.len() < MAX_NOTES {
            self.report.notes.push(note);
        }
    }

    /// The sequence of the entry that is to come.
    fn next(&self) -> u64 {
        self.state.as_ref().map_or(1, |state| state.sequence.saturating_add(1))
    }

    fn finding(&self, flaw: impl Into<Flaw>) -> Finding {
        Finding { sequence: self.next(), segment: self.segment.clone(), flaw: flaw.into() }
    }

    /// Another segment is looked at; its name, for people.
    pub(crate) fn enter(&mut self, name: &str) {
        name.clone_into(&mut self.segment);
        self.report.segments += 1;
    }

    /// It begins.
    pub(crate) fn segment(&mut self, header: &Header) -> Result<(), Finding> {
        if let Some(state) = &self.state {
            if header.log != state.log {
                return Err(self.finding(Flaw::OtherLog(header.log)));
            }
            if header.first != state.sequence.saturating_add(1) {
                return Err(self.finding(Flaw::Begins { found: header.first }));
            }
            let key = self.keys.last().map(TrustKey::id);
            let same = key.is_some_and(|key| state.header(&key) == *header);
            return if same { Ok(()) } else { Err(self.finding(Flaw::Header)) };
        }
        self.report.first = header.first;
        self.report.log = Some(header.log);
        self.header = Some(*header);
        if header.first > 1 {
            self.go_on_behind_stub(header)?;
        }
        self.state = Some(State::at(header));
        Ok(())
    }

    /// The first segment that is there is not the first that there was.
    fn go_on_behind_stub(&mut self, header: &Header) -> Result<(), Finding> {
        if self.stub_is_none {
            return Err(self.finding(Flaw::Stub));
        }
        let Some((_, stub)) = self.stub.clone() else { return Err(self.finding(Flaw::NoStub)) };
        if header.log != stub.log {
            return Err(self.finding(Flaw::Stub));
        }
        if header.first > stub.last.saturating_add(1) {
            let sequence = stub.last.saturating_add(1);
            let flaw = Flaw::Begins { found: header.first };
            return Err(Finding { sequence, segment: self.segment.clone(), flaw });
        }
        let begun: Begun = read(stub.begun.as_bytes()).map_err(|_| self.finding(Flaw::Stub))?;
        if begun.chain() != stub.chain_first || begun.log != stub.log {
            return Err(self.finding(Flaw::Beginning));
        }
        self.begin(begun)?;
        for payload in &stub.keys {
            let signed: Signed = read(payload.as_bytes()).map_err(|_| self.finding(Flaw::Stub))?;
            let statement = KeyStatement::read(&signed).ok_or_else(|| self.finding(Flaw::Stub))?;
            // What was not removed yet comes as an entry.
            if statement.sequence < header.first {
                self.change_key(&signed, &statement, stub.log)?;
            }
        }
        if self.keys.last().is_none_or(|key| key_bytes(&key.id()) != header.key) {
            return Err(self.finding(Flaw::Header));
        }
        self.note(format!("entries 1 to {} were removed at {}: {}", stub.last, stub.time, stub.why));
        let said = (stub.chain, stub.checkpoint, stub.checkpoint_digest, stub.last_event);
        let found = (header.chain, header.checkpoint, header.checkpoint_digest, header.last_event);
        if header.first == stub.last.saturating_add(1) && said != found {
            return Err(self.finding(Flaw::StubChain));
        }
        Ok(())
    }

    /// Where the stub says what the log says as well, they must agree.
    fn check_stub_chain(&self, sequence: u64, chain: super::Hash) -> Result<(), Finding> {
        match &self.stub {
            Some((_, stub)) if stub.last == sequence && stub.chain != chain => {
                Err(Finding { sequence, segment: self.segment.clone(), flaw: Flaw::StubChain })
            }
            _ => Ok(()),
        }
    }

    /// Another entry.
    pub(crate) fn entry(&mut self, entry: &Entry<'_>) -> Result<(), Finding> {
        let Some(state) = &self.state else { return Err(self.finding(Flaw::NoBeginning)) };
        state.expect(entry).map_err(|broken| self.finding(broken))?;
        if state.sequence == 0 && entry.kind != Kind::Begun {
            return Err(self.finding(Flaw::NoBeginning));
        }
        let log = state.log;
        self.check(entry)?;
        self.check_stub_chain(entry.sequence, entry.chain)?;
        for (from, anchor, seen) in &mut self.anchors {
            if let Some(anchor) = anchor.as_ref().filter(|anchor| anchor.sequence == entry.sequence) {
                *seen = true;
                if anchor.chain != entry.chain || anchor.log != log {
                    let flaw = Flaw::OtherCheckpoint { from: from.clone() };
                    return Err(Finding { sequence: entry.sequence, segment: self.segment.clone(), flaw });
                }
            }
        }
        if let Some(state) = &mut self.state {
            let advanced = state.advance(entry.kind, entry.payload, entry.chain);
            self.report.last = state.sequence;
            self.report.unsigned = state.uncovered();
            advanced.map_err(|broken| self.finding(broken))?;
        }
        Ok(())
    }

    /// What it says.
    fn check(&mut self, entry: &Entry<'_>) -> Result<(), Finding> {
        let unreadable = |verifier: &Self| verifier.finding(Broken::Payload);
        match entry.kind {
            Kind::Begun => {
                let begun: Begun = read(entry.payload).map_err(|broken| self.finding(broken))?;
                let is_first = self.state.as_ref().is_some_and(|state| state.sequence == 0);
                let state = State::begin(&begun);
                self.begin(begun)?;
                let header = self.keys.last().map(|key| state.header(&key.id()));
                if !is_first || header != self.header {
                    return Err(self.finding(Flaw::Beginning));
                }
                Ok(())
            }
            Kind::Event => {
                self.report.events += 1;
                Ok(())
            }
            Kind::Checkpoint => {
                let signed: Signed = read(entry.payload).map_err(|broken| self.finding(broken))?;
                self.check_checkpoint(&signed, entry.sequence)
            }
            Kind::KeyChanged => {
                let signed: Signed = read(entry.payload).map_err(|broken| self.finding(broken))?;
                let statement = KeyStatement::read(&signed).ok_or_else(|| unreadable(self))?;
                if statement.sequence != entry.sequence {
                    return Err(self.finding(Flaw::NewKey));
                }
                let log = self.state.as_ref().map_or(Uuid::nil(), |state| state.log);
                self.change_key(&signed, &statement, log)
            }
            Kind::Lost => {
                let lost: Lost = read(entry.payload).map_err(|broken| self.finding(broken))?;
                self.report.lost = self.report.lost.saturating_add(lost.events);
                let Lost { first, last, why, time, .. } = lost;
                self.note(format!("events {first} to {last} are not in the log, said at {time}: {why}"));
                Ok(())
            }
            Kind::Opened => self.check_opened(entry.payload),
            Kind::Removed => {
                let removed: Removed = read(entry.payload).map_err(|broken| self.finding(broken))?;
                if self.stub.as_ref().is_some_and(|(signed, _)| signed.digest() == removed.stub) {
                    self.stub_said = Some(entry.sequence);
                }
                Ok(())
            }
        }
    }

    fn begin(&mut self, begun: Begun) -> Result<(), Finding> {
        let key = TrustKey::from_pem(begun.key.as_bytes(), self.random);
        let key = key.map_err(|_| self.finding(Flaw::Beginning))?;
        self.vouched = self.trusted.contains(&key);
        self.keys = vec![key];
        self.report.begun = Some(begun);
        Ok(())
    }

    fn change_key(&mut self, signed: &Signed, statement: &KeyStatement, log: Uuid) -> Result<(), Finding> {
        let new = TrustKey::from_pem(statement.key.as_bytes(), self.random);
        let new = new.map_err(|_| self.finding(Flaw::NewKey))?;
        if signed.signature.is_none() {
            return Err(self.finding(Flaw::KeyReplaced));
        }
        let old = self.keys.last().cloned();
        let said = |key: &TrustKey, id: &str| key.id().to_string() == id;
        let right = old.is_some_and(|old| said(&old, &statement.old) && signed.is_by([old]));
        if !right || !said(&new, &statement.new) || statement.log != log {
            return Err(self.finding(Flaw::NewKey));
        }
        self.vouched |= self.trusted.contains(&new);
        self.keys.push(new);
        Ok(())
    }

    fn check_checkpoint(&mut self, signed: &Signed, sequence: u64) -> Result<(), Finding> {
        let in_force = self.keys.last().cloned();
        if !in_force.as_ref().is_some_and(|key| signed.is_by([key.clone()])) {
            return Err(self.finding(Flaw::Signature));
        }
        let statement = CheckpointStatement::read(signed).ok_or_else(|| self.finding(Broken::Payload))?;
        let covered = self.state.as_ref().map(State::covered);
        if let Some(what) = covered.and_then(|covered| statement.differs_from(&covered)) {
            return Err(self.finding(Flaw::Checkpoint(what)));
        }
        if self.vouched {
            self.untrusted = None;
        } else {
            self.untrusted.get_or_insert((sequence, self.segment.clone()));
        }
        let CheckpointStatement { number, time, key, .. } = statement;
        self.report.checkpoint = Some(LastCheckpoint { number, sequence, time, key });
        Ok(())
    }

    fn check_opened(&mut self, payload: &[u8]) -> Result<(), Finding> {
        let opened: Opened = read(payload).map_err(|broken| self.finding(broken))?;
        match opened.found {
            Found::New | Found::Sound => {}
            Found::Torn => self.note(format!(
                "at {} a daemon cut {} bytes that the one before had not vouched for",
                opened.time, opened.cut_bytes
            )),
            Found::Tampered => {
                let detail = opened.detail.unwrap_or_default();
                return Err(self.finding(Flaw::SaidSo(detail)));
            }
        }
        Ok(())
    }

    /// A segment cannot be read on. In the middle of an entry at the end of the last one, a writer is at work, or was ended.
    pub(crate) fn unreadable(&mut self, error: &ReadError, is_last: bool) -> Result<(), Finding> {
        match error {
            ReadError::Torn { bytes } if is_last => {
                self.report.torn_bytes = *bytes;
                Ok(())
            }
            ReadError::Io(source) => Err(self.finding(Flaw::Unreadable(format!("{error}: {source}")))),
            error => Err(self.finding(Flaw::Unreadable(error.to_string()))),
        }
    }

    /// What was found so far, of a log that nobody wants more of.
    pub(crate) fn end(self) -> Report {
        self.report
    }

    /// There is no more.
    pub(crate) fn finish(mut self, found: Result<(), Finding>) -> Report {
        self.report.finding = found.and_then(|()| self.check_end()).err();
        self.report
    }

    fn check_end(&mut self) -> Result<(), Finding> {
        if let Some((sequence, segment)) = self.untrusted.clone().filter(|_| !self.trusted.is_empty()) {
            return Err(Finding { sequence, segment, flaw: Flaw::NotTrusted });
        }
        self.check_anchors()?;
        let at = |sequence, flaw| Finding { sequence, segment: self.segment.clone(), flaw };
        if let Some((signed, stub)) = &self.stub {
            if self.state.as_ref().is_none_or(|state| state.log != stub.log) {
                return Err(at(self.next(), Flaw::Stub));
            }
            if !signed.is_by(self.keys.iter().cloned()) {
                return Err(at(stub.last, Flaw::StubSignature));
            }
            // Anybody can begin with a key of their own that vouches for ours; not say so where ours signs.
            let signed = self.report.last.saturating_sub(self.report.unsigned);
            if self.stub_said.is_none_or(|said| said > signed) {
                return Err(at(stub.last, Flaw::StubUnsaid));
            }
        } else if self.stub_is_none {
            return Err(at(1, Flaw::Stub));
        }
        // A daemon vouches for the first entries as soon as it has written them.
        if self.state.is_some() && self.report.checkpoint.is_none() && !self.trusted.is_empty() {
            return Err(at(self.report.first, Flaw::NotSigned));
        }
        Ok(())
    }

    /// Checkpoints that did not come by.
    fn check_anchors(&mut self) -> Result<(), Finding> {
        let at = |flaw| Finding { sequence: self.next(), segment: self.segment.clone(), flaw };
        let mut notes = Vec::new();
        for (from, anchor, _) in self.anchors.iter().filter(|(.., seen)| !seen) {
            let read = anchor.as_ref().filter(|anchor| anchor.read().is_some());
            let Some(anchor) = read else { return Err(at(Flaw::NoAnchor { from: from.clone() })) };
            if self.report.log.is_some_and(|log| log != anchor.log) {
                let flaw = Flaw::AnchorOfOther { from: from.clone(), log: anchor.log };
                return Err(at(flaw));
            }
            if anchor.sequence >= self.next() {
                let flaw = Flaw::Ends { from: from.clone(), sequence: anchor.sequence };
                return Err(at(flaw));
            }
            notes.push(format!(
                "{from} has a checkpoint at entry {}, which was removed: it was not compared",
                anchor.sequence
            ));
        }
        notes.into_iter().for_each(|note| self.note(note));
        Ok(())
    }
}

impl std::fmt::Debug for Verifier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("report", &self.report).finish_non_exhaustive()
    }
}
