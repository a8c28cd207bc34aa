//! Which authority signs, which are still believed, and when there must be a new one.
//!
//! A new authority is in the bundle for a week before it signs, so that whoever fetches the bundle that often never meets a
//! signature that it cannot check. The one before it stays in the bundle until everything that it signed has expired. The times
//! follow from when each was made, so that a daemon that starts again comes to the same answer.

use std::sync::Arc;

use super::{Authority, LIFETIME_S, SKEW_S, TrustDomain};

const DAY_S: i64 = 86_400;
/// How long an authority's certificate is valid.
pub(super) const AUTHORITY_LIFETIME_S: i64 = 30 * DAY_S;
/// How long it is only in the bundle, if another can sign meanwhile.
const ANNOUNCED_S: i64 = 7 * DAY_S;
/// How old the newest may be before there is another.
const REPLACED_S: i64 = 14 * DAY_S;

/// The authorities of one trust domain, the oldest first.
#[derive(Debug)]
pub(crate) struct Authorities {
    trust_domain: TrustDomain,
    list: Vec<Arc<Authority>>,
}

impl Authorities {
    /// Those of this trust domain; others are of an earlier setting, and are believed no more.
    pub(crate) fn new(trust_domain: TrustDomain, found: impl IntoIterator<Item = Authority>) -> Self {
        let ours = |authority: &Authority| *authority.trust_domain() == trust_domain;
        let mut list: Vec<_> = found.into_iter().filter(ours).map(Arc::new).collect();
        list.sort_by_key(|authority| authority.made_s());
        Self { trust_domain, list }
    }

    pub(crate) const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Authority> {
        self.list.iter().map(|authority| &**authority)
    }

    /// The one that signs.
    pub(crate) fn signer(&self, now_s: i64) -> Option<&Authority> {
        Some(&**self.list.get(self.signer_index(now_s)?)?)
    }

    fn signer_index(&self, now_s: i64) -> Option<usize> {
        let is_valid = |authority: &Authority| now_s < authority.made_s() + AUTHORITY_LIFETIME_S;
        let announced = |authority: &Authority| authority.made_s() + ANNOUNCED_S <= now_s;
        let known = self.list.iter().rposition(|authority| is_valid(authority) && announced(authority));
        // Without one that is known long enough: the one that is known longest.
        known.or_else(|| self.list.iter().position(|authority| is_valid(authority)))
    }

    /// Whether there must be another one.
    pub(crate) fn is_due(&self, now_s: i64) -> bool {
        self.signer_index(now_s).is_none()
            || self.list.last().is_none_or(|newest| newest.made_s() + REPLACED_S <= now_s)
    }

    /// From here on it is in the bundle.
    pub(crate) fn insert(&mut self, authority: Authority) {
        self.list.push(Arc::new(authority));
        self.list.sort_by_key(|authority| authority.made_s());
    }

    /// The ids of those whose signatures have all expired.
    pub(crate) fn spent(&self, now_s: i64) -> Vec<String> {
        let replaced = self.signer_index(now_s).and_then(|index| Some((index, self.list.get(index)?)));
        let is_spent = |(index, authority): (usize, &Arc<Authority>)| {
            let by_a_newer = replaced.is_some_and(|(signer, newer)| {
                index < signer && newer.made_s() + ANNOUNCED_S + LIFETIME_S + SKEW_S <= now_s
            });
            let expired = authority.made_s() + AUTHORITY_LIFETIME_S + SKEW_S <= now_s;
            (by_a_newer || expired).then(|| authority.id())
        };
        self.list.iter().enumerate().filter_map(is_spent).collect()
    }

    /// From here on it is believed no more.
    pub(crate) fn remove(&mut self, id: &str) {
        self.list.retain(|authority| authority.id() != id);
    }
}
