//! Events as logs of the OpenTelemetry protocol: what goes over HTTP, in both of its encodings, and what comes back.

use prost::Message as _;
use serde_json::{Value, json};

use super::transport::Message;
use proto::{
    AnyValue, ExportLogsServiceRequest, ExportLogsServiceResponse, InstrumentationScope, KeyValue, LogRecord,
    Resource, ResourceLogs, ScopeLogs, any_value,
};

/// What the build script makes of `proto/otlp.proto`.
#[expect(unreachable_pub, reason = "generated")]
mod proto {
    tonic::include_proto!("enforcer.otlp");
}

const SERVICE: &str = "enforcer";

/// The number and the name.
const fn severity(message: &Message) -> (i32, &'static str) {
    if message.is_refusal { (13, "WARN") } else { (9, "INFO") }
}

/// Since 1970; a time that is none is that.
fn nanoseconds(message: &Message) -> u64 {
    let time = message.time.parse::<jiff::Timestamp>().unwrap_or_default();
    time.as_nanosecond().try_into().unwrap_or(0)
}

/// With `Content-Type: application/json`.
pub(super) fn json(batch: &[Message], host: &str) -> Value {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let records = batch.iter().map(|message| {
        // 64 bits are text in this JSON.
        let time = nanoseconds(message).to_string();
        let (number, name) = severity(message);
        json!({
            "timeUnixNano": time, "observedTimeUnixNano": time,
            "severityNumber": number, "severityText": name,
            "eventName": message.kind,
            "attributes": [text("log.record.uid", &message.uid)],
            "body": { "stringValue": message.text },
        })
    });
    json!({ "resourceLogs": [{
        "resource": { "attributes": [text("service.name", SERVICE), text("host.name", host)] },
        "scopeLogs": [{ "scope": { "name": SERVICE }, "logRecords": records.collect::<Vec<_>>() }],
    }] })
}

/// With `Content-Type: application/x-protobuf`.
pub(super) fn protobuf(batch: &[Message], host: &str) -> Vec<u8> {
    let text = |value: &str| Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) });
    let attribute = |key: &str, value: &str| KeyValue { key: key.to_owned(), value: text(value) };
    let records = batch.iter().map(|message| {
        let time = nanoseconds(message);
        let (number, name) = severity(message);
        LogRecord {
            time_unix_nano: time,
            severity_number: number,
            severity_text: name.to_owned(),
            body: text(&message.text),
            attributes: vec![attribute("log.record.uid", &message.uid)],
            observed_time_unix_nano: time,
            event_name: message.kind.clone(),
        }
    });
    let logs = ScopeLogs {
        scope: Some(InstrumentationScope { name: SERVICE.to_owned() }),
        log_records: records.collect(),
    };
    let resource =
        Resource { attributes: vec![attribute("service.name", SERVICE), attribute("host.name", host)] };
    let resource_logs = vec![ResourceLogs { resource: Some(resource), scope_logs: vec![logs] }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

/// How many events a receiver says that it has dropped, and why.
pub(super) fn rejected_json(answer: &[u8]) -> (u64, String) {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let partial = &answer["partialSuccess"];
    let rejected = match &partial["rejectedLogRecords"] {
        Value::String(rejected) => rejected.parse().unwrap_or(0),
        rejected => rejected.as_u64().unwrap_or(0),
    };
    (rejected, partial["errorMessage"].as_str().unwrap_or_default().to_owned())
}

/// Likewise.
pub(super) fn rejected_protobuf(answer: &[u8]) -> (u64, String) {
    let partial = ExportLogsServiceResponse::decode(answer).unwrap_or_default().partial_success;
    partial.map_or_else(Default::default, |partial| {
        (partial.rejected_log_records.try_into().unwrap_or(0), partial.error_message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_read() {
        for (answer, expect) in [
            (r#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"no"}}"#, (3, "no")),
            (r#"{"partialSuccess":{"rejectedLogRecords":3,"errorMessage":"no"}}"#, (3, "no")),
            (r#"{"partialSuccess":{}}"#, (0, "")),
            ("{}", (0, "")),
            ("", (0, "")),
            ("nonsense", (0, "")),
        ] {
            assert_eq!(rejected_json(answer.as_bytes()), (expect.0, expect.1.to_owned()), "{answer}");
        }
        // Field 1: field 1, 3; field 2, "no". As `protoc --encode` writes it.
        assert_eq!(rejected_protobuf(b"\x0a\x06\x08\x03\x12\x02no"), (3, "no".to_owned()));
        assert_eq!(rejected_protobuf(b""), (0, String::new()));
        assert_eq!(rejected_protobuf(b"\x0a\xff"), (0, String::new()));
    }
}
