//! Where the running kernel keeps the fields that the programs read, from its own BTF.

use std::path::Path;

use btf_rs::{Btf, Member, Type};
use enforcer_common::config::Offsets;

/// The running kernel's type information.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why an offset is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OffsetError {
    #[error("read the kernel's type information at `{KERNEL_BTF}`")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the kernel's type information has no `{structure}.{field}`")]
    Missing { structure: &'static str, field: &'static str },
}

/// Finds every offset, or says which one the kernel does not have.
pub(crate) fn kernel_offsets() -> Result<Offsets, OffsetError> {
    let btf = Btf::from_file(Path::new(KERNEL_BTF)).map_err(|error| OffsetError::Read(error.into()))?;
    let find = |structure, field| offset(&btf, structure, field);
    Ok(Offsets {
        task_pid: find("task_struct", "pid")?,
        task_tgid: find("task_struct", "tgid")?,
        task_group_leader: find("task_struct", "group_leader")?,
        task_start_boottime: find("task_struct", "start_boottime")?,
        task_signal: find("task_struct", "signal")?,
        task_exit_code: find("task_struct", "exit_code")?,
        task_comm: find("task_struct", "comm")?,
        // `live` is an `atomic_t`, whose counter is its only field.
        signal_live: find("signal_struct", "live")?,
        binprm_filename: find("linux_binprm", "filename")?,
        pad: 0,
    })
}

/// The offset of a field in bytes, also of one inside anonymous structures and unions (`task_struct` has such a part
/// where its layout is randomised).
fn offset(btf: &Btf, structure: &'static str, field: &'static str) -> Result<u32, OffsetError> {
    let types = btf.resolve_types_by_name(structure).map_err(|error| OffsetError::Read(error.into()))?;
    types
        .into_iter()
        .find_map(|ty| match ty {
            Type::Struct(found) => bits_of(btf, &found.members, field),
            _ => None,
        })
        .filter(|bits| bits % 8 == 0)
        .map(|bits| bits / 8)
        .ok_or(OffsetError::Missing { structure, field })
}

fn bits_of(btf: &Btf, members: &[Member], field: &str) -> Option<u32> {
    members.iter().find_map(|member| {
        // An anonymous member has no name to resolve.
        let name = btf.resolve_name(member).unwrap_or_default();
        if name == field {
            return Some(member.bit_offset());
        }
        if !name.is_empty() {
            return None;
        }
        match btf.resolve_chained_type(member).ok()? {
            Type::Struct(inner) | Type::Union(inner) => {
                Some(member.bit_offset() + bits_of(btf, &inner.members, field)?)
            }
            _ => None,
        }
    })
}
