//! The authorities that sign credentials: one file each, for root alone, and beside them the trust domain that is in use. A
//! file that is not whole, or that others can get at, is never used and never taken for one that is not there.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use pem_rfc7468::LineEnding;
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};

use super::{StateError, make_dir, replace};
use crate::{
    credentials::{Authority, AuthorityError, Stored, TrustDomain},
    path_error::PathError,
};

/// The version of the files.
const VERSION: u32 = 1;
const EXTENSION: &str = "json";
/// Which trust domain is in use. The authorities do not tell: those of an earlier setting are kept, and may be the newer ones.
const DOMAIN_FILE: &str = "trust-domain";
/// Far more than an authority takes.
const MAX_FILE_BYTES: u64 = 64 << 10;
const KEY_LABEL: &str = "PRIVATE KEY";
const CERTIFICATE_LABEL: &str = "CERTIFICATE";

/// Why the authorities cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthoritiesError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("`{}` is not a {expected}", path.display())]
    Kind { path: PathBuf, expected: &'static str },
    #[error("`{}` belongs to user {owner}", path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("`{}` is open to others than its owner: its mode is {mode:o}", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("`{}` is torn, or not a file of keys", path.display())]
    Format {
        path: PathBuf,
        #[source]
        source: Option<serde_json::Error>,
    },
    #[error("`{}` is a file of version {found}, not {VERSION}", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("`{}` holds no authority", path.display())]
    Authority {
        path: PathBuf,
        #[source]
        source: AuthorityError,
    },
    #[error("`{}` is torn, or holds no trust domain", path.display())]
    Domain { path: PathBuf },
    #[error("`{}` holds the authority `{found}`", path.display())]
    Name { path: PathBuf, found: String },
}

/// An authority as it is written down. Certificates and keys are PEM.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityFile {
    version: u32,
    trust_domain: String,
    /// Unix time.
    made_s: i64,
    certificate: String,
    certificate_key: String,
    jwt_key: String,
    wit_key: String,
}

/// The directory of the files.
#[derive(Debug)]
pub(crate) struct AuthorityFiles {
    dir: PathBuf,
}

impl AuthorityFiles {
    /// Makes the directory, for root alone.
    pub(crate) fn open(dir: &Path) -> Result<Self, AuthoritiesError> {
        make_dir(dir)?;
        let metadata = fs::symlink_metadata(dir).map_err(io("look at", dir))?;
        require_ours(dir, &metadata, metadata.is_dir(), "directory")?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The trust domain that was in use last; nothing before there was one.
    pub(crate) fn trust_domain(&self) -> Result<Option<TrustDomain>, AuthoritiesError> {
        let path = self.dir.join(DOMAIN_FILE);
        let Some(text) = read_ours(&path)? else { return Ok(None) };
        let domain = str::from_utf8(&text).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
        domain.map(Some).ok_or(AuthoritiesError::Domain { path })
    }

    /// Writes down which trust domain is in use; it is on disk when this returns.
    pub(crate) fn save_trust_domain(&self, domain: &TrustDomain) -> Result<(), AuthoritiesError> {
        Ok(replace(&self.dir.join(DOMAIN_FILE), format!("{domain}\n").as_bytes())?)
    }

    /// Every authority there is; one that cannot be used is an error.
    pub(crate) fn load(&self) -> Result<Vec<Authority>, AuthoritiesError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io("read", &self.dir))? {
            let path = entry.map_err(io("read", &self.dir))?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                found.push(load(&path)?);
            } else if path.file_name().is_none_or(|name| name != DOMAIN_FILE) {
                // What a write that was cut short left: nobody was told of it.
                fs::remove_file(&path).map_err(io("remove", &path))?;
            }
        }
        Ok(found)
    }

    /// Writes an authority down; it is on disk when this returns.
    pub(crate) fn save(&self, authority: &Authority) -> Result<(), AuthoritiesError> {
        let stored = authority.stored();
        let file = AuthorityFile {
            version: VERSION,
            trust_domain: stored.trust_domain,
            made_s: stored.made_s,
            certificate: encode(CERTIFICATE_LABEL, &stored.certificate),
            certificate_key: encode(KEY_LABEL, &stored.certificate_key),
            jwt_key: encode(KEY_LABEL, &stored.jwt_key),
            wit_key: encode(KEY_LABEL, &stored.wit_key),
        };
        let text = serde_json::to_vec_pretty(&file).expect("an authority's file holds only text and numbers");
        Ok(replace(&self.path(&authority.id()), &text)?)
    }

    /// Forgets an authority and its keys.
    pub(crate) fn remove(&self, id: &str) -> Result<(), AuthoritiesError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(id).with_extension(EXTENSION)
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthoritiesError {
    let at = PathError::at(action, path);
    move |error| StateError::from(at(error)).into()
}

