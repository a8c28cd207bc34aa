//! The daemon: joins the kernel, the sessions, the control socket and the event file in one loop. Everything that can
//! happen to it is an [`Input`].

mod answers;
mod apply;
mod asker;
mod attest;
mod audit;
mod beside;
mod coverage;
mod cut;
mod delegate;
mod ending;
mod error;
mod events;
mod findings;
mod flows;
mod granted;
mod grants;
mod identity;
mod lifecycle;
mod metrics;
mod own;
mod past;
mod records;
mod recover;
mod refused;
mod register;
mod replies;
mod restore;
mod seats;
mod signals;
mod standing;
mod start;
mod stop;
mod tick;
mod trust;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    cgroup::Cgroups,
    chain::Signer,
    control::{
        peer::Peer,
        server::{Answer, Call, Refusal, Request, Unheard},
    },
    exit::one_line,
    host::Host,
    kernel::{Kernel, Ring},
    record::{EventKind, Losses},
    scrape::Scrape,
    session::Registry,
    settings::Settings,
    sinks::Sink,
    state::{Limits, State},
};

use attest::Attestation;
use beside::Beside;
pub(crate) use error::DaemonError;
pub(crate) use events::Events;
use findings::Findings;
use flows::Totals;
use granted::Policy;
use identity::{Issuer, RotationError};
use metrics::Metrics;
use past::Past;
use refused::RefusedRequests;
use replies::{To, internal, reply_to};
use signals::Signals;
pub(crate) use start::{Reports, StartError, lock, run};
use trust::Trust;

/// Records handled before the loop looks at its other inputs again.
const RECORDS_AT_ONCE: usize = 256;
/// How long a request may wait for records that came before it.
const CATCH_UP: Duration = Duration::from_millis(100);
/// How long records are held back before it is looked whether the audit log takes them.
const HOLD: Duration = Duration::from_millis(2);
/// How often the daemon looks for what no record tells it.
const TICK: Duration = Duration::from_secs(1);

/// Everything that can happen to the daemon.
enum Input {
    /// Records are waiting, and have been handled.
    Records,
    Call(Box<Call>),
    /// A request was refused that is no call.
    Refused(Box<Unheard>),
    /// Work beside the loop is done.
    Done(Box<Beside>),
    /// Somebody collects metrics.
    Scrape(Scrape),
    Tick,
    /// Records are held back, and may be taken now.
    Waited,
    Stop(&'static str),
}

/// The daemon's state. One task owns it. What goes on beside it has copies of what it needs, and of [`kernel::Tagger`], which it shares.
///
/// [`kernel::Tagger`]: crate::kernel::Tagger
pub(crate) struct Daemon {
    settings: Settings,
    host: Host,
    cgroups: Cgroups,
    kernel: Kernel,
    registry: Registry,
    state: State,
    past: Past,
    /// Of users who are no operators.
    policy: Policy,
    /// The group that may operate the daemon, if there is one.
    operators: Option<u32>,
    /// Nothing: every envelope is accepted.
    trust: Option<Trust>,
    issuer: Issuer,
    signer: Signer,
    attestation: Attestation,
    audit_limits: Limits,
    events: Events,
    sinks: Vec<Sink>,
    /// Sessions that had no process at the last tick, though no record of an exit said so.
    empty: BTreeSet<Uuid>,
    losses: Losses,
    findings: Findings,
    totals: Totals,
    metrics: Metrics,
    said: coverage::Said,
    /// Where work beside the loop says that it is done.
    done: mpsc::UnboundedSender<Beside>,
    /// The session that is being registered beside the loop: one at a time.
    registering: Option<Uuid>,
    /// Requests that wait for that. No more than there are connections.
    waiting: VecDeque<Call>,
    /// Connections to our sockets that there was no place for.
    turned_away: Arc<AtomicU64>,
    refused: RefusedRequests,
    faults: u64,
    last_fault: Option<String>,
    started: jiff::Timestamp,
}

/// What others ask for.
struct Asked<'a> {
    calls: &'a mut mpsc::Receiver<Call>,
    /// What was refused before it was a call.
    refused: &'a mut mpsc::Receiver<Unheard>,
    scrapes: &'a mut mpsc::Receiver<Scrape>,
}

/// What the loop ends with.
#[derive(Debug)]
struct Ended {
    /// Enforcement was taken away, too.
    torn_down: bool,
}

