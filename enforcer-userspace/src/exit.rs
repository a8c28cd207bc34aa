//! The only code that picks an exit code. The codes are a contract; the README lists them.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// Yes.
    Ok,
    /// The answer is no: the envelope is bad, nothing is running.
    No,
    /// Wrong usage, no permission, or an internal error.
    Error,
    /// This host cannot do it.
    Unsupported,
    /// `run` only: the command exists and cannot be executed.
    NotExecutable,
    /// `run` only: there is no such command.
    NotFound,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(match status {
            ExitStatus::Ok => 0,
            ExitStatus::No => 1,
            ExitStatus::Error => 2,
            ExitStatus::Unsupported => 3,
            ExitStatus::NotExecutable => 126,
            ExitStatus::NotFound => 127,
        })
    }
}

/// A command that did not do what it was asked: what to print, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: ExitStatus,
    pub(crate) error: anyhow::Error,
    /// What the user can do about it.
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(status: ExitStatus, error: impl Into<anyhow::Error>) -> Self {
        Self { status, error: error.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Prints it to stderr, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("error: {}", one_line(self.error.as_ref()));
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        self.status.into()
    }
}

/// An error and its causes on one line. Libraries repeat a cause in their own text, or put a whole verifier log there:
/// what was said already is left out, and of each cause only the first line is kept.
pub(crate) fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = String::new();
    for cause in std::iter::successors(Some(error), |error| error.source()) {
        let text = cause.to_string();
        let first = text.lines().next().unwrap_or_default().trim_end();
        if line.contains(first) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(first);
    }
    line
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(ExitStatus::Error, error)
    }
}
