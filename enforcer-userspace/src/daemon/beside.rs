//! What takes time is done beside the loop, which hears of the outcome.

use super::{Daemon, attest, cut, delegate, findings, granted, register};

/// What is done beside the loop, because it takes time, when it is done.
pub(super) enum Beside {
    /// Sockets of a session were destroyed.
    Cut(cut::Done),
    /// What is being registered has been stopped, tagged and cut, or not.
    TakenOver(register::TakenOver),
    /// What was not to be registered after all runs as before.
    GivenBack(register::GivenBack),
    /// What a session wants to hand on was compared with what it has.
    Compared(Box<delegate::Compared>),
    /// What a user who is no operator asked for was compared with what is granted.
    Weighed(Box<granted::Weighed>),
    /// What a process executes was measured.
    Measured(Box<attest::Answer>),
    /// Files of a session were looked at.
    Looked(attest::Looked),
    /// Likewise, of one that begins if they are right.
    LookedFirst(Box<attest::LookedFirst>),
    /// What agents have done so far was written down.
    Saved(findings::Saved),
}

impl Daemon {
    /// Does beside the loop what takes time. The loop hears of the outcome.
    pub(super) fn beside(&self, work: impl FnOnce() -> Beside + Send + 'static) {
        let done = self.done.clone();
        // A loop that is gone does not hear of it: the daemon is stopping.
        tokio::task::spawn_blocking(move || drop(done.send(work())));
    }

    /// Takes up what was done.
    pub(super) fn end_beside(&mut self, beside: Beside) {
        match beside {
            Beside::Cut(done) => self.end_cut(done),
            Beside::TakenOver(taken) => self.end_taking_over(taken),
            Beside::GivenBack(given) => self.end_giving_back(given),
            Beside::Compared(compared) => self.end_delegating(*compared),
            Beside::Weighed(weighed) => self.end_weighing(*weighed),
            Beside::Measured(answer) => self.end_measuring(*answer),
            Beside::Looked(looked) => self.end_looking(looked),
            Beside::LookedFirst(looked) => self.end_looking_first(*looked),
            Beside::Saved(saved) => self.end_saving(saved),
        }
    }
}
