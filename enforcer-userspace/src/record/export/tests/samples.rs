//! An event of every kind, as the daemon writes it.

use serde_json::{Value, json};

use super::super::{Event, Form, Host, Version, export};
use crate::record::EventKind;

/// All kinds; one that is missing does not compile.
macro_rules! every_kind {
    ($($kind:ident),* $(,)?) => {
        pub(super) const EVERY_KIND: &[EventKind] = &[$(EventKind::$kind),*];
        const _: fn(EventKind) = |kind| match kind {
            $(EventKind::$kind => {})*
        };
    };
}

every_kind!(
    AuditCheckpoint,
    AuthorityChanged,
    ConnectionClosed,
    CredentialIssued,
    DaemonFault,
    DaemonStarted,
    DaemonStopped,
    Datagrams,
    Egress,
    EgressRepeated,
    EnvelopeAccepted,
    EnvelopeReplaced,
    EscapeSign,
    Exec,
    Exit,
    FileMeasured,
    Finding,
    Fork,
    Guard,
    ImageMeasured,
    Listening,
    ListeningEnded,
    RecordsLost,
    RequestRefused,
    SessionEnded,
    SessionExpired,
    SessionGranted,
    SessionQuarantined,
    SessionReleased,
    SessionRevoked,
    SessionStarted,
    SinkTest,
    SocketsDestroyed,
    TamperSign,
);

pub(super) const FORMS: [Form; 6] = [
    Form::Ocsf(Version::V1_9),
    Form::Ocsf(Version::V1_8),
    Form::Ocsf(Version::V1_5),
    Form::Ocsf(Version::V1_3),
    Form::Ocsf(Version::V1_1),
    Form::Ecs,
];

pub(super) fn host(name: &str) -> Host {
    Host { name: name.to_owned(), release: "0.1.0".to_owned(), trust_domain: "example.org".parse().unwrap() }
}

fn session() -> Value {
    json!({
        "id": "01a20782-afe2-711f-8000-000000000001", "parent": "01a20782-afe2-711f-8000-000000000000",
        "agents_above": ["lead"], "agent": "coding-agent", "owner": "alice@example.com", "operator": "platform", "model": "example/model-1",
        "purpose": "fix bugs", "task": "TICKET-7", "labels": {"team": "a"}, "envelope_digest": "sha256:0123",
        "container": {"id": "c0", "runtime": "docker", "pod": "01a20782-afe2-411f-8000-000000000002"},
    })
}

fn process() -> Value {
    json!({
        "pid": 30, "key": "b0071d:30:5000", "tid": 31, "uid": 1000, "comm": "psql", "path": "/usr/bin/psql",
        "lineage": [
            {"pid": 10, "comm": "agent", "path": "/opt/agent"},
            {"pid": 20, "comm": "sh", "path": "/bin/sh"},
            {"pid": 30, "comm": "psql", "path": "/usr/bin/psql"},
        ],
    })
}

fn decision() -> Value {
    json!({
        "operation": "connect", "protocol": "tcp", "destination": {"address": "198.51.100.9", "port": 5432},
        "local_port": 40000, "verdict": "deny", "refused": true, "reason": "deny-rule", "rule": "no-database",
        "socket": 77, "netns": 4026531840u32,
    })
}

fn flow() -> Value {
    json!({"flow": {
        "protocol": "tcp", "destination": {"address": "198.51.100.9", "port": 5432}, "local_port": 40000,
        "direction": "inbound", "since": "2026-11-26T01:02:00.004005006Z", "duration_ms": 3000, "bytes_out": 7, "bytes_in": 5,
        "packets_out": 4, "packets_in": 3, "was": "last-ack", "rule": "database", "socket": 77, "netns": 4026531840u32,
        "foreign": true,
    }})
}

pub(super) fn guarded(operation: &str, object: Value) -> Value {
    json!({
        "operation": operation, "verdict": "deny", "refused": true, "reason": "guarded", "rule": null, "object": object,
    })
}

fn image(verdict: &str) -> Value {
    json!({"path": "/usr/bin/psql", "inode": 9, "sha256": "ab".repeat(32), "verdict": verdict, "on_mismatch": "kill"})
}

/// An event of a kind with all that events of it can have.
pub(super) fn sample(kind: EventKind) -> Value {
    let mut all = vec![
        json!({"version": 1, "kind": kind, "time": "2026-11-26T01:02:03.004005006Z", "sequence": 42}),
        json!({"detail": "said"}),
    ];
    all.push(match kind {
        EventKind::Egress => decision(),
        EventKind::EgressRepeated => merged(vec![decision(), json!({"repeats": {
            "count": 7, "since": "2026-11-26T01:02:02.000000001Z", "duration_ms": 1_004,
        }})]),
        EventKind::Guard => guarded("task_kill", json!({"pid": 1, "number": 9})),
        EventKind::ConnectionClosed
        | EventKind::Datagrams
        | EventKind::Listening
        | EventKind::ListeningEnded => flow(),
        EventKind::Fork => json!({"child_pid": 32}),
        EventKind::Exec | EventKind::ImageMeasured => json!({"image": image("unlisted")}),
        EventKind::FileMeasured => json!({"image": image("as-named")}),
        EventKind::Exit => json!({"exit_code": 3}),
        EventKind::RecordsLost => json!({"lost": 5, "lost_events": {
            "first": 37, "last": 41, "after": "2026-11-26T01:02:01.000000001Z", "until": "2026-11-26T01:02:03.004005006Z",
        }}),
        EventKind::Finding => json!({"finding": {
            "id": "refusal-burst/x/y", "detection": "refusal-burst", "state": "new", "title": "2 refusals within 10 s",
            "subject": "said", "count": 2, "first": "2026-11-26T01:02:02.000000001Z", "last": "2026-11-26T01:02:03.004005006Z",
            "evidence": [{"sequence": 40, "time": "2026-11-26T01:02:02.000000001Z"}, {"sequence": 41, "time": "2026-11-26T01:02:03.004005006Z"}],
        }}),
        _ => json!({}),
    });
    let of_daemon = [
        EventKind::DaemonStarted,
        EventKind::DaemonStopped,
        EventKind::DaemonFault,
        EventKind::RecordsLost,
        EventKind::RequestRefused,
        EventKind::SinkTest,
        EventKind::EnvelopeAccepted,
        EventKind::AuditCheckpoint,
        EventKind::AuthorityChanged,
        EventKind::SessionGranted,
        EventKind::TamperSign,
    ];
    if !of_daemon.contains(&kind) {
        all.push(json!({"session": session()}));
    }
    let of_process = [
        EventKind::Egress,
        EventKind::EgressRepeated,
        EventKind::Guard,
        EventKind::ConnectionClosed,
        EventKind::Fork,
        EventKind::Exec,
        EventKind::Exit,
        EventKind::ImageMeasured,
        EventKind::EscapeSign,
        EventKind::Finding,
        EventKind::CredentialIssued,
    ];
    if of_process.contains(&kind) {
        all.push(json!({"process": process()}));
    }
    merged(all)
}

pub(super) fn merged(parts: Vec<Value>) -> Value {
    let mut all = serde_json::Map::new();
    for part in parts {
        all.append(&mut part.as_object().unwrap().clone());
    }
    all.into()
}

pub(super) fn read(line: &Value) -> Event {
    serde_json::from_value(line.clone()).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[track_caller]
pub(super) fn exported(line: &Value, form: Form) -> Value {
    let (event, host) = (read(line), host("build-7"));
    serde_json::to_value(export(&event, form, &host).unwrap()).unwrap()
}
