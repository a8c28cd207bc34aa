//! What a source file names: its text without comments, literals and tests, and the full paths of its `use` items. Not a
//! parser: it knows just enough of Rust that neither a comment nor a grouped import misleads a rule.

/// The part of a source file that rules look at.
pub(super) struct Source {
    /// Each line of code outside `use` items, with its number.
    code: Vec<(usize, String)>,
    /// Each imported path, written out, with the line its item starts on.
    imports: Vec<(usize, String)>,
}

impl Source {
    pub(super) fn read(text: &str) -> Self {
        let code = blank(text);
        // Inline tests come last in a file.
        let code = code.find("#[cfg(test)]\nmod ").map_or(code.as_str(), |end| &code[..end]);
        let mut source = Self { code: Vec::new(), imports: Vec::new() };
        let mut item: Option<(usize, String)> = None;
        for (index, line) in code.lines().enumerate() {
            let number = index + 1;
            if item.is_none() && !is_import(line) {
                source.code.push((number, line.to_owned()));
                continue;
            }
            let (_, import) = item.get_or_insert((number, String::new()));
            import.push_str(line);
            if line.contains(';')
                && let Some((start, import)) = item.take()
            {
                let tree = import.split_once("use ").map_or("", |(_, tree)| tree);
                expand("", tree.trim_end().trim_end_matches(';'), &mut |path| {
                    source.imports.push((start, path))
                });
            }
        }
        source
    }

    /// The lines that name this path or something below it, in order.
    pub(super) fn lines_naming(&self, path: &str) -> impl Iterator<Item = usize> {
        let mut lines: Vec<_> = self
            .code
            .iter()
            .chain(&self.imports)
            .filter(|(_, text)| names(text, path))
            .map(|(line, _)| *line)
            .collect();
        lines.sort_unstable();
        lines.dedup();
        lines.into_iter()
    }
}

fn is_import(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("use ") || (line.starts_with("pub") && line.contains(" use "))
}

/// Whether `path` is in `text` as a whole: `aya` is not in `aya_ebpf` nor in `crate::maya`.
fn names(text: &str, path: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(path).any(|(start, _)| {
        !text[..start].ends_with(in_word) && !text[start + path.len()..].starts_with(in_word)
    })
}

/// Writes out `a::{b, c::{d}}` as `a::b` and `a::c::d`.
fn expand(prefix: &str, tree: &str, found: &mut impl FnMut(String)) {
    let tree = tree.trim();
    let Some((path, group)) = tree.split_once('{') else {
        if !tree.is_empty() {
            found(format!("{prefix}{tree}"));
        }
        return;
    };
    let prefix = format!("{prefix}{path}");
    let (mut depth, mut start) = (0, 0);
    for (index, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            ',' if depth == 0 => {
                expand(&prefix, &group[start..index], found);
                start = index + 1;
            }
            '}' if depth == 0 => {
                expand(&prefix, &group[start..index], found);
                return;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// The text with comments and literals replaced by blanks; lines stay where they are.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest, code.chars().next_back());
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            let (gone, left) = rest.split_at(length);
            code.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = left;
        }
    }
    code
}

/// The length of the comment or literal that `text` begins with, or 0.
fn skipped(text: &str, before: Option<char>) -> usize {
    let until =
        |start: usize, end: &str| text[start..].find(end).map_or(text.len(), |at| start + at + end.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return until(2, "*/");
    }
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    // `r"…"` and `r#"…"#`, but not an identifier that ends in r, nor a raw identifier.
    if text.starts_with('r') && !before.is_some_and(|c| c.is_alphanumeric() && c != 'b') {
        let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
        if text[1 + hashes..].starts_with('"') {
            return until(2 + hashes, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    // A character, as opposed to a lifetime, ends in a quote after one character or an escape.
    let mut characters = text.chars();
    if characters.next() == Some('\'') {
        let inner = characters.next();
        if inner == Some('\\') || characters.next() == Some('\'') {
            return quoted(text, '\'');
        }
    }
    0
}

/// The length of a literal with escapes, with both its quotes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return index + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_name_nothing() {
        for text in [
            "// uses aya::Ebpf",
            "//! [`aya`]",
            "/* aya\n aya */",
            "let s = \"aya \\\" aya\";",
            "let s = r#\"aya \" aya\"#;",
            "let s = \"a\naya\";",
            "let c = '\"'; let s = \"aya\";",
            "fn f<'a>(s: &'a str) { g('\\'', \"aya\") }",
            "aya_ebpf::f(); maya::g();",
        ] {
            assert_eq!(Source::read(text).lines_naming("aya").count(), 0, "{text}");
        }
    }

    #[test]
    fn paths_are_found_where_they_are_named() {
        for (text, path, line) in [
            ("\nuse aya::Ebpf;", "aya", 2),
            ("use aya;", "aya", 1),
            ("use aya as bpf;", "aya", 1),
            ("use std::{\n    fmt,\n    fs::{self, File},\n};", "std::fs", 1),
            ("pub(crate) use std::{io, net::{IpAddr, TcpStream}};", "std::net::TcpStream", 1),
            ("// \"\nlet f = std::fs::read(p);", "std::fs", 2),
            ("let c = 'x'; aya::f();", "aya", 1),
            ("aya::include_bytes_aligned!(x)", "aya", 1),
        ] {
            assert_eq!(Source::read(text).lines_naming(path).collect::<Vec<_>>(), [line], "{text}");
        }
    }
}
