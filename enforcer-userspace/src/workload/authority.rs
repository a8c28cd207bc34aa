//! Makes the requests of gRPC clients acceptable to the HTTP/2 library.
//!
//! Over a Unix socket, gRPC's own clients (of Python, C++, Ruby, and more) put the socket's path into `:authority`. That is no
//! authority as HTTP has it, and `h2` refuses the request before anybody is asked (hyperium/h2#487). The value means nothing
//! here: there is one service, at whatever address. So where it is spelled out, another is put in its place.
//!
//! What is not understood goes on as it came: judging it is for the library. A value that is put in place is never longer than
//! the one before, so that whatever the client takes to be in the table of headers seen before is in it (RFC 7541, 4.4).

const PREFACE_BYTES: usize = 24;
/// Length (3 bytes), kind, flags, and the number of the stream (4 bytes).
const HEAD_BYTES: usize = 9;
const KIND_AT: usize = 3;
/// The longest frame that a client may send without being asked to; a longer one is an error.
const MAX_FRAME_BYTES: usize = 16 << 10;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
const END_HEADERS: u8 = 0x04;
/// `:authority` in the table that every HTTP/2 connection starts with.
const AUTHORITY_INDEX: usize = 1;
/// One character, of length one, not compressed.
const REPLACEMENT: [u8; 2] = [1, b'x'];

/// What a client sent, cut into frames.
#[derive(Debug)]
pub(super) struct Requests {
    /// What goes on as it comes, before there is another head to look at.
    passing: usize,
    /// The beginning of a frame that is not whole yet.
    partial: Vec<u8>,
    /// A frame came, after the preface.
    begun: bool,
}

impl Requests {
    pub(super) const fn new() -> Self {
        Self { passing: PREFACE_BYTES, partial: Vec::new(), begun: false }
    }

    /// Whether the preface is there, and something of what follows it: the client speaks HTTP/2, or the library will say that it does not.
    pub(super) const fn has_begun(&self) -> bool {
        self.begun
    }

    /// Takes what came, and puts what goes on behind `out`.
    pub(super) fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (now, later) = bytes.split_at(self.passing.min(bytes.len()));
                out.extend_from_slice(now);
                self.passing -= now.len();
                bytes = later;
                continue;
            }
            let wanted = frame_bytes(&self.partial).unwrap_or(HEAD_BYTES);
            let (now, later) = bytes.split_at((wanted - self.partial.len()).min(bytes.len()));
            self.partial.extend_from_slice(now);
            bytes = later;
            let Some(whole) = frame_bytes(&self.partial) else { continue };
            self.begun = true;
            // Only of these all is needed.
            if self.partial.get(KIND_AT) != Some(&HEADERS) || whole > HEAD_BYTES + MAX_FRAME_BYTES {
                self.passing = whole - self.partial.len();
                out.append(&mut self.partial);
            } else if self.partial.len() == whole {
                let frame = std::mem::take(&mut self.partial);
                out.extend(rewritten(&frame).unwrap_or(frame));
            }
        }
    }
}

/// The length of a frame with its head, if its head is there.
fn frame_bytes(frame: &[u8]) -> Option<usize> {
    let head = frame.first_chunk::<HEAD_BYTES>()?;
    Some(HEAD_BYTES + (usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])))
}

/// A frame of headers with another authority. `None` if it has none, or is none that can be understood.
fn rewritten(frame: &[u8]) -> Option<Vec<u8>> {
    let (head, payload) = frame.split_at_checked(HEAD_BYTES)?;
    let flags = *head.get(KIND_AT + 1)?;
    if flags & END_HEADERS == 0 {
        return None;
    }
    let padding = if flags & PADDED == 0 { 0 } else { usize::from(*payload.first()?) };
    let skipped = usize::from(flags & PADDED != 0) + if flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
    let end = payload.len().checked_sub(padding)?;
    let block = payload.get(skipped..end)?;
    let value = authority(block)?;
    let (before, after) = (skipped + value.start, skipped + value.end);
    let payload = [payload.get(..before)?, &REPLACEMENT, payload.get(after..)?].concat();
    let length = u32::try_from(payload.len()).ok()?.to_be_bytes();
    Some([&length[1..], head.get(KIND_AT..)?, &payload].concat())
}