/// What is in a file of ours; nothing if there is none. Looked at through the descriptor that it is then read by, so that nobody changes it
/// in between.
pub(super) fn read_ours(path: &Path) -> Result<Option<Vec<u8>>, AuthoritiesError> {
    let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io("open", path))?,
    };
    let metadata = file.metadata().map_err(io("look at", path))?;
    require_ours(path, &metadata, metadata.is_file(), "file")?;
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(io("read", path))?;
    Ok(Some(text))
}

/// That a file is not what it should be.
pub(super) fn torn(path: &Path) -> AuthoritiesError {
    AuthoritiesError::Format { path: path.to_owned(), source: None }
}

fn load(path: &Path) -> Result<Authority, AuthoritiesError> {
    let text = read_ours(path)?.ok_or_else(|| torn(path))?;
    let torn = |source| AuthoritiesError::Format { path: path.to_owned(), source };
    let file: AuthorityFile = serde_json::from_slice(&text).map_err(|source| torn(Some(source)))?;
    if file.version != VERSION {
        return Err(AuthoritiesError::Version { path: path.to_owned(), found: file.version });
    }
    let key = |pem: &str| decode(KEY_LABEL, pem).ok_or_else(|| torn(None));
    let stored = Stored {
        made_s: file.made_s,
        certificate: decode(CERTIFICATE_LABEL, &file.certificate).ok_or_else(|| torn(None))?,
        certificate_key: key(&file.certificate_key)?,
        jwt_key: key(&file.jwt_key)?,
        wit_key: key(&file.wit_key)?,
        trust_domain: file.trust_domain,
    };
    let authority = Authority::restore(stored, &SystemRandom::new())
        .map_err(|source| AuthoritiesError::Authority { path: path.to_owned(), source })?;
    let id = authority.id();
    if path.file_stem().is_some_and(|name| name == id.as_str()) {
        Ok(authority)
    } else {
        Err(AuthoritiesError::Name { path: path.to_owned(), found: id })
    }
}

/// Keys are used only from where nobody else could put them, and nobody else could read them.
fn require_ours(
    path: &Path,
    metadata: &fs::Metadata,
    is_kind: bool,
    expected: &'static str,
) -> Result<(), AuthoritiesError> {
    let path = path.to_owned();
    let mode = metadata.mode() & 0o7777;
    if !is_kind {
        Err(AuthoritiesError::Kind { path, expected })
    } else if metadata.uid() != nix::unistd::geteuid().as_raw() {
        Err(AuthoritiesError::Owner { path, owner: metadata.uid() })
    } else if mode & 0o077 != 0 {
        Err(AuthoritiesError::Open { path, mode })
    } else {
        Ok(())
    }
}

fn encode(label: &str, der: &[u8]) -> String {
    pem_rfc7468::encode_string(label, LineEnding::LF, der)
        .expect("a key is far smaller than an address space")
}

