//! Reading a segment, from whatever has its bytes. Total, and within bounds of memory: of what was never an entry, nothing is kept.

use std::io::{self, Read};

use super::{
    entry::{self, CHAIN_BYTES, Entry, FRAME_BYTES, HEADER_BYTES, Header, Kind, MAX_PAYLOAD_BYTES},
    hash::Hash,
};

/// Why no entry can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("its bytes cannot be read")]
    Io(#[source] io::Error),
    #[error("its header is none: {0}")]
    Header(&'static str),
    #[error("it ends in the middle of an entry: there are {bytes} bytes of it")]
    Torn { bytes: u64 },
    #[error("an entry of {length} bytes is longer than there can be")]
    Length { length: u32 },
    #[error("there is no kind {0} of entries")]
    Kind(u8),
}

/// A segment, read from its beginning.
#[derive(Debug)]
pub(crate) struct SegmentReader<R> {
    source: R,
    header: Header,
    /// Payload and chain value of the last entry.
    body: Vec<u8>,
    /// Where the last entry ends.
    offset: u64,
}

impl<R: Read> SegmentReader<R> {
    /// Reads the header.
    pub(crate) fn open(mut source: R) -> Result<Self, ReadError> {
        let mut bytes = [0; HEADER_BYTES];
        if fill(&mut source, &mut bytes)? < HEADER_BYTES {
            return Err(ReadError::Header("it is cut short"));
        }
        let header = Header::decode(&bytes).map_err(ReadError::Header)?;
        Ok(Self { source, header, body: Vec::new(), offset: HEADER_BYTES as u64 })
    }

    pub(crate) const fn header(&self) -> &Header {
        &self.header
    }

    /// How many bytes the entries so far take, with the header.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        let mut frame = [0; FRAME_BYTES];
        let read = fill(&mut self.source, &mut frame)?;
        if read == 0 {
            return Ok(None);
        }
        if read < FRAME_BYTES {
            return Err(ReadError::Torn { bytes: read as u64 });
        }
        let mut rest = frame.as_slice();
        let length = u32::from_le_bytes(entry::take(&mut rest));
        let [kind] = entry::take(&mut rest);
        let sequence = u64::from_le_bytes(entry::take(&mut rest));
        let payload_bytes = usize::try_from(length).ok().filter(|length| *length <= MAX_PAYLOAD_BYTES);
        let payload_bytes = payload_bytes.ok_or(ReadError::Length { length })?;
        let kind = Kind::of(kind).ok_or(ReadError::Kind(kind))?;
        self.body.resize(payload_bytes + CHAIN_BYTES, 0);
        let read = fill(&mut self.source, &mut self.body)?;
        if read < self.body.len() {
            return Err(ReadError::Torn { bytes: (FRAME_BYTES + read) as u64 });
        }
        self.offset += (FRAME_BYTES + self.body.len()) as u64;
        let (payload, mut chain) = self.body.split_at(payload_bytes);
        Ok(Some(Entry { kind, sequence, payload, chain: Hash(entry::take(&mut chain)) }))
    }
}

/// Reads until there is no room or nothing more. How much.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ReadError> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::Io(error)),
        }
    }
    Ok(filled)
}
