//! `unix_sock` and `unix_address`.

use enforcer_common::guard::{NameKind, UnixKey};

use super::sock::Sock;
use crate::config::loaded;

/// Whether a Unix socket has a name. That one is put into `key`, unless it is longer than any that a rule can have.
/// `None` if it cannot be read.
///
/// The name is the one that was given to `bind()`, and does not change afterwards (v6.1/net/unix/af_unix.c, unix_bind_bsd): a relative
/// path stays one.
#[inline(always)]
pub(crate) fn read_name(socket: Sock, key: &mut UnixKey) -> Option<bool> {
    const FAMILY_BYTES: u32 = 2;
    let address = socket.place().load::<u64>(loaded!(guard.unix_sock_addr))?;
    if address == 0 {
        return Some(false);
    }
    let address = super::Place::at_address(address);
    let len: u32 = address.load(loaded!(guard.unix_address_len))?;
    let at = loaded!(guard.unix_address_name) + FAMILY_BYTES;
    let first: u8 = address.load(at)?;
    // Of a path the length counts its closing zero, of an abstract name the leading one.
    let len = len.wrapping_sub(FAMILY_BYTES + 1);
    if len == 0 || len > UnixKey::LONGEST as u32 {
        return Some(true);
    }
    let (kind, at) = if first == 0 { (NameKind::Abstract, at + 1) } else { (NameKind::Path, at) };
    if !address.copy(at, &mut key.name, len) {
        return None;
    }
    key.kind = kind.raw().into();
    key.len = len as u16;
    Some(true)
}
