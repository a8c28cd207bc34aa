//! Reading the tree: maps with a known set of fields, lists and text.

use super::diagnostic::{Collector, Path, Position, Problem, quoted};
use super::document::{Entry, Kind, Node};
use super::language::Field;

/// A node and the path to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'n> {
    node: &'n Node<'n>,
    path: Path<'n>,
}

impl<'n> Value<'n> {
    pub(super) fn root(node: &'n Node<'n>) -> Self {
        Self { node, path: Path::Root }
    }

    pub(super) fn at(&self) -> Position {
        self.node.at
    }

    pub(super) fn report(&self, out: &mut Collector, problem: Problem) {
        out.report(self.node.at, &self.path, problem);
    }

    /// What `read` makes of the text that stands here.
    pub(super) fn parse<T>(
        &self,
        out: &mut Collector,
        read: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let Kind::Text(text) = &self.node.kind else {
            self.wrong_kind(out, "text");
            return None;
        };
        read(text).map_err(|problem| self.report(out, problem)).ok()
    }

    /// The items of a list.
    pub(super) fn items<'v>(
        &'v self,
        out: &mut Collector,
    ) -> Option<impl Iterator<Item = Value<'v>> + use<'v, 'n>> {
        let Kind::List(items) = &self.node.kind else {
            self.wrong_kind(out, "a list");
            return None;
        };
        let item = |(index, node)| Value { node, path: Path::Item(&self.path, index) };
        Some(items.iter().enumerate().map(item))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.kind, Kind::List(_))
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.kind, Kind::Null)
    }

    /// The fields of a map. Reports those that are unknown or there twice; of the latter the first counts.
    pub(super) fn fields(&'n self, out: &mut Collector, known: &'static [Field]) -> Option<Fields<'n>> {
        let Kind::Map(entries) = &self.node.kind else {
            self.wrong_kind(out, "a map");
            return None;
        };
        let mut found: Vec<Option<&Entry<'_>>> = vec![None; known.len()];
        for entry in entries {
            let slot = known.iter().position(|field| field.name == entry.key).and_then(|i| found.get_mut(i));
            match slot {
                Some(slot @ None) => *slot = Some(entry),
                Some(Some(first)) => {
                    let problem = Problem::new(format!("the field `{}` is here twice", entry.key))
                        .hint(format!("the first is on line {}", first.at.line));
                    out.report(entry.at, &Path::Field(&self.path, &entry.key), problem);
                }
                None => {
                    let problem = Problem::new(format!("unknown field `{}`", quoted(&entry.key)));
                    // A hint costs more than the report, and there may be millions of unknown fields.
                    let problem =
                        if out.is_full() { problem } else { problem.hint(suggest(&entry.key, known)) };
                    out.report(entry.at, &self.path, problem);
                }
            }
        }
        Some(Fields { map: self, known, found })
    }

    fn wrong_kind(&self, out: &mut Collector, expected: &str) {
        let found = match self.node.kind {
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
            Kind::Null => "nothing",
            Kind::Refused => return,
        };
        let problem = Problem::new(format!("expected {expected}, found {found}"));
        let problem = match (expected, found) {
            ("a list", "text") => problem.hint("write it in brackets, `[...]`, also if there is only one"),
            // What `2001:db8::` is, unquoted.
            ("text", "a map") => {
                problem.hint("put quotes around text with a colon at its end or before a space")
            }
            _ => problem,
        };
        self.report(out, problem);
    }
}

/// The fields of one map.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    map: &'n Value<'n>,
    known: &'static [Field],
    found: Vec<Option<&'n Entry<'n>>>,
}

impl<'n> Fields<'n> {
    /// The field, if it is there.
    pub(super) fn optional(&self, name: &str) -> Option<Value<'n>> {
        let index = self.known.iter().position(|known| known.name == name);
        debug_assert!(index.is_some(), "`{name}` is read but not declared");
        let entry = self.found.get(index?).copied().flatten()?;
        Some(Value { node: &entry.value, path: Path::Field(&self.map.path, &entry.key) })
    }

    /// The field; reports if it is not there.
    ///
    /// A field that only some values of another one demand is not marked as required.
    pub(super) fn required(&self, out: &mut Collector, name: &str) -> Option<Value<'n>> {
        let value = self.optional(name);
        if value.is_none() {
            self.map.report(out, Problem::new(format!("missing field `{name}`")));
        }
        value
    }

    /// A field of text that must be there.
    pub(super) fn parse<T>(
        &self,
        out: &mut Collector,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        self.required(out, name)?.parse(out, read)
    }

    /// A field of text with a default.
    pub(super) fn parse_or<T>(
        &self,
        out: &mut Collector,
        name: &str,
        default: T,
        read: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        match self.optional(name) {
            None => Some(default),
            Some(value) => value.parse(out, read),
        }
    }
}

fn suggest(written: &str, known: &[Field]) -> String {
    let known: Vec<&str> = known.iter().map(|field| field.name).collect();
    match closest(written, &known) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known fields: {}", known.join(", ")),
    }
}

/// The one of `known` that was probably meant.
pub(super) fn closest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    if written.len() > 32 {
        return None;
    }
    let lower = written.to_ascii_lowercase();
    let distances = known.iter().map(|name| {
        let name_lower = name.to_ascii_lowercase();
        let starts = lower.len() >= 3 && name_lower.starts_with(&lower);
        (if starts { 1 } else { distance(&lower, &name_lower) }, *name)
    });
    let (distance, name) = distances.min()?;
    (distance <= 2 && distance < name.len()).then_some(name)
}

/// How many characters to insert, delete or replace to get from one text to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            left = (diagonal + usize::from(x != *y)).min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, expect) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("port", "ports", 1),
            ("kitten", "sitting", 3),
            ("m\u{43e}de", "mode", 1),
        ] {
            assert_eq!(distance(a, b), expect, "{a} {b}");
        }
    }
}
