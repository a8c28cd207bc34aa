//! The kernel boundary: the only code that names aya. Loads the programs or adopts those that are pinned, and gives typed
//! access to their maps.
//!
//! Pins, below the pin directory: `maps/<NAME>` for every map, `links/<program>` for every attached program, `guard/<program>` for
//! the guard's, where there is one. They outlive the daemon, and with them enforcement; only [`teardown`] removes them.

mod attach;
mod control;
mod digest;
mod flows;
mod guard;
mod images;
mod maps;
mod object;
mod offsets;
mod pins;
mod probe;
mod program_times;
mod ring;
mod ring_fill;
mod rules;
mod tagger;

pub(crate) use attach::{Coverage, HOOKS};
pub(crate) use guard::{Absence, Guard};
pub(crate) use images::ImageMaps;
pub(crate) use maps::MapsError;
pub(crate) use object::{Kernel, KernelError, remove_pins};
pub(crate) use offsets::{OffsetError, guard_offsets, kernel_offsets};
pub(crate) use pins::{PinError, Pins};
pub(crate) use probe::{probe_guard, probe_programs};
pub(crate) use ring::Ring;
pub(crate) use tagger::{Tagger, Tags};
