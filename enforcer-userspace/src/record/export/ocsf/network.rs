//! Decisions about connections, datagrams, packets and sockets; and what these carried.

use super::{
    Event, Host, IntoNode, Object, UNKNOWN,
    facts::{self, address},
    objects::{self, Agent},
};
use crate::record::{EventKind, LineDestination, LineEgress, LineFlow, LineGuard};

/// Which way, as OCSF numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Unknown = 0,
    Inbound = 1,
    Outbound = 2,
}

impl Direction {
    const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Inbound => "Inbound",
            Self::Outbound => "Outbound",
        }
    }
}

/// Both ends and what is between them; who acted.
pub(super) fn add<'a>(object: &mut Object<'a>, event: &'a Event, host: &'a Host) {
    object.add("actor", objects::actor(event, Agent::Inside, host));
    match (&event.egress, &event.guard, &event.flow) {
        (Some(egress), ..) => add_egress(object, egress, host),
        (None, Some(guard), _) => add_guard(object, guard, host),
        (None, None, Some(flow)) => add_flow(object, flow, event, host),
        // An egress without its decision: an event that was kept and changed.
        (None, None, None) => {
            object.add("src_endpoint", objects::named(host));
            object.add("dst_endpoint", Object::new().with("name", UNKNOWN));
            object.add("connection_info", connection(UNKNOWN, Direction::Unknown));
        }
    }
}

fn add_egress<'a>(object: &mut Object<'a>, egress: &'a LineEgress, host: &'a Host) {
    let direction = match egress.operation.as_ref() {
        "connect" | "send" | "packet-out" => Direction::Outbound,
        "accept" | "packet-in" => Direction::Inbound,
        _ => Direction::Unknown,
    };
    if matches!(egress.operation.as_ref(), "connect" | "send" | "accept") {
        object.add("initiator_id", 1);
        object.add("initiator", "Source Endpoint");
    }
    let between = Between {
        direction,
        far: egress.destination.as_ref(),
        local_port: egress.local_port,
        protocol: &egress.protocol,
        cookie: egress.socket,
    };
    between.add(object, host);
}

/// What was carried, with the other end's bytes as OCSF has them: from the source to the destination is out.
fn add_flow<'a>(object: &mut Object<'a>, flow: &'a LineFlow, event: &'a Event, host: &'a Host) {
    let direction = match flow.direction.as_deref() {
        Some("outbound") => Direction::Outbound,
        Some("inbound") => Direction::Inbound,
        _ => Direction::Unknown,
    };
    let between = Between {
        direction,
        far: flow.destination.as_ref(),
        local_port: flow.local_port,
        protocol: &flow.protocol,
        cookie: flow.socket,
    };
    between.add(object, host);
    add_time(object, flow.since.as_deref(), flow.duration_ms);
    if matches!(event.kind, EventKind::ConnectionClosed | EventKind::Datagrams) {
        let ours = (flow.bytes_out, flow.packets_out);
        let theirs = (flow.bytes_in, flow.packets_in);
        let (out, into) = if direction == Direction::Inbound { (theirs, ours) } else { (ours, theirs) };
        let traffic = Object::new()
            .with("bytes", int(out.0.saturating_add(into.0)))
            .with("bytes_out", int(out.0))
            .with("bytes_in", int(into.0))
            .with("packets", int(out.1.saturating_add(into.1)))
            .with("packets_out", int(out.1))
            .with("packets_in", int(into.1));
        object.add("traffic", traffic);
    }
}

/// When it began, of what took some time.
pub(super) fn add_time<'a>(object: &mut Object<'a>, since: Option<&'a str>, duration_ms: Option<u64>) {
    object.add("start_time_dt", since.filter(|since| since.parse::<jiff::Timestamp>().is_ok()));
    object.add("duration", duration_ms.map(int));
}

/// As the schemas draw a number.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Two ends, and what is between them.
struct Between<'a> {
    direction: Direction,
    far: Option<&'a LineDestination>,
    local_port: Option<u16>,
    protocol: &'a str,
    cookie: u64,
}

impl<'a> Between<'a> {
    fn add(self, object: &mut Object<'a>, host: &'a Host) {
        let Self { direction, far, local_port, protocol, cookie } = self;
        let here = objects::named(host).with("port", local_port);
        let (from, to) = match (direction, far) {
            (Direction::Inbound, far) => (endpoint(far), here),
            (_, far) => (here, endpoint(far)),
        };
        object.add("src_endpoint", from);
        object.add("dst_endpoint", to);
        let ip = far.and_then(|far| address(&far.address));
        let number = facts::protocol_number(protocol, ip);
        let version = ip.map(|ip| if ip.is_ipv4() { 4 } else { 6 });
        let cookie = (cookie != 0).then(|| cookie.to_string());
        let connection = connection(protocol, direction)
            .with("protocol_num", number)
            .with("protocol_ver_id", version)
            .with("uid", cookie);
        object.add("connection_info", connection);
    }
}

fn add_guard<'a>(object: &mut Object<'a>, guard: &'a LineGuard, host: &'a Host) {
    // A Unix socket has a name, and other sockets that the guard speaks of have none yet.
    let to = guard.object.name.as_deref();
    object.add("src_endpoint", objects::named(host));
    object.add("dst_endpoint", Object::new().with("name", to.unwrap_or("none")));
    let direction = if to.is_some() { Direction::Outbound } else { Direction::Unknown };
    object.add("connection_info", connection(facts::family_name(guard), direction));
}

/// The far end; of `bind`, the local address; `socket()` has none.
fn endpoint(far: Option<&LineDestination>) -> Object<'_> {
    let Some(far) = far else { return Object::new().with("name", "none") };
    let text = far.address.as_str();
    let is_address = address(text).is_some();
    Object::new()
        .with("ip", Some(text).filter(|_| is_address))
        .with("name", Some(text).filter(|_| !is_address))
        .with("port", far.port)
}

fn connection<'a>(protocol: impl IntoNode<'a>, direction: Direction) -> Object<'a> {
    Object::new()
        .with("direction_id", direction as u32)
        .with("direction", direction.name())
        .with("protocol_name", protocol)
}
