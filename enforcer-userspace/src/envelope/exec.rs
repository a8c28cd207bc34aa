//! What a session may execute, and which files have to be what somebody looked at: `spec.exec`.
//!
//! An image is the file at its path, as the host sees that path; with a digest, only with that content. So an image with a digest is
//! part of the same one without, and no mount that a session makes for itself gives it another file under a listed name.

use std::fmt;

/// What a session may execute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exec {
    pub(crate) mode: ExecMode,
    /// What becomes of what is not as it is written here. The default where nothing is.
    pub(crate) on_mismatch: OnMismatch,
    /// Empty with [`ExecMode::Any`].
    pub(crate) images: Vec<Image>,
    /// Files whose content must be this; each has a digest.
    pub(crate) files: Vec<Image>,
}

/// Which images may be executed. The later, the stricter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ExecMode {
    #[default]
    Any,
    /// Those that are listed.
    Listed,
    /// Those that are listed, each with a digest.
    Measured,
}

/// What becomes of another image. The later, the stricter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OnMismatch {
    /// It is recorded.
    Audit,
    /// The process is refused everything.
    #[default]
    DenyEgress,
    /// The process is killed.
    Kill,
}

/// A file, by its path and its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Image {
    /// Absolute, without `.` and `..`.
    pub(crate) path: String,
    pub(crate) sha256: Option<Sha256>,
}

/// Why a file may not be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unlisted {
    /// It is not at any path that is listed.
    File,
    /// It is, and has another content.
    Content,
}

/// A digest. Prints as hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sha256(pub(crate) [u8; 32]);

impl Exec {
    /// Whether images are restricted.
    pub(crate) fn restricts_images(&self) -> bool {
        self.mode != ExecMode::Any
    }

    /// Whether anything is.
    fn restricts(&self) -> bool {
        self.restricts_images() || !self.files.is_empty()
    }

    /// Whether a file may be executed: `is_at` says whether it is the one at a path. If not, why.
    pub(crate) fn check(&self, is_at: impl Fn(&str) -> bool, content: Sha256) -> Result<(), Unlisted> {
        if !self.restricts_images() {
            return Ok(());
        }
        let mut at: Vec<&Image> = Vec::new();
        for image in &self.images {
            // Several stand for one path, where there are several digests: it is looked at once.
            if at.last().is_some_and(|last| last.path == image.path) || is_at(&image.path) {
                at.push(image);
            }
        }
        match at.iter().any(|image| image.sha256.is_none_or(|of| of == content)) {
            true => Ok(()),
            false if at.is_empty() => Err(Unlisted::File),
            false => Err(Unlisted::Content),
        }
    }

    /// What both allow.
    pub(super) fn intersect(&self, other: &Self) -> Self {
        let images = match (self.restricts_images(), other.restricts_images()) {
            (_, false) => self.images.clone(),
            (false, true) => other.images.clone(),
            (true, true) => {
                let meet = |image: &Image| self.images.iter().filter_map(|of| image.meet(of)).collect();
                let both = other.images.iter().flat_map(|image| -> Vec<Image> { meet(image) });
                without_copies(both)
            }
        };
        let strictest = [self, other].into_iter().filter(|exec| exec.restricts());
        Self {
            mode: self.mode.max(other.mode),
            on_mismatch: strictest.map(|exec| exec.on_mismatch).max().unwrap_or_default(),
            images,
            files: without_copies(other.files.iter().chain(&self.files).cloned()),
        }
    }

    /// The images that may be executed here and not there; nothing if everything may be.
    pub(super) fn images_beyond(&self, outer: &Self) -> Option<Vec<Image>> {
        if !outer.restricts_images() {
            return Some(Vec::new());
        }
        let is_listed = |image: &&Image| outer.images.iter().any(|of| image.is_part_of(of));
        let beyond = self.images.iter().filter(|image| !is_listed(image));
        self.restricts_images().then(|| beyond.cloned().collect())
    }

    /// The files that are looked at there and not here.
    pub(super) fn files_short_of(&self, outer: &Self) -> Vec<Image> {
        outer.files.iter().filter(|file| !self.files.contains(file)).cloned().collect()
    }

    /// Whether less becomes of what is not as it should be than `outer` wants.
    pub(super) fn is_milder_than(&self, outer: &Self) -> bool {
        outer.restricts() && self.on_mismatch < outer.on_mismatch
    }
}

impl Image {
    /// Whether whatever is this one is the other, too.
    fn is_part_of(&self, other: &Self) -> bool {
        self.path == other.path && (other.sha256.is_none() || self.sha256 == other.sha256)
    }

    /// What is both.
    fn meet(&self, other: &Self) -> Option<Self> {
        match (self.is_part_of(other), other.is_part_of(self)) {
            (true, _) => Some(self.clone()),
            (_, true) => Some(other.clone()),
            (false, false) => None,
        }
    }
}

