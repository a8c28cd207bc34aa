//! Decisions about connections, datagrams, packets and sockets.

use super::{
    Event, Host, IntoNode, Object, UNKNOWN,
    facts::{self, address},
    objects::{self, Agent},
};
use crate::record::{LineDestination, LineEgress, LineGuard};

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
    match (&event.egress, &event.guard) {
        (Some(egress), _) => add_egress(object, egress, host),
        (None, Some(guard)) => add_guard(object, guard, host),
        // An egress without its decision: an event that was kept and changed.
        (None, None) => {
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
    let far = egress.destination.as_ref();
    let here = objects::named(host).with("port", egress.local_port);
    let (from, to) = match (direction, far) {
        (Direction::Inbound, far) => (endpoint(far), here),
        (_, far) => (here, endpoint(far)),
    };
    object.add("src_endpoint", from);
    object.add("dst_endpoint", to);
    if matches!(egress.operation.as_ref(), "connect" | "send" | "accept") {
        object.add("initiator_id", 1);
        object.add("initiator", "Source Endpoint");
    }
    let ip = far.and_then(|far| address(&far.address));
    let number = facts::protocol_number(&egress.protocol, ip);
    let version = ip.map(|ip| if ip.is_ipv4() { 4 } else { 6 });
    let cookie = (egress.socket != 0).then(|| egress.socket.to_string());
    let connection = connection(egress.protocol.as_ref(), direction)
        .with("protocol_num", number)
        .with("protocol_ver_id", version)
        .with("uid", cookie);
    object.add("connection_info", connection);
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
