//! The change of the key that signs.

use std::{fs, sync::Arc};

use super::{
    super::{replace, sync_dir},
    AuditError, pack,
    writer::Writer,
};
use crate::{
    audit::{KeyStatement, Kind},
    path_error::PathError,
    signature::SigningKey,
};

impl Writer<'_> {
    /// Another key signs from now on, and the one before says so. A daemon that is ended in between finds both, and the log says which.
    pub(super) fn rotate(&mut self) -> Result<String, AuditError> {
        let pem = SigningKey::generate(&self.random)?;
        let key = SigningKey::from_pem(pem.as_bytes(), &self.random)?;
        let public = key.trust_key();
        let (next, path) = (self.dir.next_key_path(), self.dir.key_path());
        replace(&next, pem.as_bytes())?;
        let ids = [self.key_id(), public.id().to_string()];
        let mut state = self.place.state.clone();
        let statement =
            KeyStatement::new(state.log, state.sequence + 1, ids, public.to_pem(), &self.moment());
        let statement = serde_json::to_string(&statement).expect("it holds only text and numbers");
        let signed = serde_json::to_vec(&self.sign(statement)?).expect("it holds only text");
        let mut out = Vec::new();
        state.append(Kind::KeyChanged, &signed, &mut out);
        if let Err(error) = self.commit(state, &out) {
            pack::remove(&next)?;
            return Err(error);
        }
        self.key = Arc::new(key);
        self.synced = false;
        self.sync()?;
        fs::rename(&next, &path).map_err(PathError::at("rename", &next))?;
        sync_dir(path.parent().unwrap_or(&path)).map_err(PathError::at("write", &path))?;
        self.checkpoint()?;
        self.publish()?;
        Ok(public.id().to_string())
    }
}
