//! What a session may execute.

use super::super::diagnostic::{Collector, Problem};
use super::super::fields::{Fields, Value};
use super::super::language::{self, Field, MAX_IMAGES};
use super::super::{Exec, ExecMode, Image, OnMismatch};
use super::{read_rules, value};

/// Reads `exec`; without it, everything may be executed.
pub(super) fn read(spec: &Fields<'_>, out: &mut Collector) -> Option<Exec> {
    let Some(value) = spec.optional("exec") else {
        return Some(Exec::default());
    };
    let fields = value.fields(out, language::EXEC)?;
    let mode =
        fields.parse(out, "mode", |text| value::choice(text, &ExecMode::ALL.map(|mode| (mode.name(), mode))));
    let on_mismatch = fields.parse_or(out, "onMismatch", OnMismatch::default(), |text| {
        value::choice(text, &OnMismatch::ALL.map(|action| (action.name(), action)))
    });
    let images = read_images(fields.optional("images"), language::IMAGE, mode, out);
    let files = read_images(fields.optional("files"), language::FILE, None, out);
    let exec = Exec { mode: mode?, on_mismatch: on_mismatch?, images: images?, files: files? };
    match (exec.mode, fields.optional("images").filter(|_| !exec.images.is_empty())) {
        (ExecMode::Any, Some(images)) => {
            let problem = Problem::new("with `mode: any` nothing is listed")
                .hint("write `mode: listed`, or leave `images` out");
            images.report(out, problem);
            None
        }
        // It says nothing.
        (ExecMode::Any, None) if exec.files.is_empty() => Some(Exec::default()),
        _ => Some(exec),
    }
}

fn read_images(
    list: Option<Value<'_>>,
    known: &'static [Field],
    mode: Option<ExecMode>,
    out: &mut Collector,
) -> Option<Vec<Image>> {
    let at = list;
    let images = read_rules(list, out, |image, out| {
        let fields = image.fields(out, known)?;
        let path = fields.parse(out, "path", value::path);
        let needed = mode == Some(ExecMode::Measured) || known.iter().all(|field| field.required);
        let sha256 = match needed {
            true => fields.parse(out, "sha256", value::sha256).map(Some),
            false => fields.parse_or(out, "sha256", None, |text| value::sha256(text).map(Some)),
        };
        Some(Image { path: path?, sha256: sha256? })
    })?;
    if images.len() > MAX_IMAGES
        && let Some(list) = at
    {
        list.report(out, Problem::new(format!("{} of them, more than {MAX_IMAGES}", images.len())));
        return None;
    }
    Some(images)
}
