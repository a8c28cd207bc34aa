//! OCSF's own schemas, and whether they take an event. Those of the versions that OCSF offers none of are made from the next newer ones:
//! `tests/ocsf/README.md` says how.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};

/// The classes that events are exported to.
const CLASSES: &[u64] = &[1007, 1008, 2004, 3003, 4001, 6002];

/// A form that the command line writes, and how its schemas come about.
pub(crate) struct Version {
    pub(crate) form: &'static str,
    pub(crate) number: &'static str,
    /// The files that it is read from.
    file: &'static str,
    /// Attributes that the file's version has and this one does not.
    without: &'static [&'static str],
    change: fn(u64, &mut Value),
}

pub(crate) const VERSIONS: &[Version] = &[
    Version { form: "ocsf-1.9", number: "1.9.0", file: "1.9.0-dev", without: &[], change: unchanged },
    Version { form: "ocsf-1.8", number: "1.8.0", file: "1.8.0", without: &[], change: unchanged },
    Version {
        form: "ocsf-1.5",
        number: "1.5.0",
        file: "1.8.0",
        without: &[
            // 1.6
            "is_src_dst_assignment_known",
            "observation_point",
            "observation_point_id",
            "network_scope",
            "network_scope_id",
            "ptid",
            "programmatic_credentials",
            "raw_data_hash",
            "is_truncated",
            "untruncated_size",
            // 1.7
            "launch_type",
            "launch_type_id",
            "reporter",
            "source",
            "log_source",
            "log_format",
            "original_event_uid",
            "transmit_time",
            "cumulative_traffic",
            "hosted_services",
            // 1.8
            "app_protocol_name",
            "total_queued_duration",
            "network_observation_point",
            "packet_list",
            "fingerprints",
            "mac_vendor",
            "pool",
        ],
        change: unchanged,
    },
    Version { form: "ocsf-1.3", number: "1.3.0", file: "1.3.0", without: &[], change: unchanged },
    Version {
        form: "ocsf-1.1",
        number: "1.1.0",
        file: "1.3.0",
        // 1.2 and 1.3.
        without: &[
            "app_name",
            "app_uid",
            "is_applied",
            "ja4_fingerprint_list",
            "autonomous_system",
            "agent_list",
            "risk_details",
            "database",
            "databucket",
            "ext",
        ],
        change: as_in_1_1,
    },
];

fn unchanged(_class: u64, _schema: &mut Value) {}

/// Network activity had to have a source and could not be listening, applications could not be updated, and logs had no class.
fn as_in_1_1(class: u64, schema: &mut Value) {
    let forbid = |schema: &mut Value, activities: &[u64]| {
        for (name, base) in [("activity_id", 0), ("type_uid", class * 100)] {
            let known = schema["properties"][name]["enum"].as_array_mut().expect("a list of numbers");
            let before = known.len();
            known.retain(|number| activities.iter().all(|activity| *number != base + activity));
            assert_eq!(known.len(), before - activities.len(), "{name} of {class}");
        }
    };
    match class {
        4001 => {
            forbid(schema, &[7]);
            schema["required"].as_array_mut().expect("a list").push("src_endpoint".into());
        }
        6002 => forbid(schema, &[5, 6, 7, 8]),
        1008 => {
            // The base event: what is about logs and about the host is not in it, and its numbers are others.
            let keep = [
                "activity_id",
                "activity_name",
                "category_uid",
                "category_name",
                "class_uid",
                "class_name",
                "count",
                "duration",
                "end_time",
                "enrichments",
                "message",
                "metadata",
                "observables",
                "raw_data",
                "severity",
                "severity_id",
                "start_time",
                "status",
                "status_code",
                "status_detail",
                "status_id",
                "time",
                "time_dt",
                "timezone_offset",
                "type_name",
                "type_uid",
                "unmapped",
            ];
            let properties = schema["properties"].as_object_mut().expect("properties");
            properties.retain(|name, _| keep.contains(&name.as_str()));
            properties["category_uid"] = json!({"const": 0});
            properties["class_uid"] = json!({"const": 0});
            properties["activity_id"] = json!({"enum": [0, 99]});
            properties["type_uid"] = json!({"enum": [0, 99]});
            let schema = schema.as_object_mut().expect("an object");
            schema.remove("anyOf");
            schema["required"].as_array_mut().expect("a list").retain(|name| name != "action_id");
        }
        _ => {}
    }
}

/// The schemas of one version, by class.
pub(crate) struct Schemas(BTreeMap<u64, Validator>);

impl Schemas {
    #[track_caller]
    pub(crate) fn of(version: &Version) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ocsf");
        let all = CLASSES.iter().map(|class| {
            let path = folder.join(format!("{}-{class}.schema.json", version.file));
            let text =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let mut schema: Value = serde_json::from_str(&text).expect("a schema is JSON");
            for name in version.without {
                remove_property(&mut schema, name);
            }
            (version.change)(*class, &mut schema);
            let validator = jsonschema::validator_for(&schema).expect("it is a schema");
            let number = if version.form == "ocsf-1.1" && *class == 1008 { 0 } else { *class };
            (number, validator)
        });
        Self(all.collect())
    }

    /// What is wrong with an event.
    pub(crate) fn faults(&self, event: &Value) -> Vec<String> {
        let class = event["class_uid"].as_u64();
        let Some(validator) = class.and_then(|class| self.0.get(&class)) else {
            return vec![format!("no class {class:?}")];
        };
        validator.iter_errors(event).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }
}

/// Wherever it is: an attribute has one meaning in all of OCSF.
fn remove_property(schema: &mut Value, name: &str) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Object(properties)) = fields.get_mut("properties") {
                properties.remove(name);
            }
            fields.values_mut().for_each(|value| remove_property(value, name));
        }
        Value::Array(all) => all.iter_mut().for_each(|value| remove_property(value, name)),
        _ => {}
    }
}
