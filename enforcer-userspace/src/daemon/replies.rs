//! Who waits for an answer, and what they get.

use axum::http::StatusCode;
use tokio::sync::oneshot;

use crate::{
    control::server::{Answer, Refusal},
    exit::one_line,
};

/// The refusal for a fault of ours.
pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", one_line(error))
}

/// Who waits for an answer.
pub(super) type To = oneshot::Sender<Result<Answer, Refusal>>;

pub(super) fn reply_to(reply: To, answer: Result<Answer, Refusal>) {
    // A client that has gone away does not get its answer; for an enrolment see `Daemon::enrol`.
    drop(reply.send(answer));
}
