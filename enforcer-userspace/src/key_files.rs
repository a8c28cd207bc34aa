//! Files of keys, and of signatures beside what they sign. No key and no signature is ever written half, and no key over
//! another file.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ring::rand::SystemRandom;

use crate::{
    path_error::PathError,
    signature::{KeyError, KeyId, MAX_SIGNATURE_BYTES, SigningKey, TrustKey, TrustKeys},
};

/// What `keygen` calls a key in a directory.
const KEY_NAME: &str = "envelope.key";
/// Far more than a key takes.
const MAX_KEY_BYTES: u64 = 16 << 10;

/// Why a key was not read or made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    #[error(transparent)]
    Io(#[from] PathError),
    #[error("read the key `{}`", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
    #[error("`{}` is there already", path.display())]
    Exists { path: PathBuf },
    #[error("make a key")]
    Make(#[source] KeyError),
    #[error("sign `{}`", path.display())]
    Sign {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
}

/// A key that was made.
#[derive(Debug)]
pub(crate) struct NewKey {
    pub(crate) id: KeyId,
    pub(crate) private: PathBuf,
    pub(crate) public: PathBuf,
}

/// Makes a key: the private half for the user alone, the public half beside it.
pub(crate) fn create(out: &Path) -> Result<NewKey, KeyFileError> {
    let private = if out.is_dir() { out.join(KEY_NAME) } else { out.to_owned() };
    let public = with_suffix(&private, ".pub");
    let random = SystemRandom::new();
    let pem = SigningKey::generate(&random).map_err(KeyFileError::Make)?;
    let key = SigningKey::from_pem(pem.as_bytes(), &random).map_err(KeyFileError::Make)?.trust_key();
    create_new(&private, pem.as_bytes(), 0o600)?;
    if let Err(error) = create_new(&public, key.to_pem().as_bytes(), 0o644) {
        // Half a pair is of no use, and would be in the way of the next attempt.
        fs::remove_file(&private).map_err(PathError::at("remove", &private))?;
        return Err(error);
    }
    Ok(NewKey { id: key.id(), private, public })
}

/// A key that signs.
pub(crate) fn signing_key(path: &Path) -> Result<SigningKey, KeyFileError> {
    let pem = read(path, MAX_KEY_BYTES)?;
    SigningKey::from_pem(&pem, &SystemRandom::new())
        .map_err(|source| KeyFileError::Key { path: path.to_owned(), source })
}

/// The keys in these files; any that is none is an error.
pub(crate) fn trust_keys(paths: &[PathBuf]) -> Result<TrustKeys, KeyFileError> {
    Ok(TrustKeys::new(paths.iter().map(|path| trust_key(path)).collect::<Result<Vec<_>, _>>()?))
}

/// The public half of a key.
pub(crate) fn trust_key(path: &Path) -> Result<TrustKey, KeyFileError> {
    let pem = read(path, MAX_KEY_BYTES)?;
    TrustKey::from_pem(&pem, &SystemRandom::new())
        .map_err(|source| KeyFileError::Key { path: path.to_owned(), source })
}

/// Signs what a file holds, and writes the signature beside it, in the place of an earlier one. Returns its path.
pub(crate) fn sign(key: &SigningKey, path: &Path, text: &[u8]) -> Result<PathBuf, KeyFileError> {
    let signature = key
        .sign(text, &SystemRandom::new())
        .map_err(|source| KeyFileError::Sign { path: path.to_owned(), source })?;
    let beside = signature_path(path);
    let temporary = with_suffix(&beside, &format!(".{}.tmp", std::process::id()));
    create_new(&temporary, format!("{signature}\n").as_bytes(), 0o644)?;
    if let Err(error) = fs::rename(&temporary, &beside) {
        fs::remove_file(&temporary).map_err(PathError::at("remove", &temporary))?;
        return Err(PathError::at("write", &beside)(error).into());
    }
    Ok(beside)
}

/// Where the signature of a file is.
pub(crate) fn signature_path(signed: &Path) -> PathBuf {
    with_suffix(signed, ".sig")
}

/// The signature beside a file, if there is one. Whether it is one is for others to say; of what is too long to be one,
/// enough is read to see that.
pub(crate) fn signature_of(signed: &Path) -> Result<Option<String>, PathError> {
    match read(&signature_path(signed), MAX_SIGNATURE_BYTES as u64 + 1) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, PathError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(PathError::at("open", path))?;
    file.take(limit).read_to_end(&mut bytes).map_err(PathError::at("read", path))?;
    Ok(bytes)
}

/// A new file, on disk when this returns. What cannot be written whole is not left.
fn create_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyFileError> {
    let mut file = match File::options().write(true).create_new(true).mode(mode).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(KeyFileError::Exists { path: path.to_owned() });
        }
        Err(error) => return Err(PathError::at("create", path)(error).into()),
    };
    if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
        fs::remove_file(path).map_err(PathError::at("remove", path))?;
        return Err(PathError::at("write", path)(error).into());
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_for_its_user_alone_and_over_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let made = create(dir.path()).unwrap();
        assert_eq!(made.private, dir.path().join("envelope.key"));
        assert_eq!(made.public, dir.path().join("envelope.key.pub"));
        assert_eq!(fs::metadata(&made.private).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read(&made.private).unwrap();
        assert!(matches!(create(dir.path()), Err(KeyFileError::Exists { .. })));
        assert_eq!(fs::read(&made.private).unwrap(), before);

        let other = dir.path().join("other");
        fs::write(with_suffix(&other, ".pub"), "mine").unwrap();
        assert!(matches!(create(&other), Err(KeyFileError::Exists { path }) if path.ends_with("other.pub")));
        assert!(!other.exists(), "no half of a pair is left");

        let trusted = trust_keys(&[made.public.clone(), made.public]).unwrap();
        assert_eq!(trusted.ids().collect::<Vec<_>>(), [made.id]);
        let error = trust_keys(&[made.private]).unwrap_err();
        assert!(crate::exit::one_line(&error).ends_with("a `PRIVATE KEY` where a `PUBLIC KEY` is needed"));
    }

    #[test]
    fn a_signature_takes_the_place_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let key = signing_key(&create(dir.path()).unwrap().private).unwrap();
        let file = dir.path().join("envelope.yaml");
        assert_eq!(signature_of(&file).unwrap(), None);
        assert_eq!(sign(&key, &file, b"one").unwrap(), dir.path().join("envelope.yaml.sig"));
        let first = signature_of(&file).unwrap().unwrap();
        sign(&key, &file, b"two").unwrap();
        assert_ne!(signature_of(&file).unwrap().unwrap(), first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "no temporary file is left");
        fs::write(signature_path(&file), "x".repeat(1 << 20)).unwrap();
        assert_eq!(signature_of(&file).unwrap().unwrap().len(), MAX_SIGNATURE_BYTES + 1);
    }
}
