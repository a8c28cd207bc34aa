//! One event of every kind, in every form. Whether OCSF's own schemas take them is tested with real events, in `tests/integration`.

mod samples;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::record::EventKind;
use samples::{EVERY_KIND, FORMS, exported, guarded, host, merged, read, sample};

const NATIVE: Form = Form::Ocsf(Version::V1_9);

#[test]
fn every_kind_has_every_form() {
    for kind in EVERY_KIND {
        let line = sample(*kind);
        let [native, .., ecs] = FORMS.map(|form| exported(&line, form));
        assert_eq!(native["metadata"]["event_code"], line["kind"], "the name is that of our own lines");
        assert_eq!(ecs["event"]["code"], line["kind"]);
        for form in FORMS {
            let event = exported(&line, form);
            let Form::Ocsf(version) = form else { continue };
            assert_eq!(event["metadata"]["version"], version.text(), "{kind:?}");
            let [class, activity, type_uid, category] =
                ["class_uid", "activity_id", "type_uid", "category_uid"]
                    .map(|name| event[name].as_u64().unwrap_or_else(|| panic!("no {name}: {event}")));
            assert_eq!(type_uid, class * 100 + activity, "{kind:?}");
            assert_eq!(category, class / 1000, "{kind:?}");
            assert_eq!(event["time"], 1_795_654_923_004_i64, "{kind:?}");
            assert_eq!(event["metadata"]["uid"], native["metadata"]["uid"], "one event, one id");
        }
        assert_eq!(ecs["event"]["id"], native["metadata"]["uid"]);
    }
}

/// The fields of which Elastic's schema says what may stand in them.
#[test]
fn elastic_s_own_words_are_used() {
    const CATEGORIES: &[&str] =
        &["network", "process", "session", "iam", "intrusion_detection", "host", "configuration", "file"];
    const TYPES: &[&str] =
        &["connection", "start", "end", "change", "info", "creation", "error", "denied", "allowed"];
    for kind in EVERY_KIND {
        let event = exported(&sample(*kind), Form::Ecs);
        let listed = |name: &str, known: &[&str]| {
            let all = event["event"][name].as_array().unwrap_or_else(|| panic!("no {name}: {event}"));
            all.iter().all(|value| value.as_str().is_some_and(|value| known.contains(&value)))
        };
        assert!(listed("category", CATEGORIES) && listed("type", TYPES), "{event}");
    }
    let event = exported(&sample(EventKind::Egress), Form::Ecs);
    assert_eq!(event["event"]["type"], json!(["connection", "denied"]));
    assert_eq!(event["gen_ai"]["agent"]["id"], "spiffe://example.org/agent/lead/coding-agent");
    assert_eq!(event["destination"]["ip"], "198.51.100.9");
    assert_eq!(event["process"]["parent"]["name"], "sh");
    assert_eq!(event["container"], json!({"id": "c0", "runtime": "docker"}));
    assert_eq!(event["orchestrator"]["resource"]["id"], "01a20782-afe2-411f-8000-000000000002");
}

#[test]
fn an_id_is_of_one_event_and_stays() {
    let id = |line: &Value, host: &Host| unique_id(&read(line), read(line).time.parse().unwrap(), host);
    let (line, here) = (sample(EventKind::Exec), host("here"));
    let first = id(&line, &here);
    assert_eq!(first, id(&line, &here));
    assert_eq!((first.get_version_num(), first.get_variant()), (7, uuid::Variant::RFC4122));
    assert_eq!(first.as_u128() >> 80, 1_795_654_923_004, "it begins with the time");
    let with = |field: &str, value: Value| merged(vec![line.clone(), json!({field: value})]);
    assert_ne!(first, id(&with("sequence", 43.into()), &here));
    assert_ne!(first, id(&with("time", "2026-11-26T01:02:03.004005007Z".into()), &here));
    assert_ne!(first, id(&line, &host("there")));
}

#[test]
fn what_is_no_event_of_ours_is_refused() {
    let refusal = |field: &str, value: Value| {
        let event = read(&merged(vec![sample(EventKind::Exec), json!({field: value})]));
        export(&event, NATIVE, &host("here")).map(drop).unwrap_err().to_string()
    };
    assert_eq!(refusal("time", "soon\u{1b}".into()), r"understand the time `soon\u{1b}`");
    assert_eq!(refusal("version", 2.into()), "version 2 of the lines is not known here, which is 1");
}

