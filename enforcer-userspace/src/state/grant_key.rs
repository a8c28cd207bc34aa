//! The key that signs what sessions are given: one file, for root alone. Whoever removes it has another one made at the next start; what the
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
pub(crate) fn grant_key(path: &Path) -> Result<SigningKey, AuthoritiesError> {
    let random = SystemRandom::new();
    let pem = match read_ours(path)? {
        Some(pem) => pem,
        None => {
            let made = SigningKey::generate(&random).map_err(|_| StateError::Random)?;
            replace(path, made.as_bytes())?;
            made.into_bytes()
        }
    };
    SigningKey::from_pem(&pem, &random).map_err(|_| torn(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[test]
    fn it_is_made_once_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants.key");
        let made = grant_key(&path).unwrap().trust_key().id();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(grant_key(&path).unwrap().trust_key().id(), made);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(grant_key(&path), Err(AuthoritiesError::Open { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "torn").unwrap();
        assert!(matches!(grant_key(&path), Err(AuthoritiesError::Format { .. })));
    }
}
