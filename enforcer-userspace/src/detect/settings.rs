//! Which detections there are, and when each is one, as a document says it.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use super::episode::Rule;
use crate::document::{self, DocumentError};

const SECOND_NS: u64 = 1_000_000_000;

/// What is found. What is `None` or false is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(super) learning: Learning,
    pub(super) refusal_burst: Option<Rule>,
    /// How many are remembered of an agent.
    pub(super) new_executable: Option<usize>,
    /// Likewise.
    pub(super) new_destination: Option<usize>,
    pub(super) escape_sign: Option<Rule>,
    pub(super) tamper_sign: Option<Rule>,
    pub(super) limit_reached: bool,
    /// How what a full baseline does not take is told of.
    pub(super) full: Rule,
}

/// How long an agent's doings are only learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Learning {
    /// Until so many sessions have ended,
    pub(super) sessions: u64,
    /// and so long after its first event,
    pub(super) time_s: i64,
    /// but no longer than this.
    pub(super) at_most_s: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Spec::default().into()
    }
}

/// What is wrong with the document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("read it")]
    Read(#[from] std::io::Error),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("`learning.atMost` is shorter than `learning.time`")]
    Learning,
}

/// What a document of the kind `Detections` says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Spec {
    learning: LearningSpec,
    refusal_burst: BurstSpec,
    new_executable: NoveltySpec,
    new_destination: NoveltySpec,
    escape_sign: SignSpec,
    tamper_sign: SignSpec,
    limit_reached: LimitSpec,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct LearningSpec {
    sessions: Count<0, 1_000_000>,
    time: Span<0>,
    at_most: Span<0>,
}

impl Default for LearningSpec {
    fn default() -> Self {
        Self { sessions: Count(3), time: Span(24 * 3600), at_most: Span(7 * 24 * 3600) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct BurstSpec {
    enabled: bool,
    refusals: Count<2, 1000>,
    within: Span<1>,
}

impl Default for BurstSpec {
    fn default() -> Self {
        Self { enabled: true, refusals: Count(50), within: Span(10) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct NoveltySpec {
    enabled: bool,
    remember: Option<Count<1, 10_000>>,
}

impl Default for NoveltySpec {
    fn default() -> Self {
        Self { enabled: true, remember: None }
    }
}

impl NoveltySpec {
    /// How many; so many, if it does not say.
    fn remembered(&self, otherwise: u64) -> Option<usize> {
        let most = self.remember.as_ref().map_or(otherwise, |most| most.0);
        self.enabled.then(|| usize::try_from(most).unwrap_or(usize::MAX))
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct SignSpec {
    enabled: bool,
    /// After how long without another one it is over.
    quiet: Span<1>,
}

impl Default for SignSpec {
    fn default() -> Self {
        Self { enabled: true, quiet: Span(60) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitSpec {
    enabled: bool,
}

impl Default for LimitSpec {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// A number within bounds.
#[derive(Debug)]
struct Count<const LEAST: u64, const MOST: u64>(u64);

impl<'de, const LEAST: u64, const MOST: u64> Deserialize<'de> for Count<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Clone, Copy)]
        struct Visitor<const LEAST: u64, const MOST: u64>;
        impl<const LEAST: u64, const MOST: u64> de::Visitor<'_> for Visitor<LEAST, MOST> {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {LEAST} to {MOST}")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
                let fits = (LEAST..=MOST).contains(&number);
                fits.then_some(number)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
                let unsigned = u64::try_from(number);
                self.visit_u64(unsigned.map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))?)
            }
        }
        deserializer.deserialize_u64(Visitor::<LEAST, MOST>).map(Self)
    }
}

/// A time, s, such as `10s`, `30m`, `24h` or `7d`; at most a year.
#[derive(Debug)]
struct Span<const LEAST: u64>(u64);

impl<const LEAST: u64> Span<LEAST> {
    const MOST: u64 = 365 * 24 * 3600;

    fn rule(&self, threshold: usize) -> Rule {
        Rule { threshold, within_ns: self.0 * SECOND_NS }
    }

    fn seconds(&self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl<'de, const LEAST: u64> Deserialize<'de> for Span<LEAST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const LEAST: u64>;
        impl<const LEAST: u64> de::Visitor<'_> for Visitor<LEAST> {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a time from {LEAST}s to 365d: a whole number and `s`, `m`, `h` or `d`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
                let fits = |seconds: &u64| (LEAST..=Span::<LEAST>::MOST).contains(seconds);
                let seconds = seconds(text).filter(fits);
                seconds.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor::<LEAST>).map(Self)
    }
}

fn seconds(text: &str) -> Option<u64> {
    let (number, scale) = [('s', 1), ('m', 60), ('h', 3600), ('d', 24 * 3600)]
        .into_iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    let number = Some(number).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    number.parse::<u64>().ok()?.checked_mul(scale)
}

impl From<Spec> for Settings {
    fn from(spec: Spec) -> Self {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let LearningSpec { sessions, time, at_most } = spec.learning;
        let BurstSpec { enabled, refusals, within } = spec.refusal_burst;
        let [escape_sign, tamper_sign] =
            [spec.escape_sign, spec.tamper_sign].map(|sign| sign.enabled.then(|| sign.quiet.rule(1)));
        Self {
            learning: Learning { sessions: sessions.0, time_s: time.seconds(), at_most_s: at_most.seconds() },
            refusal_burst: enabled.then(|| within.rule(count(refusals.0))),
            new_executable: spec.new_executable.remembered(512),
            new_destination: spec.new_destination.remembered(2048),
            escape_sign,
            tamper_sign,
            limit_reached: spec.limit_reached.enabled,
            full: SignSpec::default().quiet.rule(1),
        }
    }
}

impl Settings {
    /// Reads a document.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, SettingsError> {
        let spec: Option<Spec> = document::parse("Detections", document)?;
        let settings = Self::from(spec.unwrap_or_default());
        let Learning { time_s, at_most_s, .. } = settings.learning;
        if at_most_s < time_s {
            return Err(SettingsError::Learning);
        }
        Ok(settings)
    }
}
