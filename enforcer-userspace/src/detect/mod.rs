//! Findings from the stream of events: what of it somebody should look at. Core: no I/O and no clock; the time is that of the events.
//!
//! Whoever acts may be hostile, so everything that is kept has a bound, and what finds no place is said. Nothing here decides what a
//! session may do: a finding is recorded, and where an envelope says so, the daemon puts the session in quarantine for it.
//! `docs/detections.md` says what each detection means.

#![forbid(unsafe_code)]

mod baseline;
mod episode;
mod finding;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use enforcer_common::config::MAX_SESSIONS;
use jiff::Timestamp;
use uuid::Uuid;

pub(crate) use baseline::{Baseline, Endpoint};
pub(crate) use finding::{Deed, Detection, Evidence, Finding, Moment, Phase, Seen};
pub(crate) use settings::{Settings, SettingsError};

use baseline::{Baselines, Novelty};
use episode::{Episode, Rule, Summary};

/// What is kept of a session that something was found about, or nearly.
#[derive(Debug, Default)]
struct Watched {
    refusals: Episode,
    escapes: Episode,
    tampers: Episode,
    /// Limits that were told of.
    limits: Vec<&'static str>,
}

impl Watched {
    fn is_idle(&self) -> bool {
        self.limits.is_empty() && [&self.refusals, &self.escapes, &self.tampers].iter().all(|it| it.is_idle())
    }
}

/// Makes findings of events.
#[derive(Debug)]
pub(crate) struct Detector {
    settings: Settings,
    baselines: Baselines,
    sessions: HashMap<Uuid, Watched>,
    /// Tamper signs of no session.
    host: Episode,
    /// What was new and found no place in an agent's baseline.
    full: BTreeMap<(String, Detection), Episode>,
    /// Events that were compared with nothing, because there was no place.
    left_out: u64,
    /// What was new and is not remembered, likewise.
    unremembered: u64,
    complaint: Option<&'static str>,
}

impl Detector {
    pub(crate) fn new(settings: Settings, baselines: impl Iterator<Item = (String, Baseline)>) -> Self {
        Self {
            settings,
            baselines: Baselines::new(baselines),
            sessions: HashMap::new(),
            host: Episode::default(),
            full: BTreeMap::new(),
            left_out: 0,
            unremembered: 0,
            complaint: None,
        }
    }

    /// Takes what an event tells of.
    pub(crate) fn see(&mut self, seen: &Seen<'_>, deed: &Deed<'_>) -> Vec<Finding> {
        match (deed, seen.by) {
            (Deed::Refused, Some((id, _))) => {
                let Some(rule) = self.settings.refusal_burst else { return Vec::new() };
                let Some(watched) = self.watched(id) else { return Vec::new() };
                let title = || format!("{} refusals within {} s", rule.threshold, rule.within_s());
                told(Detection::RefusalBurst, seen, &mut watched.refusals, rule, title)
            }
            (Deed::Limit(limit), Some((id, _))) => self.limit(seen, id, limit),
            (Deed::Executed { path, sha256 }, Some((_, agent))) => self.executed(seen, agent, path, *sha256),
            (Deed::Reached(endpoint), Some((_, agent))) => self.reached(seen, agent, *endpoint),
            (Deed::Escape(words), Some((id, _))) => {
                let Some(rule) = self.settings.escape_sign else { return Vec::new() };
                let Some(watched) = self.watched(id) else { return Vec::new() };
                let title = || format!("sign of an escape: {words}");
                told(Detection::EscapeSign, seen, &mut watched.escapes, rule, title)
            }
            (Deed::Tamper(words), by) => {
                let Some(rule) = self.settings.tamper_sign else { return Vec::new() };
                let episode = match by {
                    None => Some(&mut self.host),
                    Some((id, _)) => self.watched(id).map(|watched| &mut watched.tampers),
                };
                let Some(episode) = episode else { return Vec::new() };
                told(Detection::TamperSign, seen, episode, rule, || format!("sign of tampering: {words}"))
            }
            // Of no session, and so nobody's doing.
            (_, None) => Vec::new(),
        }
    }

    fn limit(&mut self, seen: &Seen<'_>, id: Uuid, limit: &'static str) -> Vec<Finding> {
        if !self.settings.limit_reached {
            return Vec::new();
        }
        let Some(watched) = self.watched(id) else { return Vec::new() };
        if watched.limits.contains(&limit) {
            return Vec::new();
        }
        watched.limits.push(limit);
        let title = format!("the limit `{limit}` is reached");
        vec![single(Detection::LimitReached, seen, title, limit.to_owned(), false)]
    }

    /// Whether the session was told of as having reached this limit.
    pub(crate) fn knows_limit(&self, session: Uuid, limit: &str) -> bool {
        self.sessions.get(&session).is_some_and(|watched| watched.limits.contains(&limit))
    }

