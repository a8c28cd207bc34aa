//! What a line says of a file that was looked at.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What a process executes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineImage {
    /// As the host sees it; a hint, where the process has a root directory or mounts of its own.
    pub(crate) path: Option<String>,
    /// The kernel's number of its file.
    pub(crate) inode: u64,
    /// Of a program; of a file that an envelope names, too.
    pub(crate) sha256: Option<String>,
    /// `listed`, `unlisted`, `waits` until it is measured, `unmeasured` so far, `lost` if it could not be told; of a file `as-named`,
    /// `other` or `unmeasured`.
    pub(crate) verdict: Cow<'static, str>,
    /// What becomes of what is not listed: `audit`, `deny-egress`, `kill`.
    pub(crate) on_mismatch: Cow<'static, str>,
    /// The program is the interpreter of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) script: Option<LineContent>,
    /// What loads the program, and is not held to the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) loader: Option<LineContent>,
}

/// A file and its content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineContent {
    pub(crate) path: String,
    pub(crate) sha256: Option<String>,
}
