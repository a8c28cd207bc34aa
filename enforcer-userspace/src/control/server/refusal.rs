//! How a request is refused.

use axum::{
    Extension, Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::unheard::Told;
use crate::control::dto;

/// A request that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// Whether the daemon's loop knows of it, which sees to the record.
    pub(crate) recorded: bool,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), hint: None, recorded: false }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let told = Told { why: self.message.clone(), known: self.recorded };
        let error = dto::ProblemBody { code: self.code.to_owned(), message: self.message, hint: self.hint };
        (self.status, Extension(told), Json(dto::Problem { error })).into_response()
    }
}
