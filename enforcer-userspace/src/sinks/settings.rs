//! Where events go beside the event file, as a document says it.

mod check;

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    document::{self, DocumentError},
    record::export::{self, Version},
};

const MAX_SINKS: usize = 32;

/// What a document of the kind `Sinks` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    sinks: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    form: Form,
    #[serde(default)]
    only: Only,
    file: Option<FileSettings>,
    stdout: Option<Nothing>,
    journald: Option<Journald>,
    syslog: Option<Syslog>,
    http: Option<Http>,
    nats: Option<Nats>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A file of its own, rotated as the event file is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileSettings {
    pub(crate) path: PathBuf,
}

/// One place that events go to.
#[derive(Clone, Debug)]
pub(crate) struct SinkSettings {
    pub(crate) name: String,
    pub(crate) form: Form,
    pub(crate) only: Only,
    pub(crate) to: To,
}

/// What is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum Form {
    /// The line of the event file.
    #[default]
    #[serde(rename = "native")]
    Native,
    #[serde(rename = "ocsf-1.9")]
    Ocsf19,
    #[serde(rename = "ocsf-1.8")]
    Ocsf18,
    #[serde(rename = "ocsf-1.5")]
    Ocsf15,
    #[serde(rename = "ocsf-1.3")]
    Ocsf13,
    #[serde(rename = "ocsf-1.1")]
    Ocsf11,
    #[serde(rename = "ecs")]
    Ecs,
}

impl Form {
    /// Nothing for the line as it is.
    pub(super) const fn export(self) -> Option<export::Form> {
        Some(match self {
            Self::Native => return None,
            Self::Ocsf19 => export::Form::Ocsf(Version::V1_9),
            Self::Ocsf18 => export::Form::Ocsf(Version::V1_8),
            Self::Ocsf15 => export::Form::Ocsf(Version::V1_5),
            Self::Ocsf13 => export::Form::Ocsf(Version::V1_3),
            Self::Ocsf11 => export::Form::Ocsf(Version::V1_1),
            Self::Ecs => export::Form::Ecs,
        })
    }
}

/// Which events. What is empty excludes none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Only {
    /// Of decisions: `allow`, `deny`. Other events have none, and do not go there then.
    pub(crate) verdicts: Vec<String>,
    /// Names; with a `*` at the end, beginnings of names.
    pub(crate) agents: Vec<String>,
    pub(crate) kinds: Vec<String>,
}

/// How they get there.
#[derive(Clone, Debug)]
pub(crate) enum To {
    File(FileSettings),
    /// The daemon's standard output.
    Stdout,
    Journald(Journald),
    Syslog(Syslog),
    Http(Http),
    Nats(Nats),
}

/// systemd's journal.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journald {
    #[serde(default = "journal_socket")]
    pub(crate) socket: PathBuf,
}

fn journal_socket() -> PathBuf {
    "/run/systemd/journal/socket".into()
}

/// RFC 5424, over what the address says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Syslog {
    /// `unix:/dev/log`, `udp://HOST:PORT`, `tcp://HOST:PORT` or `tls://HOST:PORT`; the last two with octet counting (RFC 6587, RFC 5425).
    pub(crate) address: String,
    /// Certificates that may sign the receiver's, PEM.
    #[serde(default = "system_certificates")]
    pub(crate) ca: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Http {
    pub(crate) url: String,
    #[serde(rename = "as")]
    pub(crate) speaks: Speaks,
    /// A file with what is sent to prove who we are: Splunk's token; otherwise the whole of the `Authorization` header.
    #[serde(default)]
    pub(crate) token_file: Option<PathBuf>,
    /// A file with the key that a webhook's requests are signed with.
    #[serde(default)]
    pub(crate) hmac_key_file: Option<PathBuf>,
    /// The index that `_bulk` writes to.
    #[serde(default)]
    pub(crate) index: Option<String>,
    /// Certificates that may sign the receiver's, PEM.
    #[serde(default = "system_certificates")]
    pub(crate) ca: PathBuf,
    /// Who listens may read a token.
    #[serde(default)]
    pub(crate) allow_plain_text: bool,
}

/// What the receiver understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Speaks {
    /// Splunk's HTTP Event Collector.
    SplunkHec,
    /// Elasticsearch's and OpenSearch's `_bulk`.
    ElasticBulk,
    /// JSON lines, signed.
    Webhook,
    /// OTLP/HTTP logs, as JSON.
    Otlp,
    /// OTLP/HTTP logs, as protobuf.
    OtlpProtobuf,
}

/// A subject that a stream of NATS JetStream takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Nats {
    /// `tls://HOST:PORT` or `nats://HOST:PORT`.
    pub(crate) url: String,
    #[serde(default = "nats_subject")]
    pub(crate) subject: String,
    /// A file with a user's JWT and seed.
    #[serde(default)]
    pub(crate) credentials_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) token_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) user: Option<String>,
    #[serde(default)]
    pub(crate) password_file: Option<PathBuf>,
    /// Certificates that may sign the server's, PEM.
    #[serde(default = "system_certificates")]
    pub(crate) ca: PathBuf,
    /// Who listens may read what proves who we are.
    #[serde(default)]
    pub(crate) allow_plain_text: bool,
}

