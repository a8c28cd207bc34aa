//! Envelopes as the tests write them.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::Server;

/// An envelope in the making. Refuses everything until something is allowed.
#[derive(Clone, Debug)]
pub struct Envelope {
    name: String,
    owner: String,
    revision: u64,
    mode: &'static str,
    ttl: String,
    loopback: &'static str,
    egress: Vec<String>,
    deny: Vec<String>,
    no_unix: bool,
    listen: Vec<String>,
    limits: Vec<String>,
    exec: Option<(&'static str, &'static str)>,
    images: Vec<String>,
    files: Vec<String>,
    on_finding: Option<&'static str>,
}

impl Envelope {
    /// The owner of every session of a test.
    pub const OWNER: &str = "alice@example.com";

    /// The envelope of the agent `name`.
    pub fn of(name: &str) -> Self {
        Self {
            name: name.into(),
            owner: Self::OWNER.into(),
            revision: 0,
            mode: "enforce",
            ttl: "10m".into(),
            loopback: "deny",
            egress: vec![],
            deny: vec![],
            no_unix: false,
            listen: vec![],
            limits: vec![],
            exec: None,
            images: vec![],
            files: vec![],
            on_finding: None,
        }
    }

    /// Allows the server, by a rule named `rule`. For both protocols: some tests use the other one of the same port.
    pub fn allow_server(self, rule: &str, server: &Server) -> Self {
        self.allow_at(rule, server.address())
    }

    /// Allows one address and port, by a rule named `rule`.
    pub fn allow_at(self, rule: &str, at: SocketAddr) -> Self {
        self.allow(rule, &host(at.ip()), &format!("[{}]", at.port()), "any")
    }

    /// An allow rule. `ports` as in YAML.
    pub fn allow(mut self, rule: &str, to: &str, ports: &str, protocol: &str) -> Self {
        self.egress.push(rule_text(rule, to, ports, protocol));
        self
    }

    /// A deny rule.
    pub fn deny(mut self, rule: &str, to: &str, ports: &str, protocol: &str) -> Self {
        self.deny.push(rule_text(rule, to, ports, protocol));
        self
    }

    /// A listen rule: from where the ports may be reached.
    pub fn listen(mut self, rule: &str, from: &str, ports: &str, protocol: &str) -> Self {
        self.listen
            .push(format!("{{name: {rule}, from: [\"{from}\"], ports: {ports}, protocol: {protocol}}}"));
        self
    }

    /// Ping is allowed to these addresses.
    pub fn allow_ping(mut self, rule: &str, to: &str) -> Self {
        self.egress.push(format!("{{name: {rule}, to: [\"{to}\"], protocol: icmp}}"));
        self
    }

    /// Loopback is allowed.
    pub fn loopback(mut self) -> Self {
        self.loopback = "allow";
        self
    }

    /// A limit, such as `connections`.
    pub fn limit(mut self, name: &str, value: impl Display) -> Self {
        self.limits.push(format!("{name}: {value}"));
        self
    }

    /// What it would refuse is let through and recorded.
    pub fn audit(mut self) -> Self {
        self.mode = "audit";
        self
    }

    /// Which edition of the agent's envelope it is.
    pub fn revision(mut self, revision: u64) -> Self {
        self.revision = revision;
        self
    }

    /// Allows no Unix socket; without it, the envelope says nothing of them.
    pub fn no_unix(mut self) -> Self {
        self.no_unix = true;
        self
    }

    /// What may be executed, `listed` or `measured`, and what becomes of the rest.
    pub fn exec(mut self, mode: &'static str, on_mismatch: &'static str) -> Self {
        self.exec = Some((mode, on_mismatch));
        self
    }

    /// A program that may be executed.
    pub fn image(mut self, path: &Path) -> Self {
        self.images.push(format!("{{path: '{}'}}", path.display()));
        self
    }

    /// Likewise, with the digest of its content.
    pub fn image_of(mut self, path: &Path, sha256: &str) -> Self {
        self.images.push(format!("{{path: '{}', sha256: '{sha256}'}}", path.display()));
        self
    }

    /// A file that must have this content.
    pub fn file_of(mut self, path: &Path, sha256: &str) -> Self {
        self.files.push(format!("{{path: '{}', sha256: '{sha256}'}}", path.display()));
        self
    }

    /// A finding about it puts a session in quarantine.
    pub fn quarantine_on_finding(mut self) -> Self {
        self.on_finding = Some("quarantine");
        self
    }

    /// Who answers for it.
    pub fn owner(mut self, owner: &str) -> Self {
        self.owner = owner.into();
        self
    }

    /// How long its sessions last.
    pub fn ttl(mut self, ttl: &str) -> Self {
        self.ttl = ttl.into();
        self
    }
}

impl Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name, owner, revision, mode, ttl, loopback, egress, deny, no_unix, listen, limits, ..
        } = self;
        let list = |rules: &[String]| match rules {
            [] => " []".to_owned(),
            rules => rules.iter().map(|rule| format!("\n    - {rule}")).collect(),
        };
        writeln!(f, "apiVersion: enforcer/v1")?;
        writeln!(f, "kind: Envelope")?;
        writeln!(f, "metadata:")?;
        writeln!(f, "  name: {name}")?;
        writeln!(f, "  owner: {owner}")?;
        writeln!(f, "  operator: tests")?;
        writeln!(f, "  purpose: integration test")?;
        writeln!(f, "  model: none")?;
        writeln!(f, "  revision: {revision}")?;
        writeln!(f, "spec:")?;
        writeln!(f, "  mode: {mode}")?;
        writeln!(f, "  ttl: {ttl}")?;
        writeln!(f, "  loopback: {loopback}")?;
        writeln!(f, "  egress:{}", list(egress))?;
        writeln!(f, "  deny:{}", list(deny))?;
        writeln!(f, "  listen:{}", list(listen))?;
        writeln!(f, "  limits: {{{}}}", limits.join(", "))?;
        if let Some((mode, on_mismatch)) = self.exec {
            writeln!(f, "  exec:")?;
            writeln!(f, "    mode: {mode}")?;
            writeln!(f, "    onMismatch: {on_mismatch}")?;
            writeln!(f, "    images: [{}]", self.images.join(", "))?;
            writeln!(f, "    files: [{}]", self.files.join(", "))?;
        }
        if let Some(action) = self.on_finding {
            writeln!(f, "  onFinding: {action}")?;
        }
        if *no_unix { writeln!(f, "  unix: []") } else { Ok(()) }
    }
}

fn rule_text(rule: &str, to: &str, ports: &str, protocol: &str) -> String {
    // An IPv6 prefix must be quoted: a colon means a map to YAML.
    format!("{{name: {rule}, to: [\"{to}\"], ports: {ports}, protocol: {protocol}}}")
}

/// The prefix that holds one address.
fn host(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}
