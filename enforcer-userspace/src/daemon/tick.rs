//! What the daemon looks at once a second, because no record tells it.

use super::{Daemon, TICK};
use crate::{clock, kernel::Ring};

impl Daemon {
    /// What no record tells: sessions that expire, sessions whose last record was lost, records lost.
    pub(super) fn tick(&mut self, ring: &mut Ring) {
        let began_ns = clock::boot_ns();
        let caught_up = self.catch_up(ring);
        // Who never gets there says it now and then all the same.
        if caught_up || (began_ns / 1_000_000_000).is_multiple_of(10) {
            let settled = self.settle_losses(caught_up);
            self.survive(settled);
        }
        if caught_up {
            // A program that still goes by what it read so long ago does not run any more.
            let then_ns = began_ns.saturating_sub(u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX));
            self.registry.iter_mut().for_each(|session| session.forget_replaced(then_ns));
        }
        self.say_refused();
        for look in [
            Self::note_removed_rules,
            Self::report_lost,
            Self::record_expiries,
            Self::recount,
            Self::tend_totals,
            Self::end_empty,
            Self::end_finished,
            Self::end_lingering,
            Self::tend_credentials,
            Self::tend_images,
            Self::tend_audit,
            Self::tend_findings,
            Self::tend_times,
            Self::tend_coverage,
        ] {
            let looked = look(self);
            self.survive(looked);
        }
    }
}
