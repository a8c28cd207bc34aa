//! What is wrong with an envelope: every error at once, each with its place.

use std::fmt::{self, Write as _};

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagnostic {
    /// From 1.
    pub(crate) line: u32,
    /// In characters, from 1.
    pub(crate) column: u32,
    /// Such as `spec.egress[0].to[1]`; empty for the document as a whole.
    pub(crate) path: String,
    pub(crate) message: String,
    /// What the user can do about it.
    pub(crate) hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, in the order of the text. Never empty. Displays one error per line, hints on lines of their
/// own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagnostics(pub(crate) Vec<Diagnostic>);

impl Diagnostics {
    /// One error of the document as a whole.
    pub(super) fn one(at: Position, problem: Problem) -> Self {
        let Problem { message, hint } = problem;
        Self(vec![Diagnostic { line: at.line, column: at.column, path: String::new(), message, hint }])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            write!(f, "{diagnostic}")?;
            if let Some(hint) = &diagnostic.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// An error before its place is known.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    message: String,
    hint: Option<String>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Position {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// A place in the tree. Linked to its parent and not a string, since only a place with an error is ever printed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => quoted(name).fmt(f),
            Self::Field(parent, name) => write!(f, "{parent}.{}", quoted(name)),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Gathers errors. Keeps the first hundred and counts the rest.
#[derive(Debug, Default)]
pub(super) struct Collector {
    kept: Vec<Diagnostic>,
    more: usize,
    first_more: Option<Position>,
}

impl Collector {
    const MAX: usize = 100;

    pub(super) fn report(&mut self, at: Position, path: &Path<'_>, problem: Problem) {
        if self.is_full() {
            self.more += 1;
            self.first_more.get_or_insert(at);
            return;
        }
        self.kept.push(Diagnostic {
            line: at.line,
            column: at.column,
            path: path.to_string(),
            message: problem.message,
            hint: problem.hint,
        });
    }

    /// Whether further errors are only counted, so that nobody need work out a hint.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= Self::MAX
    }

    /// `value`, if nothing was reported. A reader that returns `None` has reported why.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, Diagnostics> {
        if self.kept.is_empty()
            && let Some(value) = value
        {
            return Ok(value);
        }
        self.kept.sort_by_key(|d| (d.line, d.column));
        if let Some(at) = self.first_more {
            self.kept.push(Diagnostic {
                line: at.line,
                column: at.column,
                path: String::new(),
                message: format!("{} more errors are not shown", self.more),
                hint: None,
            });
        }
        debug_assert!(!self.kept.is_empty(), "an envelope was refused without a reason");
        Err(Diagnostics(self.kept))
    }
}

/// Text from outside, fit for a message: cut if long, and in ASCII, so that nothing in it acts on a terminal, hides, or passes
/// for another letter.
pub(super) fn quoted(text: &str) -> impl fmt::Display {
    const MAX_CHARS: usize = 64;
    let mut shown = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == MAX_CHARS {
            shown.push_str("...");
            break;
        }
        if c.is_ascii() && !c.is_control() {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown
}

/// Control characters, and those that are invisible or reorder what is around them: Unicode's `Default_Ignorable_Code_Point`,
/// the separators of lines and paragraphs, and blanks that are not spaces.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}
