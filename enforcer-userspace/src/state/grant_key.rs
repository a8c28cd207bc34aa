//! A key that the daemon signs with, what sessions are given or its audit log: one file, for root alone. Whoever removes it has another one made at the next start; what the
//! first one signed of sessions that run is stated again.

use std::path::Path;

use ring::rand::SystemRandom;

use super::{
    AuthoritiesError, StateError,
    authorities::{read_ours, torn},
    replace,
};
use crate::signature::SigningKey;

/// The key in this file, made if there is none. One that cannot be used is an error.
pub(crate) fn own_key(path: &Path) -> Result<SigningKey, AuthoritiesError> {
    if let Some(key) = existing_key(path)? {
        return Ok(key);
    }
    let random = SystemRandom::new();
    let made = SigningKey::generate(&random).map_err(|_| StateError::Random)?;
    replace(path, made.as_bytes())?;
    SigningKey::from_pem(made.as_bytes(), &random).map_err(|_| torn(path))
}

/// The key in this file, if there is one.
pub(crate) fn existing_key(path: &Path) -> Result<Option<SigningKey>, AuthoritiesError> {
    let pem = read_ours(path)?;
    let key = pem.map(|pem| SigningKey::from_pem(&pem, &SystemRandom::new()).map_err(|_| torn(path)));
    key.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[test]
    fn it_is_made_once_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants.key");
        let made = own_key(&path).unwrap().trust_key().id();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(own_key(&path).unwrap().trust_key().id(), made);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(own_key(&path), Err(AuthoritiesError::Open { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "torn").unwrap();
        assert!(matches!(own_key(&path), Err(AuthoritiesError::Format { .. })));
    }
}
