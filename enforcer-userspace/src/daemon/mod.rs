//! The daemon: joins the kernel, the sessions, the control socket and the event file in one loop. Everything that can
//! happen to it is an [`Input`].

mod answers;
mod apply;
mod cut;
mod events;
mod identity;
mod lifecycle;
mod records;
mod register;
mod restore;
mod seats;
mod standing;
mod start;
mod trust;

use std::{
    collections::BTreeSet,
    io,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use enforcer_common::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    cgroup::Cgroups,
    clock,
    control::{
        peer::Peer,
        server::{Answer, Call, Refusal, Request},
    },
    exit::one_line,
    host::Host,
    kernel::{Kernel, KernelError, MapsError, Ring},
    path_error::PathError,
    procfs::{self, ProcError},
    record::{EventKind, EventLine},
    session::Registry,
    settings::Settings,
    state::{State, StateError},
};

pub(crate) use events::Events;
use identity::{Issuer, RotationError, Unvouched, vouch};
pub(crate) use start::{StartError, lock, run};
use trust::{REFUSALS_A_TICK, Trust};

/// Records handled before the loop looks at its other inputs again.
const RECORDS_AT_ONCE: usize = 256;
/// How long a question may wait for records that came before it.
const CATCH_UP: Duration = Duration::from_millis(100);
/// How often the daemon looks for what no record tells it.
const TICK: Duration = Duration::from_secs(1);

/// Everything that can happen to the daemon.
enum Input {
    /// Records are waiting, and have been handled.
    Records,
    Call(Call),
    /// Sockets of a session were destroyed.
    Cut(cut::Done),
    Tick,
    Stop(&'static str),
}

/// What went wrong while the daemon ran. The kernel goes on enforcing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error("wait for records")]
    Records(#[source] io::Error),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

/// The daemon's state. One task owns it: there are no locks.
pub(crate) struct Daemon {
    settings: Settings,
    host: Host,
    cgroups: Cgroups,
    kernel: Kernel,
    registry: Registry,
    state: State,
    /// Nothing: every envelope is accepted.
    trust: Option<Trust>,
    issuer: Issuer,
    events: Events,
    /// Sessions that had no process at the last tick, though no record of an exit said so.
    empty: BTreeSet<Uuid>,
    lost: u64,
    /// Where work beside the loop says that it is done.
    cuts: mpsc::UnboundedSender<cut::Done>,
    /// Since the last tick.
    requests_refused: u64,
    faults: u64,
    last_fault: Option<String>,
    started: jiff::Timestamp,
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
        calls: &mut mpsc::Receiver<Call>,
        cuts: &mut mpsc::UnboundedReceiver<cut::Done>,
        mut signals: Signals,
    ) -> Result<Ended, DaemonError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let input = tokio::select! {
                reason = signals.next() => Input::Stop(reason),
                Some(done) = cuts.recv() => Input::Cut(done),
                Some(call) = calls.recv() => Input::Call(call),
                _ = ticks.tick() => Input::Tick,
                read = ring.read(RECORDS_AT_ONCE, |bytes| self.take_record(bytes)) => {
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
                Input::Tick => self.tick(ring),
                Input::Cut(done) => self.end_cut(done),
                Input::Call(Call { peer, request, reply }) => {
                    if request.is_question() {
                        // What happened before it is in the answer, unless so much happens that it would have to wait.
                        self.catch_up(ring);
                    }
                    if self.handle(&peer, request, reply) {
                        return Ok(Ended { torn_down: true });
                    }
                }
                Input::Stop(reason) => {
                    // What is left stays in the ring, for the next daemon.
                    self.catch_up(ring);
                    let line = EventLine::new(EventKind::DaemonStopped, &clock::wall(clock::boot_ns()));
                    self.events.write(line.detail(format!("{reason}; enforcement goes on")));
                    return Ok(Ended { torn_down: false });
                }
            }
            self.update_leases();
        }
    }

    /// Answers a request, or has it answered when what it asks for is done. True if enforcement was taken away.
    fn handle(
        &mut self,
        peer: &Peer,
        request: Request,
        reply: oneshot::Sender<Result<Answer, Refusal>>,
    ) -> bool {
        if let Request::Credential(wanted) = &request {
            let issued = self.credential(peer, wanted);
            reply_to(reply, issued.map(|issued| Answer::Credential(Box::new(issued))));
            return false;
        }
        let answer = match (self.authorise(peer, &request), request) {
            (Err(refusal), _) => Err(refusal),
            (Ok(()), Request::Revoke { id, then }) => {
                self.revoke(&id, then, reply);
                return false;
            }
            (Ok(()), Request::Quarantine { id }) => {
                self.quarantine(&id, reply);
                return false;
            }
            (Ok(()), request) => self.answer(peer, request),
        };
        let torn_down = matches!(&answer, Ok(Answer::TornDown(answer)) if answer.ended);
        reply_to(reply, answer);
        torn_down
    }