    fn executed(&mut self, seen: &Seen<'_>, agent: &str, path: &str, sha256: Option<&str>) -> Vec<Finding> {
        let Some(most) = self.settings.new_executable else { return Vec::new() };
        let now_s = seen.at.time.as_second();
        let found = self.baselines.of(agent, now_s).map(|baseline| {
            let novelty = baseline.executed(path, sha256, most);
            (novelty, baseline.is_learning(&self.settings.learning, now_s))
        });
        let subject = || match sha256 {
            None => path.to_owned(),
            Some(sha256) => format!("{path} (sha256 {sha256})"),
        };
        self.novelty(seen, agent, Detection::NewExecutable, found, subject)
    }

    fn reached(&mut self, seen: &Seen<'_>, agent: &str, endpoint: Endpoint) -> Vec<Finding> {
        let Some(most) = self.settings.new_destination else { return Vec::new() };
        let now_s = seen.at.time.as_second();
        let found = self.baselines.of(agent, now_s).map(|baseline| {
            let novelty = baseline.reached(endpoint, most);
            (novelty, baseline.is_learning(&self.settings.learning, now_s))
        });
        self.novelty(seen, agent, Detection::NewDestination, found, || endpoint.to_string())
    }

    fn novelty(
        &mut self,
        seen: &Seen<'_>,
        agent: &str,
        detection: Detection,
        found: Option<(Novelty, bool)>,
        subject: impl Fn() -> String,
    ) -> Vec<Finding> {
        let what = if detection == Detection::NewExecutable { "executable" } else { "destination" };
        match found {
            None => {
                self.leave_out(
                    "there are baselines of as many agents as are kept: what others do is not compared",
                );
                Vec::new()
            }
            Some((Novelty::Known, _) | (Novelty::Added, true)) => Vec::new(),
            Some((Novelty::Added, false)) => {
                let title = format!("a new {what} for the agent: {}", subject());
                vec![single(detection, seen, title, subject(), true)]
            }
            // The episodes of two detections for as many agents as there are baselines.
            Some((Novelty::NoRoom, is_learning)) => {
                self.unremembered += 1;
                let episode = self.full.entry((agent.to_owned(), detection)).or_default();
                let title = || {
                    let subject = subject();
                    format!("the agent's baseline is full, so what is new is only counted: {what} {subject}")
                };
                let mut findings = told(detection, seen, episode, self.settings.full, title);
                for finding in &mut findings {
                    finding.subject = Some(subject());
                    finding.is_grave &= !is_learning;
                }
                findings
            }
        }
    }

    /// A session ends, which may be one that this agent's learning goes by: what is told of at its end.
    pub(crate) fn end_session(&mut self, id: Uuid, agent: Option<&str>) -> Vec<Finding> {
        if let Some(agent) = agent {
            self.baselines.end_session(agent);
        }
        let Some(mut watched) = self.sessions.remove(&id) else { return Vec::new() };
        let Watched { refusals, escapes, tampers, .. } = &mut watched;
        let episodes = [
            (Detection::RefusalBurst, refusals, true),
            (Detection::EscapeSign, escapes, false),
            (Detection::TamperSign, tampers, false),
        ];
        let over = episodes
            .into_iter()
            .filter_map(|(detection, episode, always)| over(detection, Some(id), always, episode.close()?));
        over.collect()
    }

    /// What is over by now; called every second or so.
    pub(crate) fn pass_time(&mut self, now_ns: u64) -> Vec<Finding> {
        let mut findings = Vec::new();
        let Settings { refusal_burst, escape_sign, tamper_sign, full, .. } = self.settings;
        for (id, watched) in &mut self.sessions {
            for (detection, episode, rule) in [
                (Detection::RefusalBurst, &mut watched.refusals, refusal_burst),
                (Detection::EscapeSign, &mut watched.escapes, escape_sign),
                (Detection::TamperSign, &mut watched.tampers, tamper_sign),
            ] {
                let Some(rule) = rule else { continue };
                let settled = episode.settle(rule, now_ns);
                findings.extend(settled.and_then(|summary| {
                    over(detection, Some(*id), detection == Detection::RefusalBurst, summary)
                }));
            }
        }
        self.sessions.retain(|_, watched| !watched.is_idle());
        if let Some(rule) = tamper_sign {
            let settled = self.host.settle(rule, now_ns);
            findings.extend(settled.and_then(|summary| over(Detection::TamperSign, None, false, summary)));
        }
        for ((_, detection), episode) in &mut self.full {
            let settled = episode.settle(full, now_ns);
            findings.extend(settled.and_then(|summary| over(*detection, summary.session, false, summary)));
        }
        self.full.retain(|_, episode| !episode.is_idle());
        findings
    }

    /// Lines with a greater number than this did not get into the event file: their numbers are others' from now on.
    pub(crate) fn forget_numbers(&mut self, after: u64) {
        let of_session = |watched: &mut Watched| {
            let Watched { refusals, escapes, tampers, .. } = watched;
            [refusals, escapes, tampers].into_iter().for_each(|episode| episode.forget_numbers(after));
        };
        self.sessions.values_mut().for_each(of_session);
        self.full.values_mut().chain([&mut self.host]).for_each(|episode| episode.forget_numbers(after));
    }

