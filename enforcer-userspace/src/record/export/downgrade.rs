//! From OCSF 1.9 to the older versions that receivers take: what an older one does not know, once, in tables.
//!
//! An attribute has one meaning wherever it stands in OCSF, so that a rule is about a name, and holds at every depth.

use std::borrow::Cow;

use super::{
    kinds::{Class, OTHER},
    object::{Node, Object},
};

/// A version of OCSF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V1_1,
    V1_3,
    V1_5,
    V1_8,
    V1_9,
}

impl Version {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::V1_1 => "1.1.0",
            Self::V1_3 => "1.3.0",
            Self::V1_5 => "1.5.0",
            Self::V1_8 => "1.8.0",
            Self::V1_9 => "1.9.0",
        }
    }
}

/// What becomes of an attribute in a version that does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instead {
    /// It is left out.
    Nothing,
    /// It stands in `unmapped`; if there are several, the first.
    Unmapped,
    /// It has another name.
    Name(&'static str),
    /// The rule that decided says of which envelope it is.
    InRule,
}

/// An attribute, and the first of our versions that has it.
#[derive(Debug)]
struct Attribute {
    name: &'static str,
    since: Version,
    instead: Instead,
}

const fn attribute(name: &'static str, since: Version, instead: Instead) -> Attribute {
    Attribute { name, since, instead }
}

const ATTRIBUTES: &[Attribute] = &[
    attribute("ai_agent", Version::V1_9, Instead::Unmapped),
    attribute("delegation", Version::V1_9, Instead::Unmapped),
    attribute("attestation_list", Version::V1_9, Instead::Nothing),
    attribute("initiator", Version::V1_9, Instead::Nothing),
    attribute("initiator_id", Version::V1_9, Instead::Nothing),
    // These came with 1.7.
    attribute("launch_type", Version::V1_8, Instead::Nothing),
    attribute("launch_type_id", Version::V1_8, Instead::Nothing),
    // These came with 1.4 and 1.5.
    attribute("ancestry", Version::V1_5, Instead::Unmapped),
    attribute("boot_uid", Version::V1_5, Instead::Unmapped),
    attribute("cpid", Version::V1_5, Instead::Nothing),
    attribute("is_alert", Version::V1_5, Instead::Nothing),
    attribute("kernel_release", Version::V1_5, Instead::Nothing),
    attribute("policy", Version::V1_5, Instead::InRule),
    attribute("working_directory", Version::V1_5, Instead::Nothing),
    // This came with 1.2, in place of the other.
    attribute("app_name", Version::V1_3, Instead::Name("invoked_by")),
];

/// Profiles, and the first of our versions in which they say what we say with them.
const PROFILES: &[(&str, Version)] = &[("ai_operation", Version::V1_9)];

/// Activities that are [`OTHER`] before.
const ACTIVITIES: &[(Class, u32, Version)] =
    &[(Class::Network, 7, Version::V1_3), (Class::Application, 8, Version::V1_3)];

/// `action_id` 3, what was observed and let through, came with 1.4; before that it is what was allowed.
const OBSERVED: (i64, Version) = (3, Version::V1_5);
const ALLOWED: (i32, &str) = (1, "Allowed");

/// The class of events about logs came with 1.3; before that they are events of no class, which have these attributes.
const EVENT_LOG: Version = Version::V1_3;
const BASE: &[&str] = &[
    "time",
    "time_dt",
    "class_uid",
    "class_name",
    "category_uid",
    "activity_id",
    "activity_name",
    "type_uid",
    "severity_id",
    "severity",
    "status_id",
    "status",
    "status_code",
    "status_detail",
    "metadata",
    "message",
    "count",
];

/// What free form data stands in.
const FREE: &[&str] = &["unmapped", "data"];

/// The event in an older version.
pub(super) fn to(version: Version, mut event: Object<'_>) -> Object<'_> {
    if version == Version::V1_9 {
        return event;
    }
    let gone: Vec<&Attribute> = ATTRIBUTES.iter().filter(|attribute| attribute.since > version).collect();
    let mut unmapped = match event.take("unmapped") {
        Some(Node::Object(unmapped)) => unmapped,
        _ => Object::new(),
    };
    lower(&mut event, &gone, &mut unmapped);
    let number = |event: &Object<'_>, name| event.get(name).and_then(Node::as_int);
    if number(&event, "action_id") == Some(OBSERVED.0) && version < OBSERVED.1 {
        event.set("action_id", ALLOWED.0);
        event.set("action", ALLOWED.1);
    }
    let class = number(&event, "class_uid");
    let is = |of: Class| class == Some(of.number().into());
    let activity = number(&event, "activity_id");
    let is_older = |(of, id, since): &(Class, u32, Version)| {
        is(*of) && activity == Some(i64::from(*id)) && version < *since
    };
    if ACTIVITIES.iter().any(is_older) {
        event.set("activity_id", OTHER);
        event.set("type_uid", class.map(|class| class * 100 + i64::from(OTHER)));
    }
    let has_class = version >= EVENT_LOG || !is(Class::EventLog);
    if !has_class {
        to_base(&mut event, &mut unmapped);
    }
    let metadata = event.object("metadata");
    metadata.set("version", version.text());
    if let Some(Node::List(profiles)) = metadata.get_mut("profiles") {
        profiles.retain(|profile| match profile {
            Node::Text(profile) => {
                let is_too_new = |(name, since): &(&str, Version)| name == profile && version < *since;
                !PROFILES.iter().any(is_too_new) && (has_class || profile == "datetime")
            }
            _ => true,
        });
    }
    event.add("unmapped", unmapped);
    event
}

/// Takes the attributes out that are gone, at every depth.
fn lower<'a>(object: &mut Object<'a>, gone: &[&Attribute], unmapped: &mut Object<'a>) {
    let here: Vec<&Attribute> =
        gone.iter().copied().filter(|attribute| object.get(attribute.name).is_some()).collect();
    for attribute in here {
        let Some(value) = object.take(attribute.name) else { continue };
        match attribute.instead {
            Instead::Nothing => {}
            Instead::Unmapped if unmapped.get(attribute.name).is_some() => {}
            Instead::Unmapped => unmapped.add(attribute.name, value),
            Instead::Name(name) => object.add(name, value),
            Instead::InRule => match (object.get_mut("firewall_rule"), value) {
                (Some(Node::Object(rule)), Node::Object(policy)) => rule.add("desc", described(&policy)),
                (_, value) => unmapped.add(attribute.name, value),
            },
        }
    }
    for (name, value) in object.values_mut() {
        if !FREE.contains(&name) {
            value.objects_mut().for_each(|object| lower(object, gone, unmapped));
        }
    }
}