    /// The socket's permissions let in root and one group. A process of a session may not operate the daemon, whoever it
    /// runs as.
    fn authorise(&mut self, peer: &Peer, request: &Request) -> Result<(), Refusal> {
        let in_session = self.is_in_session(peer.pid);
        // Asked last: had it ended before, the number could have been another's.
        let refusal = match vouch(peer) {
            Err(Unvouched::TryAgain) => return Err(Unvouched::try_again()),
            Err(Unvouched::No(why)) => why,
            Ok(()) if in_session => "a process of a session may not operate the daemon",
            Ok(()) => return Ok(()),
        };
        let asked = match request {
            Request::Enrol(_) => "enrol",
            Request::Register(_) => "register what runs",
            Request::Sessions => "list sessions",
            Request::Status => "status",
            Request::Revoke { .. } => "revoke",
            Request::Quarantine { .. } => "quarantine",
            Request::Lift { .. } => "lift a quarantine",
            Request::Apply(_) => "apply an envelope",
            Request::Events => "read events",
            Request::Teardown { .. } => "teardown",
            Request::TrustBundle => "the trust bundle",
            // Answered by `credential`, which asks for the opposite.
            Request::Credential(_) => "a credential",
        };
        self.record_refusal(format!("pid {} (uid {}) asked to {asked}: {refusal}", peer.pid, peer.uid));
        Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", refusal))
    }

    /// By its tag, or by its cgroup. What cannot be told counts as yes.
    fn is_in_session(&self, pid: u32) -> bool {
        !matches!(self.kernel.sessions.tag(pid), Ok(None)) || stands_inside(&self.cgroups, pid)
    }

    fn answer(&mut self, peer: &Peer, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::Enrol(enrol) => self.enrol(peer, enrol).map(Answer::Enrolled),
            Request::Register(register) => self.register(peer, register).map(Answer::Registered),
            Request::Sessions => Ok(Answer::Sessions(self.list())),
            Request::Status => self.status().map(Answer::Status).map_err(|error| internal(&error)),
            Request::Lift { id } => self.lift(&id).map(Answer::Lifted),
            // Answered elsewhere: see `handle`.
            Request::Revoke { .. } | Request::Quarantine { .. } | Request::Credential(_) => {
                Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this is answered elsewhere"))
            }
            Request::TrustBundle => Ok(Answer::TrustBundle(self.trust_bundle())),
            Request::Apply(apply) => self.apply(peer, apply).map(Answer::Applied),
            Request::Events => self.events.feed().map(Answer::Events).map_err(|error| internal(&error)),
            Request::Teardown { keep_events } => Ok(Answer::TornDown(self.release(keep_events))),
        }
    }

    /// What no record tells: sessions that expire, sessions whose last record was lost, records lost.
    fn tick(&mut self, ring: &mut Ring) {
        let began_ns = clock::boot_ns();
        if self.catch_up(ring) {
            // A program that still goes by what it read so long ago does not run any more.
            let then_ns = began_ns.saturating_sub(u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX));
            self.registry.iter_mut().for_each(|session| session.forget_replaced(then_ns));
        }
        let unsaid = std::mem::take(&mut self.requests_refused).saturating_sub(REFUSALS_A_TICK);
        if unsaid > 0 {
            self.note(EventKind::RequestRefused, format!("and {unsaid} more requests like those before"));
        }
        for look in [
            Self::note_removed_rules,
            Self::report_lost,
            Self::record_expiries,
            Self::end_empty,
            Self::end_finished,
            Self::end_lingering,
            Self::tend_credentials,
        ] {
            let looked = look(self);
            self.survive(looked);
        }
    }

    /// Takes the records that are waiting, for a short time. Whether all were taken.
    fn catch_up(&mut self, ring: &mut Ring) -> bool {
        let all = ring.drain(Instant::now() + CATCH_UP, |bytes| self.take_record(bytes));
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

    fn note_removed_rules(&mut self) -> Result<(), DaemonError> {
        Ok(self.kernel.rules.take_note()?)
    }

    fn report_lost(&mut self) -> Result<(), DaemonError> {
        let counters = self.kernel.sessions.counters()?;
        let lost =
            counters.iter().find(|(counter, _)| *counter == Counter::FaultRecordLost).map_or(0, |(_, n)| *n);
        if lost <= self.lost {
            return Ok(());
        }
        let mut line = EventLine::new(EventKind::RecordsLost, &clock::wall(clock::boot_ns()))
            .detail("the kernel's ring buffer was full; verdicts were not affected");
        line.lost = Some(lost - self.lost);
        self.events.write(line);
        self.lost = lost;
        // What the process trees missed, the kernel's tags say.
        let reconciled = self.reconcile_trees();
        self.survive(reconciled);
        Ok(self.state.save_lost(&self.host.boot_id, lost)?)
    }
}

/// Whether a process is in a session's cgroup. What cannot be told counts as yes.
fn stands_inside(cgroups: &Cgroups, pid: u32) -> bool {
    !matches!(procfs::cgroup2_of(pid), Ok(Some(path)) if !cgroups.holds(&path))
}

/// The refusal for a fault of ours.
fn internal(error: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", one_line(error))
}

fn reply_to(reply: oneshot::Sender<Result<Answer, Refusal>>, answer: Result<Answer, Refusal>) {
    // A client that has gone away does not get its answer; for an enrolment see `Daemon::enrol`.
    drop(reply.send(answer));
}

/// The signals that end the daemon.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "terminated",
            _ = self.interrupt.recv() => "interrupted",
        }
    }
}