    /// Whether anything that a session does may be a finding that it is put in quarantine for.
    pub(crate) const fn finds_deeds(&self) -> bool {
        let Settings { refusal_burst, new_executable, new_destination, escape_sign, tamper_sign, .. } =
            &self.settings;
        refusal_burst.is_some()
            || new_executable.is_some()
            || new_destination.is_some()
            || escape_sign.is_some()
            || tamper_sign.is_some()
    }

    /// Baselines that changed since they were asked for last, as text, of no more than so many agents.
    pub(crate) fn take_unsaved(&mut self, most: usize) -> Vec<(String, String)> {
        self.baselines.take_unsaved(most)
    }

    /// That of this agent could not be written down.
    pub(crate) fn keep_unsaved(&mut self, agent: &str) {
        self.baselines.keep_unsaved(agent);
    }

    /// Agents with a baseline.
    pub(crate) fn agents(&self) -> usize {
        self.baselines.len()
    }

    /// Events that were compared with nothing, because there was no place.
    pub(crate) const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// What was new and is not remembered, because its agent's baseline is full.
    pub(crate) const fn unremembered(&self) -> u64 {
        self.unremembered
    }

    /// What there was no place for, in words; once.
    pub(crate) const fn take_complaint(&mut self) -> Option<&'static str> {
        self.complaint.take()
    }

    fn leave_out(&mut self, complaint: &'static str) {
        if self.left_out == 0 {
            self.complaint = Some(complaint);
        }
        self.left_out += 1;
    }

    fn watched(&mut self, id: Uuid) -> Option<&mut Watched> {
        if self.sessions.len() >= MAX_SESSIONS as usize && !self.sessions.contains_key(&id) {
            self.leave_out("as many sessions are watched as there can be: others are not");
            return None;
        }
        Some(match self.sessions.entry(id) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => free.insert(Watched::default()),
        })
    }
}

/// Adds an event to an episode: that one is over, that one begins, or neither.
fn told(
    detection: Detection,
    seen: &Seen<'_>,
    episode: &mut Episode,
    rule: Rule,
    title: impl FnOnce() -> String,
) -> Vec<Finding> {
    let session = seen.by.map(|(id, _)| id);
    let mut findings = Vec::new();
    let settled = episode.settle(rule, seen.at.boot_ns);
    let always = detection == Detection::RefusalBurst;
    findings.extend(settled.and_then(|summary| over(detection, summary.session, always, summary)));
    if let Some(summary) =
        episode.add(rule, seen.at, seen.sequence, session, |first| id_of(detection, session, first))
    {
        findings.push(Finding {
            id: summary.id,
            detection,
            phase: Phase::New,
            session,
            title: title(),
            subject: None,
            count: summary.count,
            first: summary.first,
            last: summary.last,
            evidence: summary.evidence,
            is_grave: session.is_some(),
        });
    }
    findings
}

/// What is said at the end of an episode; nothing if all was said at its beginning.
fn over(detection: Detection, session: Option<Uuid>, always: bool, summary: Summary) -> Option<Finding> {
    if !always && summary.count == 1 {
        return None;
    }
    let Summary { id, count, first, last, evidence, .. } = summary;
    let what = match detection {
        Detection::RefusalBurst => "refusals",
        Detection::EscapeSign => "signs of an escape",
        Detection::TamperSign => "signs of tampering",
        Detection::NewExecutable => "executables that were new and are not remembered",
        Detection::NewDestination => "destinations that were new and are not remembered",
        Detection::LimitReached => "refusals for a limit",
    };
    let title = format!("{count} {what}; it is over");
    let phase = Phase::Over;
    Some(Finding {
        id,
        detection,
        phase,
        session,
        title,
        subject: None,
        count,
        first,
        last,
        evidence,
        is_grave: false,
    })
}

/// A finding of one event.
fn single(detection: Detection, seen: &Seen<'_>, title: String, subject: String, is_grave: bool) -> Finding {
    let Seen { sequence, at: Moment { time, .. }, by } = *seen;
    let session = by.map(|(id, _)| id);
    Finding {
        // Of several that are new in one moment, each is another one.
        id: format!("{}/{}", id_of(detection, session, time), sequence.unwrap_or(0)),
        detection,
        phase: Phase::New,
        session,
        title,
        subject: Some(subject),
        count: 1,
        first: time,
        last: time,
        evidence: sequence.map(|sequence| Evidence { sequence, time }).into_iter().collect(),
        is_grave,
    }
}

fn id_of(detection: Detection, session: Option<Uuid>, first: Timestamp) -> String {
    let whose = session.map_or_else(|| "host".to_owned(), |id| id.to_string());
    format!("{detection}/{whose}/{first:.9}")
}