fn described(policy: &Object<'_>) -> String {
    let text = |name| match policy.get(name) {
        Some(Node::Text(text)) => text.clone(),
        _ => Cow::Borrowed(""),
    };
    format!("envelope {} {}", text("name"), text("uid")).trim_end().to_owned()
}

fn to_base<'a>(event: &mut Object<'a>, unmapped: &mut Object<'a>) {
    let others: Vec<String> = event.names().filter(|name| !BASE.contains(name)).map(str::to_owned).collect();
    for name in others {
        if let Some(value) = event.take(&name) {
            unmapped.add(name, value);
        }
    }
    event.set("class_uid", Class::Base.number());
    event.set("class_name", Class::Base.name());
    event.set("category_uid", Class::Base.category());
    event.set("type_uid", Class::Base.number() * 100 + OTHER);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(object: &Object<'_>) -> String {
        serde_json::to_string(object).unwrap()
    }

    #[test]
    fn versions_have_what_they_have() {
        let process = || {
            let inner = Object::new().with("ai_agent", Object::new().with("name", "inner"));
            let inner = inner.with("ancestry", vec![Object::new().with("pid", 1)]).with("pid", 2);
            Object::new().with("process", inner).with("app_name", "a")
        };
        let event = || {
            Object::new()
                .with("class_uid", 4001)
                .with("activity_id", 7)
                .with("type_uid", 400_107)
                .with("action_id", 3)
                .with("action", "Observed")
                .with(
                    "metadata",
                    Object::new().with("version", "1.9.0").with("profiles", vec!["host", "ai_operation"]),
                )
                .with("ai_agent", Object::new().with("name", "outer"))
                .with("policy", Object::new().with("name", "a").with("uid", "digest"))
                .with("firewall_rule", Object::new().with("name", "r"))
                .with("is_alert", true)
                .with("actor", process())
                .with("unmapped", Object::new().with("ancestry_of", "kept"))
        };
        let native = text(&event());
        assert_eq!(text(&to(Version::V1_9, event())), native);
        for (version, has, has_not) in [
            (
                Version::V1_8,
                &[
                    r#""version":"1.8.0","profiles":["host"]"#,
                    r#""unmapped":{"ancestry_of":"kept","ai_agent":{"name":"outer"}}"#,
                    r#""process":{"ancestry":[{"pid":1}],"pid":2}"#,
                    r#""policy":{"name":"a""#,
                    r#""action_id":3"#,
                ][..],
                &["inner"][..],
            ),
            (Version::V1_5, &[r#""version":"1.5.0""#, r#""is_alert":true"#, r#""app_name":"a""#], &["inner"]),
            (
                Version::V1_3,
                &[
                    r#""action_id":1,"action":"Allowed""#,
                    r#""firewall_rule":{"name":"r","desc":"envelope a digest"}"#,
                    r#""process":{"pid":2}"#,
                    r#""ancestry":[{"pid":1}]"#,
                    r#""activity_id":7"#,
                ],
                &["policy", "is_alert", "Observed"],
            ),
            (
                Version::V1_1,
                &[r#""invoked_by":"a""#, r#""activity_id":99,"type_uid":400199"#],
                &["app_name", "policy"],
            ),
        ] {
            let lowered = text(&to(version, event()));
            for part in has {
                assert!(lowered.contains(part), "{version:?}: no {part} in {lowered}");
            }
            for part in has_not {
                assert!(!lowered.contains(part), "{version:?}: {part} in {lowered}");
            }
        }
    }

    #[test]
    fn what_has_no_class_yet_is_an_event_of_none() {
        let event = || {
            Object::new()
                .with("class_uid", 1008)
                .with("activity_id", 99)
                .with("type_uid", 100_899)
                .with("count", 3)
                .with("log_name", "events")
                .with(
                    "metadata",
                    Object::new().with("profiles", vec!["host", "datetime", "security_control"]),
                )
        };
        assert!(text(&to(Version::V1_3, event())).starts_with(r#"{"class_uid":1008,"#));
        assert_eq!(
            text(&to(Version::V1_1, event())),
            r#"{"class_uid":0,"activity_id":99,"type_uid":99,"count":3,"metadata":{"profiles":["datetime"],"version":"1.1.0"},"class_name":"Base Event","category_uid":0,"unmapped":{"log_name":"events"}}"#
        );
    }
}
