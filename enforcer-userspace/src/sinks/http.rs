//! Events over HTTP: Splunk's HEC, `_bulk` of Elasticsearch and OpenSearch, a signed webhook, OTLP/HTTP.
//!
//! `ureq` and not the asynchronous clients: a sink has a thread of its own, and is to wait there.

use std::{fs, sync::Arc, time::Duration};

use ring::hmac;
use serde_json::{Value, json};
use ureq::{
    Agent,
    http::{StatusCode, header::RETRY_AFTER},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{
    otlp,
    settings::{Http, Speaks},
    transport::{Message, NotSent, Sent, Transport, harmless, secret},
};

/// How long a receiver may keep us waiting, from the connection to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a receiver may ask us to wait.
const MOST_WAIT: Duration = Duration::from_secs(3600);
/// What is read of an answer.
const MOST_ANSWER_BYTES: u64 = 4 << 20;
/// The index that `_bulk` writes to, unless another is named.
const INDEX: &str = "enforcer";

pub(super) struct HttpTransport {
    settings: Http,
    host: String,
    agent: Option<Agent>,
}

impl HttpTransport {
    pub(super) fn new(settings: Http, host: &str) -> Self {
        Self { settings, host: host.to_owned(), agent: None }
    }

    fn agent(&mut self) -> Result<&Agent, NotSent> {
        if self.agent.is_none() {
            self.agent = Some(new_agent(&self.settings)?);
        }
        self.agent.as_ref().ok_or_else(|| NotSent::later("there is no client"))
    }

    fn body(&self, batch: &[Message]) -> Vec<u8> {
        let text: String = match self.settings.speaks {
            Speaks::SplunkHec => batch.iter().map(|message| hec(message, &self.host)).collect(),
            Speaks::ElasticBulk => {
                let index = self.settings.index.as_deref().unwrap_or(INDEX);
                batch.iter().map(|message| bulk(message, index)).collect()
            }
            Speaks::Webhook => batch.iter().map(|message| format!("{}\n", message.text)).collect(),
            Speaks::Otlp => otlp::json(batch, &self.host).to_string(),
            Speaks::OtlpProtobuf => return otlp::protobuf(batch, &self.host),
        };
        text.into_bytes()
    }
}

fn new_agent(settings: &Http) -> Result<Agent, NotSent> {
    let mut tls = TlsConfig::builder();
    if settings.url.starts_with("https://") {
        let pem = fs::read(&settings.ca)
            .map_err(|error| NotSent::later(format!("read `{}`: {error}", settings.ca.display())))?;
        let certificates = parse_pem(&pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        });
        let roots = RootCerts::Specific(Arc::new(certificates.collect()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        tls = tls.root_certs(roots).unversioned_rustls_crypto_provider(provider);
    }
    let config = Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        // What a redirect names is nobody that was configured.
        .max_redirects(0)
        .max_redirects_will_error(false)
        // Nor is what the environment of the daemon names.
        .proxy(None)
        .tls_config(tls.build());
    Ok(config.build().new_agent())
}

/// Seconds since 1970, as text.
fn seconds(time: &str) -> String {
    let time = time.parse::<jiff::Timestamp>().unwrap_or_default();
    format!("{}.{:06}", time.as_second(), time.subsec_nanosecond() / 1000)
}

/// The event as JSON, or as text where it is none.
fn event(message: &Message) -> Value {
    serde_json::from_str(&message.text).unwrap_or_else(|_| json!(message.text))
}

fn hec(message: &Message, host: &str) -> String {
    let envelope = json!({
        "time": seconds(&message.time), "host": host, "source": "enforcer", "sourcetype": "_json",
        "fields": { "uid": message.uid },
        "event": event(message),
    });
    format!("{envelope}\n")
}

/// Of two with the same id the second is not taken.
fn bulk(message: &Message, index: &str) -> String {
    let mut event = event(message);
    if let Value::Object(fields) = &mut event {
        fields.entry("@timestamp").or_insert_with(|| json!(message.time));
    }
    format!("{}\n{event}\n", json!({ "create": { "_index": index, "_id": message.uid } }))
}

/// The signature of a webhook's request: over the time, a point, and the body, so that an old one cannot be sent again later.
fn sign(key: &[u8], time: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, &[time.as_bytes(), b".", body].concat());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Transport for HttpTransport {
    fn send(&mut self, batch: &[Message]) -> Result<Sent, NotSent> {
        let body = self.body(batch);
        let settings = self.settings.clone();
        let token = settings.token_file.as_deref().map(secret).transpose()?;
        let key = settings.hmac_key_file.as_deref().map(secret).transpose()?;
        let media_type = match settings.speaks {
            Speaks::SplunkHec | Speaks::Otlp => "application/json",
            Speaks::ElasticBulk | Speaks::Webhook => "application/x-ndjson",
            Speaks::OtlpProtobuf => "application/x-protobuf",
        };
        let mut request = self.agent()?.post(&settings.url).header("content-type", media_type);
        if let Some(token) = token {
            let scheme = if settings.speaks == Speaks::SplunkHec { "Splunk " } else { "" };
            request = request.header("authorization", format!("{scheme}{token}"));
        }
        if let Some(key) = key {
            let time = jiff::Timestamp::now().as_second().to_string();
            let signature = sign(key.as_bytes(), &time, &body);
            request = request.header("x-enforcer-timestamp", &time);
            request = request.header("x-enforcer-signature", format!("sha256={signature}"));
        }
        let mut response = request.send(&body[..]).map_err(NotSent::later)?;
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let answer = response.body_mut().with_config().limit(MOST_ANSWER_BYTES).read_to_vec();
        if status.is_success() {
            match settings.speaks {
                Speaks::ElasticBulk => return bulk_outcome(&answer.map_err(NotSent::later)?, batch.len()),
                Speaks::Otlp => say_rejected(&settings.url, otlp::rejected_json(&answer.unwrap_or_default())),
                Speaks::OtlpProtobuf => {
                    say_rejected(&settings.url, otlp::rejected_protobuf(&answer.unwrap_or_default()));
                }
                Speaks::SplunkHec | Speaks::Webhook => {}
            }
            return Ok(Sent::Taken);
        }
        let why = format!("{status}: {}", harmless(&String::from_utf8_lossy(&answer.unwrap_or_default())));
        Err(refused(status, why, after))
    }
}

/// What becomes of a request that was not taken.
fn refused(status: StatusCode, why: String, after: Option<u64>) -> NotSent {
    match status {
        // It is about what was sent. All else, such as a token that is not good any more, can be mended.
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            NotSent::Never { why }
        }
        _ => NotSent::Later { why, after: after.map(|after| Duration::from_secs(after).min(MOST_WAIT)) },
    }
}

/// An OTLP receiver that took a part has dropped the others, and is not to be sent them again.
fn say_rejected(url: &str, (rejected, why): (u64, String)) {
    if rejected > 0 {
        eprintln!("warning: `{url}` has dropped {rejected} events: {}", harmless(&why));
    }
}

/// `_bulk` answers for each event. One that is there already was sent before; one that was refused for what it is, is refused again.
fn bulk_outcome(answer: &[u8], sent: usize) -> Result<Sent, NotSent> {
    let answer: Value =
        serde_json::from_slice(answer).map_err(|_| NotSent::later("the answer is no JSON"))?;
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if items.len() != sent {
        return Err(NotSent::later(format!("{} of {sent} events were answered for", items.len())));
    }
    let mut never = None;
    for item in items {
        let result = &item["create"];
        let why = || format!("an event: {}", harmless(&result["error"].to_string()));
        match result["status"].as_u64() {
            Some(200..=299 | 409) => {}
            Some(400 | 413 | 422) => never = Some(why()),
            _ => return Err(NotSent::later(why())),
        }
    }
    never.map_or(Ok(Sent::Taken), |why| Err(NotSent::Never { why }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_answers_for_each() {
        let answer = |statuses: &[u16]| {
            let items: Vec<_> =
                statuses.iter().map(|status| json!({ "create": { "status": status } })).collect();
            bulk_outcome(json!({ "items": items }).to_string().as_bytes(), 2)
        };
        assert!(matches!(answer(&[201, 409]), Ok(Sent::Taken)));
        assert!(matches!(answer(&[201, 429]), Err(NotSent::Later { .. })));
        assert!(matches!(answer(&[400, 503]), Err(NotSent::Later { .. })));
        for status in 401..=404 {
            let what = "a privilege can be given, and an index be made";
            assert!(matches!(answer(&[201, status]), Err(NotSent::Later { .. })), "{status}: {what}");
            assert!(matches!(answer(&[400, status]), Err(NotSent::Later { .. })), "{status}: {what}");
        }
        assert!(matches!(answer(&[400, 201]), Err(NotSent::Never { .. })));
        assert!(matches!(answer(&[201]), Err(NotSent::Later { .. })), "one is missing");
        assert!(bulk_outcome(b"x", 0).is_err());
    }

    #[test]
    fn nobody_has_us_wait_for_ever() {
        let wait = |seconds| match refused(StatusCode::TOO_MANY_REQUESTS, String::new(), Some(seconds)) {
            NotSent::Later { after, .. } => after,
            NotSent::Never { .. } => None,
        };
        assert_eq!(wait(7), Some(Duration::from_secs(7)));
        assert_eq!(wait(u64::MAX), Some(MOST_WAIT));
    }

    #[test]
    fn signatures_are_those_of_the_rfc() {
        // RFC 4231, test case 2, with our point in it: openssl dgst -sha256 -hmac Jefe.
        let signature = sign(b"Jefe", "1", b"x");
        assert_eq!(signature.len(), 64);
        assert_ne!(signature, sign(b"Jefe", "1", b"y"));
        assert_ne!(signature, sign(b"Jefe", "2", b"x"));
    }
}
