//! What the enforcer records, as `enforcer events` prints it.

use serde_json::Value;

/// One event.
#[derive(Clone, Debug)]
pub struct Event(Value);

/// What a test says about a refusal. Sorts, so that two lists can be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    pub operation: String,
    /// `tcp`, `udp`, or a number.
    pub protocol: String,
    /// Empty for an operation that has none.
    pub destination: String,
    pub reason: String,
    pub rule: Option<String>,
}

impl Event {
    /// Reads one line.
    #[track_caller]
    pub fn parse(line: &str) -> Self {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(value["version"], 1, "the version of an event: {line}");
        Self(value)
    }

    /// Any field, such as `/process/pid`.
    #[track_caller]
    pub fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {}", self.0))
    }

    /// A field that may not be there.
    pub fn find(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }

    /// A field that is text.
    #[track_caller]
    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_else(|| panic!("{pointer} is not text in {}", self.0))
    }

    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// Whether it is about a session of the agent.
    pub fn is_of(&self, agent: &str) -> bool {
        self.agent() == Some(agent)
    }

    /// The agent of the session that it is about.
    pub fn agent(&self) -> Option<&str> {
        self.0.pointer("/session/agent").and_then(Value::as_str)
    }

    /// What was refused: the operation, or the kind of the event where it names none. Nothing if nothing was.
    pub fn refusal(&self) -> Option<&str> {
        let is_refusal = self.0["verdict"] == "deny" || self.kind().ends_with("-refused");
        is_refusal.then(|| self.0["operation"].as_str().unwrap_or_else(|| self.kind()))
    }

    /// The process's id, where there is a process.
    pub fn pid(&self) -> Option<i32> {
        self.0.pointer("/process/pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok())
    }

    /// The process ids of the lineage, the session's first process first.
    #[track_caller]
    pub fn lineage(&self) -> Vec<i32> {
        let lineage = self.at("/process/lineage").as_array().expect("the lineage is a list");
        lineage.iter().map(|process| process["pid"].as_i64().expect("a pid") as i32).collect()
    }

    /// An egress event with the verdict `deny`.
    pub fn is_deny(&self) -> bool {
        self.kind() == "egress" && self.0["verdict"] == "deny"
    }

    /// Whether the operation was refused. In audit mode a deny is not.
    #[track_caller]
    pub fn is_refused(&self) -> bool {
        self.at("/refused").as_bool().expect("`refused` is a boolean")
    }

    /// The decision in an egress event.
    #[track_caller]
    pub fn decision(&self) -> Refusal {
        Refusal {
            operation: self.text("/operation").into(),
            protocol: self.text("/protocol").into(),
            destination: destination(self.at("/destination")),
            reason: self.text("/reason").into(),
            rule: self.at("/rule").as_str().map(str::to_owned),
        }
    }
}

/// As `SocketAddr` prints it.
fn destination(value: &Value) -> String {
    if value.is_null() {
        return String::new();
    }
    let ip = value["address"].as_str().and_then(|text| text.parse().ok());
    let port = value["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    match (ip, port) {
        (Some(ip), Some(port)) => std::net::SocketAddr::new(ip, port).to_string(),
        _ => panic!("not a destination: {value}"),
    }
}