/// What is read back is what was written: of two kinds of decisions that share fields, too.
#[test]
fn a_line_is_read_as_it_was_written() {
    for kind in EVERY_KIND {
        let line = sample(*kind);
        let again = serde_json::to_value(read(&line)).unwrap();
        for (name, value) in line.as_object().unwrap() {
            // What is not known is null there, and may be left out here.
            assert!(
                again.get(name).unwrap_or(&Value::Null) == value || name == "process",
                "{name} of {again}"
            );
        }
    }
}

/// Times and numbers that no daemon writes, in a line that was kept and changed.
#[test]
fn odd_values_have_a_form() {
    let odd = [
        json!({"time": "1900-01-01T00:00:00Z"}),
        json!({"sequence": u64::MAX}),
        json!({"process": {"pid": 0, "comm": "", "path": "", "lineage": []}}),
        json!({"process": {"pid": 0, "comm": "/", "path": "///", "key": "", "lineage": [{"pid": 1, "comm": null, "path": null}, {"pid": 0, "comm": null, "path": null}]}}),
        json!({"destination": {"address": "nowhere", "port": 0}}),
        json!({"session": {"id": "", "agent": "", "owner": "", "operator": "", "model": "/", "purpose": ""}}),
        json!({"kind": "egress"}),
        json!({"kind": "guard"}),
        json!({"kind": "records-lost", "lost": u64::MAX}),
    ];
    for kind in EVERY_KIND {
        for change in &odd {
            let line = merged(vec![sample(*kind), change.clone()]);
            for form in FORMS {
                exported(&line, form);
            }
        }
    }
}

/// Puts other texts in the place of all, but for what says what the line is.
fn scramble(value: &mut Value, texts: &mut impl Iterator<Item = String>) {
    match value {
        Value::String(text) => *text = texts.next().unwrap_or_default(),
        Value::Array(all) => all.iter_mut().for_each(|value| scramble(value, texts)),
        Value::Object(fields) => {
            let others = fields.iter_mut().filter(|(name, _)| !matches!(name.as_str(), "kind" | "time"));
            others.for_each(|(_, value)| scramble(value, texts));
        }
        _ => {}
    }
}

proptest! {
    /// Whatever a process calls itself, and whatever is written into a line that was kept.
    #[test]
    fn any_texts_have_every_form(kind in 0..EVERY_KIND.len(), texts in proptest::collection::vec(any::<String>(), 40)) {
        let mut line = sample(EVERY_KIND[kind]);
        scramble(&mut line, &mut texts.into_iter());
        for form in FORMS {
            let event = exported(&line, form);
            let id = event.pointer("/metadata/uid").or(event.pointer("/event/id"));
            prop_assert!(id.is_some_and(Value::is_string), "{}", event);
        }
    }
}

