//! YAML text to a tree of nodes that know their place.
//!
//! Takes the part of YAML that reads the same to everyone: one document of maps, lists and text. Anchors, aliases, merge
//! keys, tags and directives are refused. Scalars are not resolved to numbers or booleans, whose rules differ between
//! versions of YAML: they are text, and the reader of each field says what text it takes.

use super::diagnostic::{Collector, Diagnostics, Path, Position, Problem, quoted};
use serde_saphyr::granit_parser::{self, ErrorKind, Event, Marker, Parser, ScalarStyle, Span};
use std::borrow::Cow;

/// The longest text we read, in bytes.
pub(crate) const MAX_TEXT: usize = 64 << 20;
/// How deep maps and lists may nest. The language needs six.
const MAX_DEPTH: usize = 16;
/// How many nodes a document may have: keeps memory within a small multiple of the longest text.
const MAX_NODES: usize = 16 << 20;

/// A node of the tree.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) at: Position,
    pub(super) kind: Kind<'a>,
}

#[derive(Debug)]
pub(super) enum Kind<'a> {
    Text(Cow<'a, str>),
    // Boxed and not vectors: there may be millions of them, nearly all of them tiny.
    List(Box<[Node<'a>]>),
    Map(Box<[Entry<'a>]>),
    /// Nothing, `~` or `null`.
    Null,
    /// Something that was already reported: no more is to be said about it.
    Refused,
}

/// A key of a map and its value. Keys may repeat: whoever reads the map looks for that.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) at: Position,
    pub(super) key: Cow<'a, str>,
    pub(super) value: Node<'a>,
}

/// The bytes of an envelope's file as text. It is UTF-8 and nothing else.
pub(crate) fn decode(bytes: Vec<u8>) -> Result<String, Diagnostics> {
    String::from_utf8(bytes).map_err(|error| {
        let bytes = error.as_bytes();
        let valid = bytes.get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let byte = bytes.get(valid.len()).copied().unwrap_or_default();
        let problem =
            Problem::new(format!("the text is not UTF-8: byte {byte:#04x} at offset {}", valid.len()));
        let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
        let encoding = if utf16 { "it looks like UTF-16: save it as UTF-8" } else { "save it as UTF-8" };
        Diagnostics::one(end_of(&String::from_utf8_lossy(valid)), problem.hint(encoding))
    })
}

/// The place behind a text.
fn end_of(text: &str) -> Position {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let last = lines.rsplit('\n').next().unwrap_or_default();
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: number(lines.matches('\n').count() + 1), column: number(last.chars().count() + 1) }
}

const _: () = assert!(size_of::<Node<'_>>() == 32 && size_of::<Entry<'_>>() == 64);

/// The root of the document, or `None` if there is no tree to read on from.
pub(super) fn read<'a>(text: &'a str, out: &mut Collector) -> Option<Node<'a>> {
    if text.len() > MAX_TEXT {
        let problem = Problem::new(format!("the text has {} bytes, more than {MAX_TEXT}", text.len()));
        out.report(Position::START, &Path::Root, problem);
        return None;
    }
    // To the parser it is the end of the text.
    if let Some((before, _)) = text.split_once('\0') {
        let problem =
            Problem::new("the text has the character U+0000").hint("control characters are not allowed");
        out.report(end_of(before), &Path::Root, problem);
        return None;
    }
    let options = granit_parser::options! {
        strict_indentation: true,
        disallow_directives: true,
        emit_unresolved_aliases: true,
        emit_comments: false,
    };
    Reader { events: Parser::new_from_str_with_options(text, options), nodes: 0, out }.document().ok()
}

/// Reading cannot go on. The reason is reported.
struct Stopped;

type Events<'a> = Parser<'a, granit_parser::StrInput<'a>>;

struct Reader<'a, 'o> {
    events: Events<'a>,
    nodes: usize,
    out: &'o mut Collector,
}