fn without_copies(images: impl Iterator<Item = Image>) -> Vec<Image> {
    let mut kept: Vec<Image> = Vec::new();
    let mut known = std::collections::HashSet::new();
    kept.extend(images.filter(|image| known.insert(image.clone())));
    kept
}

impl ExecMode {
    pub(crate) const ALL: [Self; 3] = [Self::Any, Self::Listed, Self::Measured];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Listed => "listed",
            Self::Measured => "measured",
        }
    }
}

impl OnMismatch {
    pub(crate) const ALL: [Self; 3] = [Self::Audit, Self::DenyEgress, Self::Kill];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::DenyEgress => "deny-egress",
            Self::Kill => "kill",
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sha256 {
            None => f.write_str(&self.path),
            Some(digest) => write!(f, "{} ({digest})", self.path),
        }
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Sha256 {
    /// Reads 64 hexadecimal digits in lower case: one way to write each.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digit = |byte: &u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let digits: Option<Vec<u8>> = text.bytes().map(|byte| digit(&byte)).collect();
        let digits = digits.filter(|digits| digits.len() == 64)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = pair.first()? << 4 | pair.get(1)?;
        }
        Some(Self(bytes))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    pub(in super::super) const PATHS: [&str; 3] = ["/usr/bin/a", "/usr/bin/b c", "/it's"];

    pub(in super::super) fn image(digest: bool) -> impl Strategy<Value = Image> {
        let sha256 = (0u8..3).prop_map(move |byte| (digest || byte > 0).then_some(Sha256([byte; 32])));
        (select(PATHS.to_vec()), sha256).prop_map(|(path, sha256)| Image { path: path.to_owned(), sha256 })
    }

    /// As it could have been read.
    pub(in super::super) fn exec() -> impl Strategy<Value = Exec> {
        let images = |digest| prop::collection::vec(image(digest), 0..5);
        let mode = select(ExecMode::ALL.to_vec());
        let files = prop::collection::vec(image(true), 0..2);
        (mode, select(OnMismatch::ALL.to_vec()), images(false), images(true), files).prop_map(
            |(mode, on_mismatch, listed, measured, files)| {
                let images = match mode {
                    ExecMode::Any => Vec::new(),
                    ExecMode::Listed => listed,
                    ExecMode::Measured => measured,
                };
                let images = without_copies(images.into_iter());
                let exec = Exec { mode, on_mismatch, images, files: without_copies(files.into_iter()) };
                if exec.restricts() { exec } else { Exec::default() }
            },
        )
    }

    /// The slow and obvious way: whether a file at this path with this content may be executed.
    fn allows(exec: &Exec, path: &str, digest: Sha256) -> bool {
        let is_it = |image: &Image| image.path == path && image.sha256.is_none_or(|of| of == digest);
        exec.mode == ExecMode::Any || exec.images.iter().any(is_it)
    }

    fn is_within(inner: &Exec, outer: &Exec) -> bool {
        inner.images_beyond(outer).is_some_and(|beyond| beyond.is_empty())
            && inner.files_short_of(outer).is_empty()
            && !inner.is_milder_than(outer)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn both_allow_what_their_intersection_does(a in exec(), b in exec()) {
            let both = a.intersect(&b);
            for path in PATHS {
                for digest in (0..4).map(|byte| Sha256([byte; 32])) {
                    let expect = allows(&a, path, digest) && allows(&b, path, digest);
                    prop_assert_eq!(allows(&both, path, digest), expect);
                }
            }
            prop_assert!(is_within(&both, &a) && is_within(&both, &b));
            prop_assert!(both.mode != ExecMode::Measured || both.images.iter().all(|image| image.sha256.is_some()));
        }

        #[test]
        fn what_is_within_allows_no_more(inner in exec(), outer in exec()) {
            let more = PATHS.iter().any(|path| (0..4).any(|byte| {
                let digest = Sha256([byte; 32]);
                allows(&inner, path, digest) && !allows(&outer, path, digest)
            }));
            let beyond = inner.images_beyond(&outer);
            prop_assert_eq!(more, beyond.is_none_or(|beyond| !beyond.is_empty()) && more);
            if is_within(&inner, &outer) {
                prop_assert!(!more);
            }
        }

        #[test]
        fn digests_survive_a_round_trip(bytes in any::<[u8; 32]>()) {
            let digest = Sha256(bytes);
            prop_assert_eq!(Sha256::parse(&digest.to_string()), Some(digest));
        }
    }

    #[test]
    fn digests_have_one_spelling() {
        let good = "0".repeat(63) + "f";
        assert!(Sha256::parse(&good).is_some());
        for bad in ["", &good[1..], &good.to_uppercase(), &format!("{good}0"), &good.replace('f', "g")] {
            assert_eq!(Sha256::parse(bad), None, "{bad}");
        }
    }
}
