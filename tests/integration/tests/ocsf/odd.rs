//! Texts that nobody expects, in the place of those that a process or whoever writes an envelope can choose.

use serde_json::Value;

const TEXTS: &[&str] = &[
    "",
    "/",
    "a b",
    "a/b",
    "none",
    "-",
    "_host",
    "ü\u{202e}",
    "\0",
    "@",
    "alice@ex",
    "a@b.c",
    "a@b_c.d",
    "::",
    "1.2.3.4",
    "2001:db8::1",
    "999.1.1.1",
];

/// The lines, each with other texts.
pub(crate) fn lines(lines: &[String]) -> Vec<String> {
    let mut texts = TEXTS.iter().copied().cycle();
    let odd = |line: &String| {
        let mut line: Value = serde_json::from_str(line).expect("a line is JSON");
        scramble(&mut line, &mut texts);
        // So that the next line has others.
        texts.next();
        line.to_string()
    };
    lines.iter().map(odd).collect()
}

fn scramble(value: &mut Value, texts: &mut impl Iterator<Item = &'static str>) {
    match value {
        Value::String(text) => *text = texts.next().expect("they do not end").to_owned(),
        Value::Array(all) => all.iter_mut().for_each(|value| scramble(value, texts)),
        Value::Object(fields) => {
            // These say what the line is.
            let others = fields.iter_mut().filter(|(name, _)| !matches!(name.as_str(), "kind" | "time"));
            others.for_each(|(_, value)| scramble(value, texts));
        }
        _ => {}
    }
}
