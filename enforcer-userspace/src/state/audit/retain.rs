//! The oldest segments go when they are too old, or when all take too much room. A stub stays: what is behind them can be checked without
//! them, and the log itself says that they were removed, and why. What cannot be read is not removed.

use std::time::{Instant, SystemTime};

use super::{
    super::replace,
    AuditError, Limits,
    files::SegmentFile,
    pack,
    writer::{RETAIN_TIME, Writer},
};
use crate::audit::{Begun, Hash, Header, Kind, Removed, SegmentReader, StubStatement};

/// They are read once more, and nothing is written meanwhile.
const AT_ONCE: usize = 4;

/// What a stub has of what is removed.
#[derive(Default)]
struct Origin {
    chain_first: Option<Hash>,
    begun: Option<String>,
    keys: Vec<String>,
    /// How far that is known.
    last: u64,
}

impl Writer<'_> {
    /// Removes what is to go, a part of it at a time.
    pub(super) fn retain(&mut self) -> Result<(), AuditError> {
        if Instant::now() < self.retain_at {
            return Ok(());
        }
        // Whatever comes of it.
        self.retain_at = Instant::now() + RETAIN_TIME;
        let Some((going, why)) = self.going() else { return Ok(()) };
        let gone: Vec<SegmentFile> =
            self.closed.iter().take(going).map(|closed| closed.file.clone()).collect();
        let next = match self.closed.get(going) {
            Some(closed) => self.dir.header(&closed.file)?,
            None => self.place.header,
        };
        let Origin { chain_first: Some(chain_first), begun: Some(begun), keys, .. } = self.origin(&gone)?
        else {
            self.shared.sign("what was removed before cannot be told: nothing more is removed".to_owned());
            return Ok(());
        };
        let moment = self.moment();
        let first = gone.first().map_or(1, |segment| segment.first);
        let time = moment.time.to_string();
        let said = (&moment, self.key_id());
        let stub = StubStatement::before(&next, chain_first, begun, keys, why.clone(), said);
        let stub = self.sign(serde_json::to_string(&stub).expect("it holds only text and numbers"))?;
        let removed = Removed { first, last: next.first - 1, stub: stub.digest(), why, time };

        let mut state = self.place.state.clone();
        let mut out = Vec::new();
        let removed = serde_json::to_vec(&removed).expect("it holds only text and numbers");
        state.append(Kind::Removed, &removed, &mut out);
        self.commit(state, &out)?;
        self.checkpoint()?;
        let stub = serde_json::to_vec_pretty(&stub).expect("it holds only text");
        replace(&self.dir.stub_path(), &stub)?;
        for segment in &gone {
            pack::remove(&segment.path)?;
            self.closed.pop_front();
        }
        // There may be more.
        self.retain_at = Instant::now();
        Ok(())
    }

    /// How many of the oldest segments are to go, and why.
    fn going(&self) -> Option<(usize, String)> {
        let Limits { keep_for, keep_bytes, .. } = self.limits;
        let mut bytes = self.place.bytes + self.closed.iter().map(|closed| closed.file.bytes).sum::<u64>();
        let (mut going, mut why) = (0, None);
        for closed in self.closed.iter().take_while(|closed| closed.settled).take(AT_ONCE) {
            let age = SystemTime::now().duration_since(closed.file.modified).unwrap_or_default();
            if age > keep_for {
                why.get_or_insert_with(|| format!("they were older than {} s", keep_for.as_secs()));
            } else if bytes > keep_bytes {
                why.get_or_insert_with(|| format!("the log took more than {keep_bytes} bytes"));
            } else {
                break;
            }
            bytes = bytes.saturating_sub(closed.file.bytes);
            going += 1;
        }
        why.map(|why| (going, why))
    }

    /// The stub that the log speaks of last. That is seldom long ago.
    fn said_stub(&self) -> Result<Option<Hash>, AuditError> {
        for segment in self.dir.segments()?.iter().rev() {
            let failed = |source| AuditError::Segment { path: segment.path.clone(), source };
            let mut reader = SegmentReader::open(self.dir.open(segment)?).map_err(failed)?;
            let mut said = None;
            while let Some(entry) = reader.next().map_err(failed)? {
                if entry.kind == Kind::Removed
                    && let Ok(removed) = serde_json::from_slice::<Removed>(entry.payload)
                {
                    said = Some(removed.stub);
                }
            }
            if said.is_some() {
                return Ok(said);
            }
        }
        Ok(None)
    }

    /// How the log began and whose keys signed it, from the stub that is there and what is to go.
    fn origin(&self, gone: &[SegmentFile]) -> Result<Origin, AuditError> {
        let stub = match self.dir.stub()? {
            // What somebody else has put there is not vouched for.
            Some(stub) if self.said_stub()? == Some(stub.digest()) => StubStatement::read(&stub),
            _ => None,
        };
        let mut origin = stub.map_or_else(Origin::default, |stub| Origin {
            chain_first: Some(stub.chain_first),
            begun: Some(stub.begun),
            keys: stub.keys,
            last: stub.last,
        });
        for segment in gone {
            let failed = |source| AuditError::Segment { path: segment.path.clone(), source };
            let mut reader = SegmentReader::open(self.dir.open(segment)?).map_err(failed)?;
            let Header { first, chain, .. } = *reader.header();
            if first == 1 {
                origin.chain_first = Some(chain);
            }
            while let Some(entry) = reader.next().map_err(failed)? {
                if entry.sequence <= origin.last {
                    continue;
                }
                let text = || String::from_utf8_lossy(entry.payload).into_owned();
                match entry.kind {
                    Kind::Begun if serde_json::from_slice::<Begun>(entry.payload).is_ok() => {
                        origin.begun = Some(text());
                    }
                    Kind::KeyChanged => origin.keys.push(text()),
                    _ => {}
                }
            }
        }
        Ok(origin)
    }
}