fn decode(expected: &str, pem: &str) -> Option<Vec<u8>> {
    let (label, der) = pem_rfc7468::decode_vec(pem.as_bytes()).ok()?;
    (label == expected).then_some(der)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn made() -> Authority {
        Authority::generate(&"example.org".parse().unwrap(), 1_700_000_000, &SystemRandom::new()).unwrap()
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn an_authority_is_kept_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("authorities");
        let files = AuthorityFiles::open(&place).unwrap();
        let authority = made();
        files.save(&authority).unwrap();
        let path = files.path(&authority.id());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o700);
        // What a crash leaves is no authority.
        fs::write(path.with_extension("tmp"), "{").unwrap();
        let found = AuthorityFiles::open(&place).unwrap().load().unwrap();
        let [found] = &found[..] else { panic!("{found:?}") };
        assert_eq!((found.id(), found.made_s()), (authority.id(), authority.made_s()));
        assert_eq!(found.certificate(), authority.certificate());
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        files.remove(&found.id()).unwrap();
        files.remove(&found.id()).unwrap();
        assert!(files.load().unwrap().is_empty());
    }

    #[test]
    fn the_trust_domain_in_use_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let files = AuthorityFiles::open(&dir.path().join("authorities")).unwrap();
        assert_eq!(files.trust_domain().unwrap(), None);
        let domain = "example.org".parse().unwrap();
        files.save_trust_domain(&domain).unwrap();
        assert!(files.load().unwrap().is_empty(), "it is no authority");
        assert_eq!(files.trust_domain().unwrap(), Some(domain));
        let path = files.dir.join(DOMAIN_FILE);
        for text in ["", "\n", "example.or", "Example.org\n", "example.org\n\n", "\0\0"] {
            fs::write(&path, text).unwrap();
            assert!(matches!(files.trust_domain(), Err(AuthoritiesError::Domain { .. })), "{text:?}");
        }
        set_mode(&path, 0o640);
        assert!(matches!(files.trust_domain(), Err(AuthoritiesError::Open { .. })));
    }

    #[test]
    fn what_others_can_get_at_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("authorities");
        let files = AuthorityFiles::open(&place).unwrap();
        let authority = made();
        files.save(&authority).unwrap();
        let path = files.path(&authority.id());
        for mode in [0o640, 0o604, 0o666, 0o610] {
            set_mode(&path, mode);
            assert!(matches!(files.load(), Err(AuthoritiesError::Open { .. })), "{mode:o}");
        }
        set_mode(&path, 0o600);
        for mode in [0o750, 0o701, 0o777] {
            set_mode(&place, mode);
            assert!(matches!(AuthorityFiles::open(&place), Err(AuthoritiesError::Open { .. })), "{mode:o}");
        }
        set_mode(&place, 0o700);
        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(files.load().is_err(), "a link");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(files.load(), Err(AuthoritiesError::Kind { .. })), "a directory");
        fs::remove_dir(&path).unwrap();
        if nix::unistd::geteuid().is_root() {
            fs::rename(&elsewhere, &path).unwrap();
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(matches!(files.load(), Err(AuthoritiesError::Owner { owner: 65534, .. })));
        }
    }

    #[test]
    fn a_torn_or_altered_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let files = AuthorityFiles::open(&dir.path().join("authorities")).unwrap();
        let authority = made();
        files.save(&authority).unwrap();
        let path = files.path(&authority.id());
        let whole = fs::read_to_string(&path).unwrap();
        let other = made();
        files.save(&other).unwrap();
        let others = fs::read_to_string(files.path(&other.id())).unwrap();
        files.remove(&other.id()).unwrap();
        let refused = |text: &str, what: &str| {
            fs::write(&path, text).unwrap();
            let error = files.load().expect_err(what);
            assert!(error.to_string().contains(&path.display().to_string()), "{what}: {error}");
        };
        for end in [0, 1, 100, whole.len() / 2, whole.len() - 2] {
            refused(&whole[..end], &format!("{end} bytes of it"));
        }
        refused(&"\0".repeat(whole.len()), "zeros");
        refused(&whole.replace("\"version\": 1", "\"version\": 2"), "another version");
        refused(&whole.replace("\"made_s\"", "\"more\": 1, \"made_s\""), "a field that is not known");
        refused(&whole.replace("example.org", "Example"), "no trust domain");
        refused(&others, "another authority's file under this name");
        // One field of another authority's file: a key without its certificate, a certificate without its key.
        let field = |text: &str, name: &str| {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            value[name].to_string()
        };
        for name in ["certificate", "certificate_key"] {
            refused(&whole.replace(&field(&whole, name), &field(&others, name)), name);
        }
        // One bit of the certificate.
        let pem = field(&whole, "certificate");
        let damaged = pem.replacen('M', "N", 2);
        assert_ne!(damaged, pem);
        refused(&whole.replace(&pem, &damaged), "a damaged certificate");
        fs::write(&path, &whole).unwrap();
        assert_eq!(files.load().unwrap().len(), 1, "control");
    }
}
