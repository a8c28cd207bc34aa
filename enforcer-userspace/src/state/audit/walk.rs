//! Reading a log from its first segment to its last, with constant memory, while it may be written.

use std::ops::ControlFlow;

use super::{
    AuditError,
    files::{LogDir, SegmentFile},
};
use crate::audit::{Entry, Finding, Header, Proof, ProofError, Prover, Report, SegmentReader, Verifier};

impl LogDir {
    /// Hands every entry of the segments to the verifier, and those that are in order to somebody else as well, who may end it.
    pub(crate) fn walk(
        &self,
        segments: &[SegmentFile],
        mut verifier: Verifier<'_>,
        each: &mut dyn FnMut(&Entry<'_>) -> ControlFlow<()>,
    ) -> Result<Report, AuditError> {
        let found = self.walk_segments(segments, &mut verifier, each)?;
        Ok(match found {
            Ok(ControlFlow::Break(())) => verifier.end(),
            Ok(ControlFlow::Continue(())) => verifier.finish(Ok(())),
            Err(finding) => verifier.finish(Err(finding)),
        })
    }

    fn walk_segments(
        &self,
        segments: &[SegmentFile],
        verifier: &mut Verifier<'_>,
        each: &mut dyn FnMut(&Entry<'_>) -> ControlFlow<()>,
    ) -> Result<Result<ControlFlow<()>, Finding>, AuditError> {
        for (at, segment) in segments.iter().enumerate() {
            let is_last = at + 1 == segments.len();
            verifier.enter(&segment.name());
            let mut reader = match SegmentReader::open(self.open(segment)?) {
                Ok(reader) => reader,
                Err(error) => match verifier.unreadable(&error, false) {
                    Ok(()) => continue,
                    Err(finding) => return Ok(Err(finding)),
                },
            };
            if let Err(finding) = verifier.segment(reader.header()) {
                return Ok(Err(finding));
            }
            loop {
                match reader.next() {
                    Ok(None) => break,
                    Ok(Some(entry)) => {
                        if let Err(finding) = verifier.entry(&entry) {
                            return Ok(Err(finding));
                        }
                        if each(&entry).is_break() {
                            return Ok(Ok(ControlFlow::Break(())));
                        }
                    }
                    Err(error) => match verifier.unreadable(&error, is_last) {
                        Ok(()) => break,
                        Err(finding) => return Ok(Err(finding)),
                    },
                }
            }
        }
        Ok(Ok(ControlFlow::Continue(())))
    }

    /// A proof that an entry is in the log; nothing if it is not there.
    pub(crate) fn prove(&self, sequence: u64) -> Result<Option<Result<Proof, ProofError>>, AuditError> {
        let segments = self.segments()?;
        let from = segments.partition_point(|segment| segment.first <= sequence);
        let Some(from) = from.checked_sub(1) else { return Ok(None) };
        let mut prover = None;
        let mut last = 0;
        let proof = self.read(segments.get(from..).unwrap_or_default(), &mut |header, entry| {
            let prover = prover.get_or_insert_with(|| Prover::new(sequence, header));
            last = entry.sequence;
            match prover.take(entry) {
                Ok(None) => ControlFlow::Continue(()),
                Ok(Some(proof)) => ControlFlow::Break(Ok(proof)),
                Err(error) => ControlFlow::Break(Err(error)),
            }
        })?;
        Ok(proof.or_else(|| (last >= sequence).then_some(Err(ProofError::NotCovered))))
    }

    /// The first entry that is wanted, by its number. Nothing is verified.
    pub(crate) fn find(&self, is_wanted: impl Fn(&Entry<'_>) -> bool) -> Result<Option<u64>, AuditError> {
        self.read(&self.segments()?, &mut |_, entry| {
            if is_wanted(entry) { ControlFlow::Break(entry.sequence) } else { ControlFlow::Continue(()) }
        })
    }

    /// Hands on every entry as it stands there, behind the header of its segment.
    fn read<T>(
        &self,
        segments: &[SegmentFile],
        each: &mut dyn FnMut(&Header, &Entry<'_>) -> ControlFlow<T>,
    ) -> Result<Option<T>, AuditError> {
        for segment in segments {
            let failed = |source| AuditError::Segment { path: segment.path.clone(), source };
            let mut reader = SegmentReader::open(self.open(segment)?).map_err(failed)?;
            let header = *reader.header();
            loop {
                let entry = match reader.next() {
                    Ok(Some(entry)) => entry,
                    // Being written.
                    Ok(None) | Err(crate::audit::ReadError::Torn { .. }) => break,
                    Err(error) => return Err(failed(error)),
                };
                if let ControlFlow::Break(found) = each(&header, &entry) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }
}