fn nats_subject() -> String {
    "enforcer.events".into()
}

/// Debian's.
fn system_certificates() -> PathBuf {
    "/etc/ssl/certs/ca-certificates.crt".into()
}

/// What is wrong with the document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("read it")]
    Read(#[from] std::io::Error),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("it has more than {MAX_SINKS} sinks")]
    TooMany,
    #[error("two sinks have the name `{name}`")]
    Twice { name: String },
    #[error("sink `{name}`: {what}")]
    Sink { name: String, what: String },
}

/// Reads a document.
pub(crate) fn load(path: &std::path::Path) -> Result<Vec<SinkSettings>, SettingsError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(document::MAX_BYTES + 1).read_to_end(&mut bytes)?;
    parse(&bytes)
}

fn parse(document: &[u8]) -> Result<Vec<SinkSettings>, SettingsError> {
    let Spec { sinks } = document::parse("Sinks", document)?;
    if sinks.len() > MAX_SINKS {
        return Err(SettingsError::TooMany);
    }
    let sinks = sinks.into_iter().map(Entry::read).collect::<Result<Vec<_>, _>>()?;
    for (at, sink) in sinks.iter().enumerate() {
        let name = &sink.name;
        let wrong = |what: &str| SettingsError::Sink { name: name.clone(), what: what.to_owned() };
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_part) {
            return Err(wrong("a name is of small letters, digits and `-`"));
        }
        if sinks.iter().take(at).any(|other| other.name == *name) {
            return Err(SettingsError::Twice { name: name.clone() });
        }
        check::check(&sink.to).map_err(|what| wrong(&what))?;
        if let Some(kind) = sink.only.kinds.iter().find(|kind| !is_kind(kind)) {
            return Err(wrong(&format!("`{kind}` is no kind of event")));
        }
        if let Some(verdict) = sink.only.verdicts.iter().find(|it| !["allow", "deny"].contains(&it.as_str()))
        {
            return Err(wrong(&format!("`{verdict}` is no verdict")));
        }
    }
    Ok(sinks)
}

impl Entry {
    fn read(self) -> Result<SinkSettings, SettingsError> {
        let Self { name, form, only, file, stdout, journald, syslog, http, nats } = self;
        let ways = [
            file.map(To::File),
            stdout.map(|Nothing {}| To::Stdout),
            journald.map(To::Journald),
            syslog.map(To::Syslog),
            http.map(To::Http),
            nats.map(To::Nats),
        ];
        let mut ways = ways.into_iter().flatten();
        match (ways.next(), ways.next()) {
            (Some(to), None) => Ok(SinkSettings { name, form, only, to }),
            _ => {
                let what =
                    "it has one of `file`, `stdout`, `journald`, `syslog`, `http` and `nats`".to_owned();
                Err(SettingsError::Sink { name, what })
            }
        }
    }
}

fn is_kind(name: &str) -> bool {
    serde_json::from_value::<crate::record::EventKind>(name.into()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: enforcer/v1\nkind: Sinks\nspec:\n  sinks:\n";

    #[test]
    fn documents_are_read() {
        let text = format!(
            "{HEAD}  - name: siem\n    syslog: {{ address: \"tls://siem:6514\" }}\n    only: {{ verdicts: [deny], agents: [\"x-*\"] }}\n  \
             - name: hook\n    http: {{ url: \"https://x/\", as: webhook, hmacKeyFile: /k }}\n  \
             - name: out\n    stdout: {{}}\n"
        );
        let sinks = parse(text.as_bytes()).unwrap();
        assert_eq!(sinks.len(), 3);
        assert!(matches!(&sinks[0].to, To::Syslog(syslog) if syslog.address == "tls://siem:6514"));
        assert_eq!(sinks[0].only.verdicts, ["deny"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (sinks, expect) in [
            ("  - name: A\n    stdout: {}\n", "sink `A`: a name is"),
            ("  - name: a\n    stdout: {}\n  - name: a\n    stdout: {}\n", "two sinks have the name `a`"),
            (
                "  - name: a\n    http: { url: \"https://x\", as: webhook }\n",
                "a webhook has an `hmacKeyFile`",
            ),
            ("  - name: a\n    http: { url: \"ftp://x\", as: otlp }\n", "neither `https://`"),
            ("  - name: a\n    stdout: {}\n    only: { kinds: [x] }\n", "`x` is no kind of event"),
            ("  - name: a\n    stdout: {}\n    only: { verdicts: [x] }\n", "`x` is no verdict"),
            ("  - name: a\n    carrier-pigeon: {}\n", "it cannot be read"),
            ("  - name: a\n", "it has one of"),
            ("  - name: a\n    stdout: {}\n    file: { path: /x }\n", "it has one of"),
        ] {
            let error = parse(format!("{HEAD}{sinks}").as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expect), "{sinks}: {error}");
        }
    }
}
