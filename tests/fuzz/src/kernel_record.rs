//! Records of the kernel of any bytes: as they are, and long enough and with a header that is right, so that fields are read as well.

use std::mem::offset_of;

use enforcer_common::ABI_VERSION;
use enforcer_common::record::{ExecRecord, RecordHeader};
use serde_json::Value;

use crate::credentials::TrustDomain;
use crate::record::export::{Event, Form, Host, Version, export, uid};
use crate::record::{
    self, Body, EventLine, LineEgress, LineFlow, LineGuard, LineProcess, LineRecord, Record,
};

const FORMS: [Form; 6] = [
    Form::Ecs,
    Form::Ocsf(Version::V1_1),
    Form::Ocsf(Version::V1_3),
    Form::Ocsf(Version::V1_5),
    Form::Ocsf(Version::V1_8),
    Form::Ocsf(Version::V1_9),
];
const KINDS: u16 = 8;
/// The longest text of a record is a path, each byte of which may become an escape of six. The rest is bounded by what is fixed.
const MAX_FORM_BYTES: usize = 32 << 10;

pub fn decode(bytes: &[u8]) {
    check(bytes);
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let mut bytes = bytes.to_vec();
    // No record is longer.
    bytes.resize(bytes.len().max(size_of::<ExecRecord>()), 0);
    let mut set = |at: usize, value: u16| bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    set(offset_of!(RecordHeader, abi), ABI_VERSION);
    set(offset_of!(RecordHeader, kind), u16::from(*kind) % KINDS);
    check(&bytes);
}

fn check(bytes: &[u8]) {
    let Ok(record) = record::decode(bytes) else { return };
    let kind = record.body.kind();
    let text = serde_json::to_string(&line(record)).expect("an event is JSON");
    assert!(!text.contains('\n') && text.len() <= MAX_FORM_BYTES, "{text}");
    let mut event: Event = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(event.kind, kind, "{text}");
    assert_eq!(
        serde_json::to_string(&event).expect("an event is JSON"),
        text,
        "what is read is what was written"
    );
    check_forms(&event);
    event.session = serde_json::from_str(
        r#"{"id":"01890000-0000-7000-8000-000000000000","agent":"a","owner":"o","operator":"p","model":"m","purpose":"q"}"#,
    )
    .expect("a session");
    check_forms(&event);
}

fn check_forms(event: &Event) {
    let host = Host { name: "host".into(), release: "0".into(), trust_domain: TrustDomain::of_host("host") };
    let id = uid(event, &host).expect("it has a time").to_string();
    for form in FORMS {
        let object = export(event, form, &host).unwrap_or_else(|error| panic!("{error} in {form:?}"));
        let text = serde_json::to_string(&object).expect("a form is JSON");
        assert!(!text.contains('\n') && text.len() <= MAX_FORM_BYTES, "{form:?}: {text}");
        let read: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(read.is_object() && text.contains(&id), "{form:?}: {text}");
    }
}

/// What a daemon writes of a record of no session that it knows.
fn line(record: Record) -> EventLine {
    let Record { time_ns, number, tgid, comm, body, .. } = record;
    let time = jiff::Timestamp::from_nanosecond(time_ns.into()).expect("until 2554");
    let mut line = EventLine::new(body.kind(), &time);
    line.record = Some(LineRecord { cpu: number.cpu, sequence: number.sequence, lost: number.lost });
    let mut process = (tgid != 0).then(|| LineProcess::new(tgid, comm, None, "boot"));
    match body {
        Body::Egress(egress) => line.egress = Some(LineEgress::new(&egress, None)),
        Body::Guard(guard) => line.guard = Some(LineGuard::new(&guard, None)),
        Body::Connection(connection) => line.flow = Some(LineFlow::from(&connection)),
        Body::Fork { child_tgid, .. } => line.child_pid = Some(child_tgid),
        Body::Exec { uid, path, .. } => {
            if let Some(process) = &mut process {
                process.uid = Some(uid);
                process.path = path;
            }
        }
        Body::Exit { wait_status } => {
            line.exit_code = Some((wait_status >> 8 & 0xff).cast_signed());
            line.exit_signal = Some((wait_status & 0x7f).cast_signed());
        }
    }
    line.process = process;
    line
}