/// Where in a block of headers the value of `:authority` is, with its length, if it is spelled out and has any.
fn authority(block: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    while let Some(first) = block.get(at) {
        // RFC 7541, 6: by its first bits an entry is an index, or a change of the table's size, or spelled out.
        let (prefix_bits, is_literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = integer(block, &mut at, prefix_bits)?;
        if !is_literal {
            continue;
        }
        let name = if index == 0 { Some(string(block, &mut at)?) } else { None };
        let start = at;
        let value = string(block, &mut at)?;
        let is_authority = index == AUTHORITY_INDEX || name == Some(b":authority");
        if is_authority && !value.is_empty() {
            return Some(start..at);
        }
    }
    None
}

/// RFC 7541, 5.1.
fn integer(block: &[u8], at: &mut usize, prefix_bits: u32) -> Option<usize> {
    let most = (1_usize << prefix_bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    // Far more than a frame can hold.
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// RFC 7541, 5.2; compressed or not.
fn string<'a>(block: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let length = integer(block, at, 7)?;
    let string = block.get(*at..)?.get(..length)?;
    *at += length;
    Some(string)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn sent(frames: &[Vec<u8>]) -> Vec<u8> {
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frames.concat()].concat()
    }

    /// In pieces of that size.
    fn pass(bytes: &[u8], size: usize) -> Vec<u8> {
        let (mut requests, mut out) = (Requests::new(), Vec::new());
        bytes.chunks(size).for_each(|piece| requests.take(piece, &mut out));
        out
    }

    const METHOD_POST: u8 = 0x83;
    const PATH: [u8; 4] = [0x44, 2, b'/', b'a'];

    fn named(first: &[u8], value: &[u8]) -> Vec<u8> {
        [&[METHOD_POST], first, &[u8::try_from(value.len()).unwrap()], value, &PATH].concat()
    }

    #[test]
    fn an_authority_that_is_spelled_out_is_replaced() {
        let by_name = [&[0x40, 10], &b":authority"[..]].concat();
        for first in [&[0x41][..], &[0x01], &[0x11], &by_name] {
            let before = named(first, b"%2Frun%2Fworkload.sock");
            let after = named(first, b"x");
            let settings = frame(4, 0, &[0; 6]);
            let data = frame(0, 1, &[7; 3000]);
            let message = |block: &[u8]| sent(&[settings.clone(), frame(1, 4, block), data.clone()]);
            for size in [1, 2, 9, 10, 33, 10_000] {
                assert_eq!(pass(&message(&before), size), message(&after), "{first:?} by {size}");
            }
            // Padding and priority stay what they were.
            let wrap = |block: &[u8]| [&[3, 1, 2, 3, 4, 5], block, &[0; 3]].concat();
            let padded = |block: &[u8]| sent(&[frame(1, 4 | PADDED | PRIORITY, &wrap(block))]);
            assert_eq!(pass(&padded(&before), 10), padded(&after), "{first:?}");
        }
    }

    #[test]
    fn what_is_something_else_goes_on_as_it_came() {
        let block = named(&[0x41], b"%2Frun");
        for bytes in [
            sent(&[frame(1, 4, &named(&[0x45], b"value"))]),
            sent(&[frame(1, 4, &named(&[0x41], b""))]),
            // Not whole: a part of it is in another frame.
            sent(&[frame(1, 0, &block), frame(9, 4, &PATH)]),
            sent(&[frame(0, 4, &block)]),
            // Lengths that are not true.
            sent(&[frame(1, 4, &[0x41, 0x7f])]),
            sent(&[frame(1, 4, &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x01])]),
            sent(&[frame(1, 4 | PADDED, &[200, 0x41, 1, b'/'])]),
            sent(&[frame(1, 4 | PRIORITY, &[1])]),
            sent(&[frame(1, 4, &vec![0x83; MAX_FRAME_BYTES + 1])]),
            sent(&[frame(1, 4, &block)])[..40].to_vec().into_iter().take(30).collect(),
        ] {
            for size in [1, 7, 100_000] {
                let out = pass(&bytes, size);
                assert!(bytes.starts_with(&out), "{bytes:?}");
                if bytes.len() != 30 {
                    assert_eq!(out, bytes, "{bytes:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_or_grows_and_pieces_do_not_matter(
            frames in proptest::collection::vec((0..4_u8, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..6),
            rubbish in proptest::collection::vec(any::<u8>(), 0..60),
            size in 1..50_usize,
        ) {
            let frames: Vec<_> = frames.into_iter().map(|(kind, flags, payload)| frame(kind, flags, &payload)).collect();
            let bytes = [sent(&frames), rubbish].concat();
            let whole = pass(&bytes, bytes.len());
            prop_assert!(whole.len() <= bytes.len());
            prop_assert_eq!(pass(&bytes, size), whole);
        }
    }
}