#[test]
fn a_refused_connection_says_who_where_and_why() {
    let event = exported(&sample(EventKind::Egress), NATIVE);
    let agent = json!({
        "uid": "spiffe://example.org/agent/lead/coding-agent", "instance_uid": "01a20782-afe2-711f-8000-000000000001",
        "name": "coding-agent", "type_id": 0, "ai_model": {"name": "model-1", "ai_provider": "example"},
    });
    for (pointer, expected) in [
        ("/class_uid", json!(4001)),
        ("/activity_name", json!("Refuse")),
        ("/status_code", json!("EPERM")),
        ("/status_detail", json!("deny-rule")),
        ("/action_id", json!(2)),
        ("/disposition_id", json!(2)),
        ("/is_alert", json!(true)),
        ("/message", json!("refused: connect tcp 198.51.100.9:5432: deny-rule no-database: said")),
        ("/metadata/correlation_uid", json!("01a20782-afe2-711f-8000-000000000001")),
        ("/metadata/sequence", json!(42)),
        ("/metadata/profiles", json!(["host", "datetime", "security_control", "ai_operation", "container"])),
        ("/dst_endpoint", json!({"ip": "198.51.100.9", "port": 5432})),
        ("/src_endpoint", json!({"name": "build-7", "hostname": "build-7", "port": 40000})),
        (
            "/connection_info",
            json!({
                "direction_id": 2, "direction": "Outbound", "protocol_name": "tcp", "protocol_num": 6,
                "protocol_ver_id": 4, "uid": "77",
            }),
        ),
        ("/policy", json!({"uid": "sha256:0123", "name": "coding-agent", "is_applied": true})),
        (
            "/firewall_rule",
            json!({"uid": "no-database", "name": "no-database", "type": "deny-rule", "match_location": "connect"}),
        ),
        ("/ai_agent", agent.clone()),
        ("/actor/process/ai_agent", agent),
        ("/actor/user/email_addr", json!("alice@example.com")),
        ("/actor/app_name", json!("coding-agent")),
        ("/actor/process/file", json!({"name": "psql", "path": "/usr/bin/psql", "type_id": 1})),
        ("/actor/process/cmd_line", json!("/usr/bin/psql")),
        ("/actor/process/parent_process/file/name", json!("sh")),
        ("/actor/process/ancestry/1/pid", json!(10)),
        ("/device/boot_uid", json!("b0071d")),
        ("/unmapped/session/task", json!("TICKET-7")),
        ("/unmapped/delegation/parent_uid", json!("01a20782-afe2-711f-8000-000000000000")),
    ] {
        assert_eq!(event.pointer(pointer), Some(&expected), "{pointer} in {event}");
    }
}

/// What an analyst's rules ask for is there, whatever else is not.
#[test]
fn what_rules_ask_for_is_always_there() {
    let base = merged(vec![sample(EventKind::Egress), json!({"process": null, "destination": null})]);
    let first = json!({"pid": 5, "comm": "agent", "path": null, "lineage": [{"pid": 5, "comm": "agent", "path": null}]});
    let child_of_unknown = json!({"pid": 6, "comm": "x", "path": "/x", "lineage": [{"pid": 5, "comm": null, "path": null}, {"pid": 6, "comm": "x", "path": "/x"}]});
    let nameless = json!({"pid": 7, "comm": "", "path": null, "lineage": [{"pid": 6, "comm": "", "path": ""}, {"pid": 7, "comm": "", "path": null}]});
    let socket =
        merged(vec![sample(EventKind::Guard), guarded("socket_create", json!({"family": 17, "number": 3}))]);
    for line in [
        base.clone(),
        merged(vec![base.clone(), json!({"process": first})]),
        merged(vec![base.clone(), json!({"process": child_of_unknown})]),
        merged(vec![base, json!({"process": nameless})]),
        socket,
    ] {
        for form in FORMS {
            let event = exported(&line, form);
            if form == Form::Ecs {
                continue;
            }
            let is_text =
                |pointer: &str| event.pointer(pointer).is_some_and(|value| value.as_str() != Some(""));
            let endpoint = is_text("/dst_endpoint/ip") || is_text("/dst_endpoint/name");
            assert!(endpoint, "{event}");
            for pointer in [
                "/connection_info/protocol_name",
                "/actor/process/name",
                "/actor/process/file/name",
                "/actor/process/cmd_line",
                "/actor/process/parent_process/name",
                "/actor/process/parent_process/file/name",
            ] {
                assert!(is_text(pointer), "{form:?}: no {pointer}: {event}");
            }
        }
    }
}

#[test]
fn decisions_are_told_apart() {
    let of = |parts: Vec<Value>| {
        let event = exported(&merged([vec![sample(EventKind::Egress)], parts].concat()), NATIVE);
        ["activity_id", "action_id", "disposition_id", "severity_id", "status_id"]
            .map(|name| event[name].as_u64().unwrap())
    };
    let allowed = json!({"verdict": "allow", "refused": false, "reason": "allow-rule"});
    let observed = json!({"refused": false});
    assert_eq!(of(vec![]), [5, 2, 2, 3, 2]);
    assert_eq!(of(vec![allowed.clone()]), [1, 1, 1, 1, 1]);
    assert_eq!(of(vec![observed.clone()]), [1, 3, 17, 2, 1]);
    assert_eq!(of(vec![allowed.clone(), json!({"operation": "send"})]), [6, 1, 1, 1, 1]);
    assert_eq!(of(vec![allowed.clone(), json!({"operation": "bind"})]), [7, 1, 1, 1, 1]);
    assert_eq!(of(vec![observed, json!({"operation": "socket"})]), [99, 3, 17, 2, 1]);
    let accepted = merged(vec![sample(EventKind::Egress), allowed, json!({"operation": "accept"})]);
    let accepted = exported(&accepted, NATIVE);
    assert_eq!(accepted["src_endpoint"]["ip"], "198.51.100.9", "who begins is the source");
    assert_eq!(accepted["dst_endpoint"]["port"], 40000);
}

