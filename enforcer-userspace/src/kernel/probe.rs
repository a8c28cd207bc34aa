//! Which programs this kernel accepts, without attaching one: what `doctor` reports.

use aya::EbpfLoader;
use enforcer_common::config::Config;

use super::{
    attach::{HOOKS, Hook},
    guard::GUARD,
    object::{KernelError, OBJECT, read_btf},
};
use crate::exit::one_line;

/// A hook, and why this kernel refuses its program if it does.
pub(crate) type Probed = (&'static Hook, Option<String>);

/// Verifies every program that a daemon does not start without.
pub(crate) fn probe_programs(config: &Config) -> Result<Vec<Probed>, KernelError> {
    probe(HOOKS, config)
}

/// Likewise the guard's.
pub(crate) fn probe_guard(config: &Config) -> Result<Vec<Probed>, KernelError> {
    probe(GUARD, config)
}

fn probe(hooks: &'static [Hook], config: &Config) -> Result<Vec<Probed>, KernelError> {
    let btf = read_btf()?;
    let mut object = EbpfLoader::new()
        .override_global("CONFIG", config, true)
        .load(OBJECT)
        .map_err(|error| KernelError::Object(Box::new(error)))?;
    let mut refused = |hook: &'static Hook| {
        let error = hook.load(&mut object, &btf).err()?;
        // What the verifier says is many lines long.
        let said = std::error::Error::source(&error).map_or_else(String::new, |source| source.to_string());
        Some(format!("{}\n{said}", one_line(&error)))
    };
    Ok(hooks.iter().map(|hook| (hook, refused(hook))).collect())
}
