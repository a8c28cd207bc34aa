//! `enforcer daemon`.

use crate::{
    daemon,
    exit::{ExitStatus, Failure},
    settings::Settings,
};

pub(super) fn execute(settings: Settings) -> Result<ExitStatus, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(daemon::run(settings)).map_err(daemon::StartError::into_failure)?;
    Ok(ExitStatus::Ok)
}
