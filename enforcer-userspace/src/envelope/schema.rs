//! The language as JSON Schema, for editors: made from the tables that the reader goes by.

use serde_json::{Map, Value, json};

use super::language::{Field, Form, ROOT};

/// JSON Schema, draft 2020-12. What a pattern cannot say (that a range is not reversed, that a name is there once) only `parse`
/// knows; and an editor may ask for quotes around text that its YAML takes for a number or a boolean.
pub(crate) fn schema() -> Value {
    let mut schema = map(ROOT);
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        fields.insert("title".to_owned(), "enforcer envelope".into());
    }
    schema
}

fn map(fields: &[Field]) -> Value {
    let property = |field: &Field| {
        let mut form = form(&field.form);
        if let Some(form) = form.as_object_mut() {
            form.insert("description".to_owned(), field.about.into());
        }
        (field.name.to_owned(), form)
    };
    let properties: Map<String, Value> = fields.iter().map(property).collect();
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn form(written: &Form) -> Value {
    match written {
        Form::Constant(text) => json!({ "const": text }),
        Form::Choice(words) => json!({ "enum": words }),
        Form::Text { pattern, max } => json!({ "type": "string", "pattern": pattern, "maxLength": max }),
        Form::Number { least, most } => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Form::Map(fields) => map(fields),
        Form::List { of, least } => json!({ "type": "array", "items": form(of), "minItems": least }),
        Form::Either(forms) => json!({ "anyOf": forms.iter().map(form).collect::<Vec<_>>() }),
        Form::Null => json!({ "type": "null" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `enforcer schema > policies/envelope.schema.json` makes it so again.
    #[test]
    fn shipped_schema_is_the_schema() {
        let shipped =
            std::path::Path::new(super::super::parse::tests::ROOT).join("policies/envelope.schema.json");
        let shipped: Value = serde_json::from_str(&std::fs::read_to_string(shipped).unwrap()).unwrap();
        assert_eq!(shipped, schema());
    }
}