impl<'a> Reader<'a, '_> {
    fn document(&mut self) -> Result<Node<'a>, Stopped> {
        let root = loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(..), _) => {}
                (Event::StreamEnd, _) => break Node { at: Position::START, kind: Kind::Null },
                (event, span) => break self.node(event, &span, &Path::Root, 0)?,
            }
        };
        if let Kind::Null = root.kind {
            return self.stop(root.at, &Path::Root, Problem::new("the document is empty"));
        }
        loop {
            match self.next()? {
                (Event::DocumentEnd, _) => {}
                (Event::StreamEnd, _) => return Ok(root),
                (_, span) => {
                    let problem = Problem::new("a second document begins here")
                        .hint("an envelope is one document: put each envelope into its own file");
                    self.out.report(position(&span.start), &Path::Root, problem);
                    return Ok(root);
                }
            }
        }
    }

    /// The node that `event` starts. Recurses at most [`MAX_DEPTH`] deep.
    fn node(
        &mut self,
        event: Event<'a>,
        span: &Span,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Node<'a>, Stopped> {
        let at = position(&span.start);
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return self.stop(at, path, Problem::new(format!("more than {MAX_NODES} values")));
        }
        let kind = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_properties(span, anchor, tag.is_some(), path);
                let null = matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                if null && style == ScalarStyle::Plain { Kind::Null } else { Kind::Text(text) }
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_properties(span, anchor, tag.is_some(), path);
                Kind::List(self.list(at, path, depth)?)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_properties(span, anchor, tag.is_some(), path);
                Kind::Map(self.map(at, path, depth)?)
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                let problem = Problem::new("an alias (`*name`) is not allowed").hint("write the value out");
                self.out.report(at, path, problem);
                Kind::Refused
            }
            // The parser brings its nodes in order; anything else would be a fault of ours or of its.
            _ => return self.stop(at, path, Problem::new("expected a value")),
        };
        Ok(Node { at, kind })
    }

    fn list(&mut self, at: Position, path: &Path<'_>, depth: usize) -> Result<Box<[Node<'a>]>, Stopped> {
        self.check_depth(at, path, depth)?;
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items.into());
            }
            let path = Path::Item(path, items.len());
            items.push(self.node(event, &span, &path, depth + 1)?);
        }
    }

    fn map(&mut self, at: Position, path: &Path<'_>, depth: usize) -> Result<Box<[Entry<'a>]>, Stopped> {
        self.check_depth(at, path, depth)?;
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(entries.into());
            }
            let at = position(&span.start);
            let key = self.key(event, &span, path, depth)?;
            let (event, span) = self.next()?;
            let value_path = key.as_deref().map_or(*path, |key| Path::Field(path, key));
            let value = self.node(event, &span, &value_path, depth + 1)?;
            if let Some(key) = key {
                entries.push(Entry { at, key, value });
            }
        }
    }

    /// A field name; `None` if it is none, which is reported.
    fn key(
        &mut self,
        event: Event<'a>,
        span: &Span,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Option<Cow<'a, str>>, Stopped> {
        let at = position(&span.start);
        match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<" => {
                let problem = Problem::new("a merge key (`<<`) is not allowed").hint("write the fields out");
                self.out.report(at, path, problem);
                Ok(None)
            }
            Event::Scalar(text, _, anchor, tag) => {
                self.refuse_properties(span, anchor, tag.is_some(), path);
                Ok(Some(text))
            }
            other => {
                if !matches!(self.node(other, span, path, depth + 1)?.kind, Kind::Refused) {
                    self.out.report(at, path, Problem::new("a field name must be text"));
                }
                Ok(None)
            }
        }
    }

    fn refuse_properties(&mut self, span: &Span, anchor: usize, tagged: bool, path: &Path<'_>) {
        if anchor != 0 {
            // The parser does not say where the anchor is, only what has it.
            let problem = Problem::new("an anchor (`&name`) is not allowed")
                .hint("leave it out; it stands directly before this");
            self.out.report(position(&span.start), path, problem);
        }
        if tagged {
            let at = position(span.tag_start.as_ref().unwrap_or(&span.start));
            self.out.report(at, path, Problem::new("a tag (`!name`) is not allowed").hint("leave it out"));
        }
    }

    fn check_depth(&mut self, at: Position, path: &Path<'_>, depth: usize) -> Result<(), Stopped> {
        if depth < MAX_DEPTH {
            return Ok(());
        }
        self.stop(at, path, too_deep())
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Stopped> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => self.stop(position(error.marker()), &Path::Root, syntax(error.kind())),
            None => self.stop(Position::START, &Path::Root, Problem::new("the text ends too early")),
        }
    }

    fn stop<T>(&mut self, at: Position, path: &Path<'_>, problem: Problem) -> Result<T, Stopped> {
        self.out.report(at, path, problem);
        Err(Stopped)
    }
}

fn too_deep() -> Problem {
    Problem::new(format!("nested more than {MAX_DEPTH} deep"))
}

fn syntax(kind: &ErrorKind) -> Problem {
    use ErrorKind as E;

    // The only one that has something from the text in it.
    let what = match kind {
        E::UnexpectedCharacter { character } => {
            format!("unexpected character `{}`", quoted(character.encode_utf8(&mut [0; 4])))
        }
        kind => kind.to_string(),
    };
    let problem = Problem::new(format!("not valid YAML: {what}"));
    match kind {
        // It looks ahead, so it may be there before us.
        E::RecursionLimitExceeded => too_deep(),
        E::UnexpectedCharacter { character } if character.is_control() => problem,
        E::UnexpectedCharacter { .. } => problem.hint("put quotes around text that begins with it"),
        E::TabNotAllowed | E::TabInBlockIndentation | E::TabInIndentation => {
            problem.hint("indent with spaces")
        }
        E::SimpleKeyExpected => problem.hint("write `field: value`, with a space after the colon"),
        E::MappingValueNotAllowed => {
            problem.hint("put quotes around text with a `: ` in it; look at the indentation")
        }
        E::ExpectedBlockMappingKey | E::InvalidIndentation | E::InvalidFlowScalarIndent => {
            problem.hint("what belongs together is indented alike; what it belongs to, less")
        }
        E::InvalidQuotedScalarIndent | E::UnclosedQuotedScalar | E::DocumentIndicatorInQuotedScalar => {
            problem.hint("is a quote before it not closed?")
        }
        E::UnknownQuotedScalarEscape => problem.hint("within double quotes, write `\\\\` for a backslash"),
        _ => problem,
    }
}

fn position(marker: &Marker) -> Position {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: number(marker.line().max(1)), column: number(marker.col().saturating_add(1)) }
}
