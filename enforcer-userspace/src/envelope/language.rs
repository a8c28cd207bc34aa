//! The fields of an envelope: their names, what must be there, and what each means. The reader and the JSON Schema are
//! both made from these tables, so that neither knows a field that the other does not.

/// A field of a map.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) required: bool,
    pub(super) form: Form,
    /// One sentence, for editors.
    pub(super) about: &'static str,
}

/// What may stand in a field.
#[derive(Debug)]
pub(super) enum Form {
    /// This text and no other.
    Constant(&'static str),
    /// One of these.
    Choice(&'static [&'static str]),
    /// Text that matches an ECMA 262 regular expression, and is no longer than so many characters.
    Text {
        pattern: &'static str,
        max: usize,
    },
    /// A whole number, written as such or as text.
    Number {
        least: u64,
        most: u64,
    },
    Map(&'static [Field]),
    List {
        of: &'static Form,
        least: usize,
    },
    Either(&'static [Form]),
    Null,
}

const fn required(name: &'static str, form: Form, about: &'static str) -> Field {
    Field { name, required: true, form, about }
}

const fn optional(name: &'static str, form: Form, about: &'static str) -> Field {
    Field { name, required: false, form, about }
}

/// The largest revision: the largest whole number that every reader of JSON keeps exact.
pub(super) const MAX_REVISION: u64 = (1 << 53) - 1;
/// The largest number of connections or bytes.
pub(super) const MAX_COUNT: u64 = (1 << 53) - 1;
/// The largest number of processes: what `kernel.pid_max` can be.
pub(super) const MAX_PROCESSES: u64 = 4_194_304;
/// The deepest that sub-sessions may nest.
pub(super) const MAX_DEPTH: u64 = 16;

const NAME: Form = Form::Text { pattern: "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max: 63 };
const LINE: Form = Form::Text { pattern: "\\S", max: 256 };
const MODE: Form = Form::Choice(&["enforce", "audit"]);
const TARGET: Form = Form::Text { pattern: "^[0-9A-Za-z:.*/-]+$", max: 256 };
const SOURCE: Form = Form::Text { pattern: "^[0-9A-Fa-f:./]+$|^[a-z-]+$", max: 64 };
const PORT: Form = Form::Number { least: 1, most: 65_535 };
const PORTS_TEXT: Form = Form::Text { pattern: "^[1-9][0-9]*-[1-9][0-9]*$", max: 11 };
const PORT_OR_RANGE: Form = Form::Either(&[PORT, PORTS_TEXT]);
const PORTS: Form =
    Form::Either(&[Form::Choice(&["any"]), PORT, PORTS_TEXT, Form::List { of: &PORT_OR_RANGE, least: 1 }]);
const SIZE: Form = Form::Text { pattern: "^[1-9][0-9]*(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)$", max: 20 };

pub(super) const ROOT: &[Field] = &[
    required("apiVersion", Form::Constant("enforcer/v1"), "The version of the language."),
    required("kind", Form::Constant("Envelope"), "What this document is."),
    required("metadata", Form::Map(METADATA), "Who the agent is, and who answers for it."),
    required("spec", Form::Map(SPEC), "What the agent may do."),
];

pub(super) const METADATA: &[Field] = &[
    required("name", NAME, "The agent. Part of every record."),
    required("owner", LINE, "The human who answers for the agent."),
    required("operator", LINE, "Who runs it."),
    required("purpose", Form::Text { pattern: "\\S", max: 1024 }, "What it is for."),
    required("model", LINE, "The model that drives it."),
    optional(
        "revision",
        Form::Number { least: 0, most: MAX_REVISION },
        "Which edition of this agent's envelope this is; where signatures are demanded, a lower one than was accepted before is refused. 0 if left out.",
    ),
];

pub(super) const SPEC: &[Field] = &[
    optional(
        "mode",
        MODE,
        "Whether what the rules deny is refused (enforce) or recorded and let through (audit).",
    ),
    required(
        "ttl",
        Form::Text { pattern: "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$", max: 64 },
        "How long a session lasts, such as 8h or 1h30m; at most 365d.",
    ),
    optional(
        "requires",
        Form::List { of: &Form::Choice(REQUIREMENTS), least: 0 },
        "What the host must be able to hold a session to; where it cannot, no session begins.",
    ),
    optional(
        "loopback",
        Form::Choice(&["deny", "allow"]),
        "Allow stands for a rule to 127.0.0.0/8 and ::1, every port, and for a listen rule from there.",
    ),
    optional("egress", rules(ALLOW_RULE), "Where a session may connect. What no rule allows is denied."),
    optional("deny", rules(DENY_RULE), "Where it may not, whatever is allowed."),
    optional(
        "listen",
        rules(LISTEN_RULE),
        "On which local ports it may be reached, and from where. What no rule allows is denied.",
    ),
    optional("unix", rules(UNIX_RULE), "Which Unix sockets it may connect to."),
    optional("exec", Form::Map(EXEC), "What it may execute, and which files have to be what they were."),
    optional("limits", Form::Map(LIMITS), "How much of everything."),
    optional(
        "onFinding",
        Form::Choice(&["record", "quarantine"]),
        "What becomes of a session when something it does is a finding: that is recorded (if left out), or it is put in quarantine too.",
    ),
];

/// A list of rules; nothing at all is a list of no rules.
const fn rules(form: &'static [Form; 2]) -> Form {
    Form::Either(form)
}

const ALLOW_RULE: &[Form; 2] = &[Form::List { of: &Form::Map(ALLOW), least: 0 }, Form::Null];
const DENY_RULE: &[Form; 2] = &[Form::List { of: &Form::Map(DENY), least: 0 }, Form::Null];
const LISTEN_RULE: &[Form; 2] = &[Form::List { of: &Form::Map(LISTEN), least: 0 }, Form::Null];
const UNIX_RULE: &[Form; 2] = &[Form::List { of: &Form::Map(UNIX), least: 0 }, Form::Null];

const RULE_NAME: Field = required("name", NAME, "The rule's name in records; unique in the envelope.");
const TO: Field = required(
    "to",
    Form::List { of: &TARGET, least: 1 },
    "Addresses, CIDRs, named sets (private, link-local, metadata-service, loopback, multicast), host names, or agent:NAME.",
);
const RULE_PORTS: Field = optional(
    "ports",
    PORTS,
    "A port, a range, a list of them, or any. Left out for icmp, required otherwise.",
);
const PROTOCOL: Field = required("protocol", Form::Choice(&["tcp", "udp", "icmp", "any"]), "The protocol.");

pub(super) const ALLOW: &[Field] = &[RULE_NAME, TO, RULE_PORTS, PROTOCOL];

pub(super) const DENY: &[Field] = &[
    RULE_NAME,
    TO,
    RULE_PORTS,
    PROTOCOL,
    optional("mode", MODE, "For this rule, whatever the envelope's mode is."),
];

pub(super) const LISTEN: &[Field] = &[
    RULE_NAME,
    required("from", Form::List { of: &SOURCE, least: 1 }, "Who may connect: addresses, CIDRs, named sets."),
    required("ports", PORTS, "The local ports."),
    required("protocol", Form::Choice(&["tcp", "udp", "any"]), "The protocol."),
];

pub(super) const UNIX: &[Field] = &[
    RULE_NAME,
    required(
        "to",
        Form::List { of: &Form::Text { pattern: "^[/@]|^basics$", max: 108 }, least: 1 },
        "Absolute paths, @abstract names, or the set basics.",
    ),
];

const PATH: Field =
    required("path", Form::Text { pattern: "^/", max: 4095 }, "Absolute, as the host sees it.");
const SHA256: Form = Form::Text { pattern: "^[0-9a-f]{64}$", max: 64 };

pub(super) const EXEC: &[Field] = &[
    required(
        "mode",
        Form::Choice(&["any", "listed", "measured"]),
        "Everything may be executed, or what is listed, or what is listed with its digest.",
    ),
    optional(
        "onMismatch",
        Form::Choice(&["audit", "deny-egress", "kill"]),
        "What becomes of what is something else: it is recorded, or refused everything (if left out), or killed.",
    ),
    optional("images", rules(IMAGES), "The programs and scripts that may be executed."),
    optional(
        "files",
        rules(FILES),
        "Files that must have this content: model weights, prompts, configuration.",
    ),
];

const IMAGES: &[Form; 2] = &[Form::List { of: &Form::Map(IMAGE), least: 0 }, Form::Null];
const FILES: &[Form; 2] = &[Form::List { of: &Form::Map(FILE), least: 0 }, Form::Null];

pub(super) const IMAGE: &[Field] =
    &[PATH, optional("sha256", SHA256, "The digest of its content; required with `measured`.")];

pub(super) const FILE: &[Field] = &[PATH, required("sha256", SHA256, "The digest of its content.")];

/// The most images, and the most files.
pub(super) const MAX_IMAGES: usize = 4096;

pub(super) const LIMITS: &[Field] = &[
    optional(
        "connections",
        Form::Number { least: 0, most: MAX_COUNT },
        "Connections and datagrams with a destination of their own, in total.",
    ),
    optional(
        "connectionRate",
        Form::Text { pattern: "^[1-9][0-9]*/[smh]$", max: 20 },
        "So many of them at once, and then in a second, minute or hour, such as 100/s.",
    ),
    optional("bytesOut", SIZE, "Bytes of the IP packets sent in total, such as 500MB or 10GiB."),
    optional("bytesIn", SIZE, "Bytes of the IP packets received in total."),
    optional("processes", Form::Number { least: 1, most: MAX_PROCESSES }, "Processes at one time."),
    optional("depth", Form::Number { least: 0, most: MAX_DEPTH }, "How deep sub-sessions may nest."),
];

/// What a host can offer, in the words of `requires`.
pub(super) const REQUIREMENTS: &[&str] =
    &["egress", "icmp", "names", "agents", "listen", "unix", "limits", "exec", "files"];
