//! Whether a connection that exists already is one that an envelope allows: asked when a session comes to be held to another
//! envelope, or to one at all.

use enforcer_common::{
    decision::{Claim, Standing, decide_packet},
    identity::SessionRef,
    net::{Destination, Direction},
    packet::Packet,
    record::Placement,
    session::{Control, SessionState},
};

use crate::envelope::{self, CompiledTable, Envelope, TooLarge};

/// What an envelope's compiled rules say, asked as the packet gate asks.
pub(crate) struct Reach {
    table: CompiledTable,
    standing: Standing,
}

/// The ends of a connection: the far one, and our port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) remote: Destination,
    pub(crate) local_port: u16,
}

impl Reach {
    pub(crate) fn of(envelope: &Envelope) -> Result<Self, TooLarge> {
        const SESSION: SessionRef = SessionRef { slot: 0, generation: 1 };
        const NUMBER: u32 = 1;
        let control = Control {
            state: SessionState::Active,
            mode: envelope.mode,
            envelope: NUMBER,
            generation: SESSION.generation,
        };
        let standing = Standing {
            claim: Claim::Tagged(SESSION),
            control: control.pack(),
            expires_ns: u64::MAX,
            now_ns: 0,
            placement: Placement::Home,
        };
        Ok(Self { table: CompiledTable::new(NUMBER, &envelope::compile(envelope)?), standing })
    }

    /// Whether the next packet of this connection would be refused.
    pub(crate) fn refuses(&self, link: &Link) -> bool {
        let packet = Packet {
            direction: Direction::Out,
            protocol: link.remote.protocol,
            opens: false,
            resets: false,
            remote: link.remote.address,
            remote_port: link.remote.port,
            local_port: link.local_port,
        };
        decide_packet(&self.standing, &packet, None, &&self.table).is_refused()
    }
}
