//! Whether a connection that exists already is one that an envelope allows: asked when a session comes to be held to another
//! envelope, or to one at all.

use enforcer_common::{
    decision::{Standing, decide_packet},
    net::{Destination, Direction},
    packet::Packet,
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
        const NUMBER: u32 = 1;
        let standing = Standing::undisturbed(NUMBER, envelope.mode);
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