impl Daemon {
    /// Runs until told to stop.
    async fn serve(
        &mut self,
        ring: &mut Ring,
        asked: Asked<'_>,
        done: &mut mpsc::UnboundedReceiver<Beside>,
        mut signals: Signals,
    ) -> Result<Ended, DaemonError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stop = None;
        loop {
            // After whatever happened, and before anybody waits for more.
            self.events.flush();
            self.update_leases();
            // A registration is not left half done.
            if self.registering.is_none() {
                if let Some(reason) = stop {
                    while let Ok(unheard) = asked.refused.try_recv() {
                        self.record_unheard(&unheard);
                    }
                    self.say_stopped(ring, reason);
                    return Ok(Ended { torn_down: false });
                }
                if let Some(call) = self.waiting.pop_front() {
                    if self.handle(call) {
                        return Ok(Ended { torn_down: true });
                    }
                    continue;
                }
            }
            let holds_back = self.events.holds_back();
            let input = tokio::select! {
                reason = signals.next() => Input::Stop(reason),
                Some(beside) = done.recv() => Input::Done(Box::new(beside)),
                Some(call) = asked.calls.recv() => Input::Call(Box::new(call)),
                Some(unheard) = asked.refused.recv() => Input::Refused(Box::new(unheard)),
                Some(scrape) = asked.scrapes.recv() => Input::Scrape(scrape),
                _ = ticks.tick() => Input::Tick,
                () = tokio::time::sleep(HOLD), if holds_back => Input::Waited,
                read = ring.read(RECORDS_AT_ONCE, |bytes| self.take_record(bytes)), if !holds_back => {
                    read.map_err(DaemonError::Records)?;
                    Input::Records
                }
            };
            match input {
                Input::Records => {
                    let ended = self.end_finished();
                    self.survive(ended);
                    // A session that never stops making records must not keep the control socket from being served.
                    tokio::task::yield_now().await;
                }
                Input::Waited => {}
                Input::Tick => self.tick(ring),
                Input::Done(beside) => self.end_beside(*beside),
                Input::Scrape(scrape) => self.answer_scrape(scrape),
                Input::Refused(unheard) => self.record_unheard(&unheard),
                Input::Call(call) => {
                    if call.request.is_after_records() || self.hands_on(&call) {
                        // Unless so much happens that it would have to wait.
                        self.catch_up(ring);
                    }
                    if self.handle(*call) {
                        return Ok(Ended { torn_down: true });
                    }
                }
                Input::Stop(reason) => stop = Some(reason),
            }
        }
    }

    /// Whether a process of a session asks for another one. The record of its making must be read before.
    fn hands_on(&self, call: &Call) -> bool {
        matches!(call.request, Request::Enrol(_)) && self.is_in_session(call.peer.pid)
    }

    fn say_stopped(&mut self, ring: &mut Ring, reason: &str) {
        // What is left stays in the ring, for the next daemon.
        self.catch_up(ring);
        self.say_refused();
        let written = self.write_all_totals();
        self.survive(written);
        self.tell_checkpoint();
        let said = format!("{reason}; enforcement goes on; {}", self.coverage_said());
        self.note(EventKind::DaemonStopped, said);
    }

    /// Whether a request has to wait until what is being registered is: it would begin another session, change all those of an agent,
    /// end enforcement, or is about this one.
    fn has_to_wait(&self, request: &Request) -> bool {
        let Some(registering) = self.registering else { return false };
        match request {
            Request::Enrol(_) | Request::Register(_) | Request::Apply(_) | Request::Teardown { .. } => true,
            Request::Revoke { id, .. } | Request::Quarantine { id } | Request::Lift { id } => {
                registering.to_string().starts_with(id)
            }
            Request::Sessions { .. }
            | Request::Session { .. }
            | Request::Whoami
            | Request::Why { .. }
            | Request::Chain { .. }
            | Request::Status
            | Request::Metrics
            | Request::Events
            | Request::TrustBundle
            | Request::RotateAuditKey
            | Request::Credential(_) => false,
        }
    }

    /// Answers a request, or has it answered when what it asks for is done. True if enforcement was taken away.
    fn handle(&mut self, call: Call) -> bool {
        if let Request::Credential(wanted) = &call.request {
            let issued = self.credential(&call.peer, wanted);
            reply_to(call.reply, issued.map(|issued| Answer::Credential(Box::new(issued))));
            return false;
        }
        if !self.may_name_files(&call) {
            return self.handle_looked(call);
        }
        match self.authorise(&call.peer, &call.request) {
            Ok(()) => self.look_first(call),
            Err(refusal) => reply_to(call.reply, Err(refusal)),
        }
        false
    }

    /// Likewise, when the files that it names were looked at.
    fn handle_looked(&mut self, call: Call) -> bool {
        let authorised = self.authorise(&call.peer, &call.request);
        if authorised.is_ok() && self.has_to_wait(&call.request) {
            // Whoever has gone away has given their place to another, and nothing is begun for them.
            let is_wanted =
                |call: &Call| !matches!(call.request, Request::Enrol(_)) || !call.reply.is_closed();
            self.waiting.retain(is_wanted);
            self.waiting.push_back(call);
            return false;
        }
        let Call { peer, request, reply } = call;
        let answer = match (authorised, request) {
            (Err(refusal), _) => Err(refusal),
            (Ok(()), Request::Enrol(enrol)) if self.is_in_session(peer.pid) => {
                self.delegate(peer, enrol, reply);
                return false;
            }
            (Ok(()), Request::Enrol(enrol)) if !self.is_operator(&peer) => {
                self.enrol_granted(peer, enrol, reply);
                return false;
            }
            (Ok(()), Request::Register(register)) => {
                self.register(peer, register, reply);
                return false;
            }
            (Ok(()), Request::Revoke { id, then }) => {
                self.revoke(&peer, &id, then, reply);
                return false;
            }
            (Ok(()), Request::Quarantine { id }) => {
                self.quarantine(&peer, &id, reply);
                return false;
            }
            (Ok(()), Request::RotateAuditKey) => return self.rotate_audit_key(reply),
            (Ok(()), request) => {
                let changes = request.changes();
                let answer = self.answer(&peer, request);
                if let (Err(refusal), Some(what)) = (&answer, changes)
                    && !refusal.recorded
                {
                    self.record_refusal(&peer, &format!("asked to {what}: {}", refusal.message));
                }
                answer
            }
        };
        let torn_down = matches!(&answer, Ok(Answer::TornDown(answer)) if answer.ended);
        reply_to(reply, answer);
        torn_down
    }

    fn answer(&mut self, peer: &Peer, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::Enrol(enrol) => self.enrol(peer, enrol).map(Answer::Enrolled),
            Request::Sessions { all } => Ok(Answer::Sessions(self.list(all))),
            Request::Session { id } => self.show(&id).map(|shown| Answer::Session(Box::new(shown))),
            Request::Whoami => self.whoami(peer).map(|whoami| Answer::Whoami(Box::new(whoami))),
            Request::Chain { id } => self.chain(peer, id.as_deref()).map(Answer::Chain),
            Request::Why { id } => self.why(peer, id.as_deref()).map(Answer::Refusals),
            Request::Status => self.status().map(Answer::Status).map_err(|error| internal(&error)),
            Request::Metrics => self.metrics().map(Answer::Metrics).map_err(|error| internal(&error)),
            Request::Lift { id } => self.lift(peer, &id).map(Answer::Lifted),
            // Answered elsewhere, or when what takes time is done: see `handle`.
            Request::Register(_)
            | Request::Revoke { .. }
            | Request::Quarantine { .. }
            | Request::RotateAuditKey
            | Request::Credential(_) => {
                Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this is answered elsewhere"))
            }
            Request::TrustBundle => Ok(Answer::TrustBundle(self.trust_bundle())),
            Request::Apply(apply) => self.apply(peer, apply).map(Answer::Applied),
            Request::Events => self.events.feed().map(Answer::Events).map_err(|error| internal(&error)),
            Request::Teardown { keep_events } => Ok(Answer::TornDown(self.release(peer, keep_events))),
        }
    }

    /// Takes the records that are waiting, for a short time. Whether all were taken.
    fn catch_up(&mut self, ring: &mut Ring) -> bool {
        let all = ring.drain(Instant::now() + CATCH_UP, |bytes| {
            self.take_record(bytes);
            !self.events.holds_back()
        });
        self.events.flush();
        let ended = self.end_finished();
        self.survive(ended);
        all
    }

    /// A fault in keeping house ends neither the daemon nor control over the sessions: it is counted, and said when it is
    /// another one than before. What could not be done is tried again at the next tick.
    pub(super) fn survive(&mut self, result: Result<(), DaemonError>) {
        let Err(error) = result else {
            return;
        };
        self.faults += 1;
        let said = one_line(&error);
        if self.last_fault.as_deref() != Some(&said) {
            eprintln!("warning: {said}");
            self.note(EventKind::DaemonFault, said.clone());
            self.last_fault = Some(said);
        }
    }
}