#[test]
fn what_the_guard_decides_is_a_socket_or_a_finding() {
    let of = |operation: &str, object: Value| {
        exported(&merged(vec![sample(EventKind::Guard), guarded(operation, object)]), NATIVE)
    };
    let unix = of("unix_stream_connect", json!({"number": 0, "name": "/run/docker.sock"}));
    assert_eq!(unix["class_uid"], 4001);
    assert_eq!(unix["dst_endpoint"]["name"], "/run/docker.sock");
    assert_eq!(unix["connection_info"]["protocol_name"], "unix");
    let family = of("socket_create", json!({"family": 17, "number": 3}));
    assert_eq!(family["connection_info"]["protocol_name"], "family-17");
    let kill = of("task_kill", json!({"pid": 1, "number": 9}));
    assert_eq!([&kill["class_uid"], &kill["activity_id"], &kill["status_id"]], [2004, 1, 1]);
    assert_eq!(kill["evidences"][0]["ai_agent"]["name"], "coding-agent");
    assert_eq!(kill["evidences"][0]["data"]["pid"], 1);
    assert!(kill.get("ai_agent").is_none() && kill.pointer("/actor/process/ai_agent").is_none(), "{kill}");
    let ecs = exported(&sample(EventKind::Guard), Form::Ecs);
    assert_eq!(ecs["event"]["kind"], "alert");
}

#[test]
fn a_finding_names_its_events_by_their_ids() {
    let line = sample(EventKind::Finding);
    let event = exported(&line, NATIVE);
    let of = |sequence: u64, time: &str| {
        let event = merged(vec![sample(EventKind::Egress), json!({"sequence": sequence, "time": time})]);
        exported(&event, NATIVE)["metadata"]["uid"].clone()
    };
    let expected = json!([
        {"uid": of(40, "2026-11-26T01:02:02.000000001Z")}, {"uid": of(41, "2026-11-26T01:02:03.004005006Z")},
    ]);
    let info = &event["finding_info"];
    assert_eq!(info["related_events"], expected);
    assert_eq!([&info["uid"], &info["types"]], [&json!("refusal-burst/x/y"), &json!(["refusal-burst"])]);
    assert_eq!(
        [&info["first_seen_time"], &info["last_seen_time"]],
        [1_795_654_922_000_u64, 1_795_654_923_004]
    );
    assert_eq!([&event["count"], &event["activity_id"], &event["severity_id"]], [2, 1, 3]);
    let mut over = line.clone();
    over["finding"]["state"] = "over".into();
    assert_eq!(exported(&over, NATIVE)["type_uid"], 200_402);
    let ecs = exported(&line, Form::Ecs);
    assert_eq!([&ecs["event"]["kind"], &ecs["rule"]["name"]], ["alert", "refusal-burst"]);
    assert_eq!(ecs["enforcer"]["finding"]["evidence"][1]["sequence"], 41);
}

#[test]
fn a_fork_is_of_the_child_by_its_maker() {
    let event = exported(&sample(EventKind::Fork), NATIVE);
    assert_eq!([&event["process"]["pid"], &event["actor"]["process"]["pid"]], [32, 30]);
    assert_eq!(event["process"]["parent_process"]["pid"], 30);
    assert_eq!([&event["activity_id"], &event["launch_type_id"]], [1, 2]);
    let exec = exported(&sample(EventKind::Exec), NATIVE);
    assert_eq!(exec["process"]["file"]["hashes"][0]["value"], "ab".repeat(32));
    assert_eq!([&exec["action_id"], &exec["disposition_id"]], [2, 24], "what is not listed is killed");
    let exit = exported(&sample(EventKind::Exit), NATIVE);
    assert_eq!([&exit["activity_id"], &exit["exit_code"]], [2, 3]);
}
