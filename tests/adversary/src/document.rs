//! The table in `docs/threat-model.md`, made from result files, so that it says what was seen.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::catalogue::{TECHNIQUES, Technique};
use crate::suite::{GOT_OUT, Line};

const BEGIN: &str = "<!-- begin: made by `cargo xtask adversary --document` -->\n";
const END: &str = "<!-- end -->";

/// A kernel, and whether a guard ran.
type Column = (Vec<u32>, bool);

/// The document with its table made anew from the result files in a directory.
pub(crate) fn with_table(document: &str, results: &Path) -> io::Result<String> {
    let missing = || io::Error::other(format!("the document has no `{}` and `{END}`", BEGIN.trim()));
    let (before, rest) = document.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", table(&read(results)?)))
}

fn read(directory: &Path) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            for line in fs::read_to_string(&path)?.lines() {
                lines.push(serde_json::from_str(line)?);
            }
        }
    }
    Ok(lines)
}

/// One row for each technique, one column for each kernel with and without a guard; then why what is open is.
fn table(lines: &[Line]) -> String {
    let mut columns: BTreeMap<Column, BTreeMap<&str, &Line>> = BTreeMap::new();
    for line in lines {
        let numbers = line.kernel.split('.').filter_map(|number| number.parse().ok()).collect();
        columns.entry((numbers, line.lsm)).or_default().insert(&line.technique, line);
    }
    let mut text = String::from("| technique | what it does |");
    for (kernel, guard) in columns.keys() {
        let kernel: Vec<String> = kernel.iter().map(u32::to_string).collect();
        text += &format!(" {}{} |", kernel.join("."), if *guard { ", guard" } else { "" });
    }
    text += "\n|---|---|";
    text += &"---|".repeat(columns.len());
    text.push('\n');
    let mut reasons = Vec::new();
    for technique in TECHNIQUES {
        let root = if technique.as_root { " (root)" } else { "" };
        text += &format!("| `{}`{root} | {} |", technique.name, technique.about);
        for ((_, guard), results) in &columns {
            text += &format!(" {} |", cell(technique, *guard, results.get(technique.name), &mut reasons));
        }
        text.push('\n');
    }
    text.push('\n');
    for (index, reason) in reasons.iter().enumerate() {
        let (first, rest) = reason.split_at(1);
        text += &format!("{}. {}{rest}.\n", index + 1, first.to_uppercase());
    }
    text
}

fn cell(technique: &Technique, guard: bool, line: Option<&&Line>, reasons: &mut Vec<String>) -> String {
    let Some(line) = line else { return "not run".into() };
    let mut reason = |why: &str| {
        let why = why.to_owned();
        let known = reasons.iter().position(|reason| *reason == why);
        1 + known.unwrap_or_else(|| {
            reasons.push(why);
            reasons.len() - 1
        })
    };
    let Some(outcome) = &line.outcome else {
        let why = technique.inapplicable_on(&line.kernel).or(line.why.as_deref()).unwrap_or("not known");
        return format!("n/a ({})", reason(why));
    };
    if outcome != GOT_OUT {
        return line.stopped_by.clone().unwrap_or_default();
    }
    match technique.open.reason(guard, &line.kernel) {
        Some(why) => format!("open ({})", reason(why)),
        None => "**got out**".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_in_the_document_is_the_one_that_the_results_give() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = package.join("../../docs/threat-model.md");
        let document = fs::read_to_string(path).expect("the document is there");
        let made = with_table(&document, &package.join("results")).expect("the table can be made");
        assert!(made == document, "out of date: `cargo xtask adversary --document`");
    }

    #[test]
    fn result_files_are_named_after_what_they_hold() {
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        for entry in fs::read_dir(results).expect("the results are there") {
            let path = entry.expect("the directory can be read").path();
            for text in fs::read_to_string(&path).expect("a result file is text").lines() {
                let line: Line = serde_json::from_str(text).expect("a line of results");
                let name = format!("{}-{}.json", line.kernel, if line.lsm { "lsm" } else { "nolsm" });
                assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(name.as_str()));
            }
        }
    }
}
