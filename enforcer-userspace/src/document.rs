//! What all documents that say how the daemon is to work have in common: an `apiVersion`, a `kind` and a `spec`. Core.

#![forbid(unsafe_code)]

use serde::{Deserialize, de::DeserializeOwned};

/// The longest document.
pub(crate) const MAX_BYTES: u64 = 1 << 20;

const API_VERSION: &str = "enforcer/v1";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document<S> {
    api_version: String,
    kind: String,
    spec: S,
}

/// What is wrong with a document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("it is not UTF-8")]
    Utf8,
    #[error("it cannot be read: {0}")]
    Yaml(String),
    #[error("it is `{kind}` of `{api_version}`, not `{expected}` of `{API_VERSION}`")]
    Kind { kind: String, api_version: String, expected: &'static str },
}

/// The `spec` of a document of this kind. Whoever reads a file reads a byte more than [`MAX_BYTES`], so that one that is too long is
/// not taken for a shorter one.
pub(crate) fn parse<S: DeserializeOwned>(kind: &'static str, bytes: &[u8]) -> Result<S, DocumentError> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(DocumentError::TooLong);
    }
    let text = str::from_utf8(bytes).map_err(|_| DocumentError::Utf8)?;
    let document: Document<S> =
        serde_saphyr::from_str(text).map_err(|error| DocumentError::Yaml(error.to_string()))?;
    let Document { api_version, kind: found, spec } = document;
    if (api_version.as_str(), found.as_str()) != (API_VERSION, kind) {
        return Err(DocumentError::Kind { kind: found, api_version, expected: kind });
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<u32>, DocumentError> {
        parse("Numbers", text.as_bytes())
    }

    #[test]
    fn a_document_is_what_it_says() {
        let good = "apiVersion: enforcer/v1\nkind: Numbers\nspec: [1, 2]\n";
        assert_eq!(read(good).unwrap(), [1, 2]);
        for (from, to) in [("v1", "v2"), ("Numbers", "Sinks")] {
            assert!(matches!(read(&good.replace(from, to)), Err(DocumentError::Kind { .. })), "{to}");
        }
        for (from, to) in
            [("spec: [1, 2]", ""), ("[1, 2]", "x"), ("kind", "x: 1\nkind"), ("spec:", "spec: {")]
        {
            assert!(matches!(read(&good.replace(from, to)), Err(DocumentError::Yaml(_))), "{to}");
        }
        assert!(matches!(parse::<u8>("Numbers", b"\xff"), Err(DocumentError::Utf8)));
    }

    #[test]
    fn a_document_that_is_too_long_is_not_cut() {
        let padded = |len: u64| {
            let good = "apiVersion: enforcer/v1\nkind: Numbers\nspec: [1]\n#";
            good.to_owned() + &" ".repeat(usize::try_from(len).unwrap() - good.len())
        };
        assert_eq!(read(&padded(MAX_BYTES)).unwrap(), [1]);
        assert!(matches!(read(&padded(MAX_BYTES + 1)), Err(DocumentError::TooLong)));
    }

    #[test]
    fn a_spec_may_be_left_out_where_that_means_something() {
        let none: Option<u8> = parse("Numbers", b"apiVersion: enforcer/v1\nkind: Numbers\n").unwrap();
        assert_eq!(none, None);
    }
}
