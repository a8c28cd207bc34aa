//! What tells this build's programs from another's: equal digests, equal behaviour. Programs that are pinned under another one are
//! replaced.

use enforcer_common::{
    ABI_VERSION,
    config::{Config, Meta},
};
use ring::digest::{Context, SHA256};

use super::object::OBJECT;

/// What maps say of themselves whose programs this build has loaded with this configuration.
pub(super) fn meta(config: &Config) -> Meta {
    Meta { abi: ABI_VERSION, pad: [0; 6], magic: Meta::MAGIC, digest: digest(config) }
}

fn digest(config: &Config) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(OBJECT);
    context.update(format!("{config:?}").as_bytes());
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
