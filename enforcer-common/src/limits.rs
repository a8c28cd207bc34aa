//! How much of everything an envelope lets a session have. Stands in the envelope's first block, so that limits change with
//! the rules, by the same store.

/// The limits of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in total; [`Self::NONE`] is no limit.
    pub connections: u64,
    /// What one connection takes of the time that `rate_burst_ns` is, ns; 0: no limit of the rate.
    pub rate_interval_ns: u64,
    /// The time in which so many connections may be made as the envelope says, ns: all of them at once, then one every interval.
    pub rate_burst_ns: u64,
    /// Bytes of the packets sent, IP headers included; [`Self::NONE`] is no limit.
    pub bytes_out: u64,
    /// Likewise received.
    pub bytes_in: u64,
}

impl Limits {
    /// No limit.
    pub const NONE: u64 = u64::MAX;

    /// No limits at all.
    pub const UNLIMITED: Self = Self {
        connections: Self::NONE,
        rate_interval_ns: 0,
        rate_burst_ns: 0,
        bytes_out: Self::NONE,
        bytes_in: Self::NONE,
    };

    /// Numbers that they take in a block.
    pub(crate) const WORDS: usize = 10;

    pub(crate) const fn words(&self) -> [u32; Self::WORDS] {
        let [a, b, c, d, e] =
            [self.connections, self.rate_interval_ns, self.rate_burst_ns, self.bytes_out, self.bytes_in];
        [
            a as u32,
            (a >> 32) as u32,
            b as u32,
            (b >> 32) as u32,
            c as u32,
            (c >> 32) as u32,
            d as u32,
            (d >> 32) as u32,
            e as u32,
            (e >> 32) as u32,
        ]
    }

    #[inline(always)]
    pub(crate) const fn from_words(words: [u32; Self::WORDS]) -> Self {
        let [a, a1, b, b1, c, c1, d, d1, e, e1] = words;
        Self {
            connections: (a1 as u64) << 32 | a as u64,
            rate_interval_ns: (b1 as u64) << 32 | b as u64,
            rate_burst_ns: (c1 as u64) << 32 | c as u64,
            bytes_out: (d1 as u64) << 32 | d as u64,
            bytes_in: (e1 as u64) << 32 | e as u64,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::UNLIMITED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_survive_a_round_trip() {
        let limits = Limits {
            connections: 1,
            rate_interval_ns: u64::MAX - 1,
            rate_burst_ns: 1 << 40,
            bytes_out: (7 << 32) + 3,
            bytes_in: Limits::NONE,
        };
        assert_eq!(Limits::from_words(limits.words()), limits);
    }
}
