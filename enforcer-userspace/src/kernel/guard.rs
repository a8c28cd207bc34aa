//! The guard's programs (BPF LSM): attaching them where the kernel runs them, and finding out whether it does.
//!
//! They are apart from the others because they may be absent: a host without them runs sessions all the same, and says so. Where
//! they were put in place they are promises like the others.

use std::{fs::File, path::Path};

use aya::EbpfLoader;
use aya::maps::{Array, MapData};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use enforcer_common::{config::Config, guard::Canary};

use super::{
    attach::{Hook, Kind},
    maps::{self, access, open},
    object::{KernelError, OBJECT, read_btf},
    pins::Pins,
};
use crate::exit::one_line;

const fn lsm(hook: &'static str, program: &'static str, covers: &'static str) -> Hook {
    // The name behind `lsm/`.
    let (_, name) = hook.split_at("lsm/".len());
    Hook { hook, program, covers, kind: Kind::Lsm(name) }
}

/// Every hook of the guard.
pub(crate) const GUARD: &[Hook] = &[
    lsm("lsm/bpf", "guard_bpf", "no programs, maps or links are changed"),
    lsm("lsm/ptrace_access_check", "guard_ptrace", "no processes outside are looked into or written to"),
    lsm("lsm/task_kill", "guard_signal", "no processes outside are sent signals"),
    lsm("lsm/socket_create", "guard_socket", "no AF_PACKET, AF_VSOCK, AF_ALG and other families"),
    lsm("lsm/socket_sendmsg", "guard_send", "sockets of others are held to the envelope at their first use"),
    lsm("lsm/file_permission", "guard_write", "likewise by write, sendfile, splice"),
    lsm("lsm/file_receive", "guard_receive", "no network sockets, rings, programs of others are received"),
    lsm("lsm/unix_stream_connect", "guard_connect", "connections to Unix sockets"),
    lsm("lsm/unix_may_send", "guard_dgram", "datagrams to Unix sockets"),
    lsm("lsm/file_open", "guard_open", "no writing to sysctls, sysfs, cgroups, pins; no TUN, no raw memory"),
    lsm("lsm/inode_unlink", "guard_unlink", "no pins are removed"),
    lsm("lsm/inode_rmdir", "guard_rmdir", "likewise directories of them, and cgroups"),
    lsm("lsm/inode_rename", "guard_rename", "no pins are renamed"),
    lsm("lsm/sb_mount", "guard_mount", "nothing is mounted over anything"),
    lsm("lsm/sb_umount", "guard_umount", "nothing is unmounted"),
    lsm("lsm/move_mount", "guard_mvmount", "likewise by move_mount"),
    lsm("lsm/sb_pivotroot", "guard_pivot", "likewise by pivot_root"),
    lsm("lsm/fs_context_parse_param", "guard_fsparam", "no file system speaks to a server"),
    lsm("lsm/perf_event_open", "guard_perf", "no probes"),
    lsm("lsm/kernel_module_request", "guard_modreq", "no modules are loaded on request"),
    lsm("lsm/kernel_read_file", "guard_readfile", "no modules, no other kernel"),
    lsm("lsm/kernel_load_data", "guard_loaddata", "likewise from memory"),
    lsm("lsm/tun_dev_create", "guard_tun", "no TUN devices"),
    lsm("lsm/locked_down", "guard_lockdown", "no ports, registers, kernel memory, debugfs"),
];

/// Why there is no guard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Absence {
    /// As the host says, without a try.
    #[error("{0}")]
    Host(String),
    #[error("the kernel refuses its programs: {0}")]
    Refused(String),
    /// They load, they attach, and they do not run.
    #[error("its programs were attached and did not run")]
    Broken,
}

impl Absence {
    /// Whether something is wrong with the host, and not only missing.
    pub(crate) const fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
    }
}

/// The guard of a kernel that is up.
pub(crate) enum Guard {
    /// In place, and seen to run. The links are open beside their pins.
    Active(Vec<FdLink>),
    Absent(Absence),
}

impl Guard {
    /// `active`: in place, and seen to run; `absent`; `broken`: its programs were attached and did not run.
    pub(crate) const fn state(&self) -> &'static str {
        match self {
            Self::Active(_) => "active",
            Self::Absent(absence) if absence.is_broken() => "broken",
            Self::Absent(_) => "absent",
        }
    }

    /// Takes over the guard that is pinned, if it is of this build (`is_current`), or attaches one. `host` says what stands against
    /// that, as far as can be told without a try. An error is one that leaves an earlier guard in place, which stays.
    pub(super) fn start(
        pins: &Pins,
        cgroup_root: &File,
        config: &Config,
        host: Result<(), &str>,
        is_current: bool,
    ) -> Result<Self, KernelError> {
        if let Err(why) = host {
            return Ok(Self::Absent(Absence::Host(why.to_owned())));
        }
        if is_current
            && let Ok(links) = open_links(pins)
            && runs(pins)?
        {
            return Ok(Self::Active(links));
        }
        let had_one = pins.guard().exists();
        let attached = attach(pins, cgroup_root, config);
        let runs = attached.is_ok() && runs(pins)?;
        match attached {
            Ok(()) if runs => {
                pins.replace_guard()?;
                Ok(Self::Active(open_links(pins)?))
            }
            Err(error) if had_one => {
                pins.remove_new_guard()?;
                Err(error)
            }
            attached => {
                pins.remove_new_guard()?;
                Ok(Self::Absent(match attached {
                    Ok(()) => Absence::Broken,
                    Err(error) => Absence::Refused(without_log(&one_line(&error))),
                }))
            }
        }
    }

    pub(crate) const fn is_active(&self) -> bool {
        matches!(self, Self::Active(_))
    }

    /// Why there is none.
    pub(crate) const fn absence(&self) -> Option<&Absence> {
        match self {
            Self::Active(_) => None,
            Self::Absent(absence) => Some(absence),
        }
    }

    /// Opens the links again, or lets go of them: see [`super::Kernel`].
    pub(super) fn hold(&mut self, pins: &Pins) -> Result<(), KernelError> {
        if let Self::Active(links) = self {
            *links = open_links(pins)?;
        }
        Ok(())
    }

    pub(super) fn let_go(&mut self) {
        if let Self::Active(links) = self {
            links.clear();
        }
    }
}

/// An error without the heading of the verifier's log, which is empty where the kernel did not look at the program.
fn without_log(error: &str) -> String {
    error.trim_end_matches(". Verifier output:").to_owned()
}

/// Loads and attaches every program, on the maps that are pinned; all or, if this fails, some.
fn attach(pins: &Pins, cgroup_root: &File, config: &Config) -> Result<(), KernelError> {
    let btf = read_btf()?;
    let mut loader = EbpfLoader::new();
    loader.override_global("CONFIG", config, true);
    for name in maps::NAMES {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut object = loader.load(OBJECT).map_err(|error| KernelError::Object(Box::new(error)))?;
    for hook in GUARD {
        hook.load(&mut object, &btf)?;
    }
    let dir = pins.new_guard();
    std::fs::create_dir(&dir).map_err(|source| KernelError::Open { path: dir.clone(), source })?;
    for hook in GUARD {
        // The pin holds the link from here on.
        drop(hook.attach(&mut object, cgroup_root, &dir.join(hook.program))?);
    }
    Ok(())
}

/// Whether the kernel runs the guard's programs: the one for `bpf()` counts our calls while we ask it to.
///
/// All of them or none: the list of security modules is one (v6.1/security/security.c, call_int_hook).
fn runs(pins: &Pins) -> Result<bool, KernelError> {
    let mut canary: Array<MapData, Canary> = open(pins, "CANARY")?;
    let mut set = |canary_value| canary.set(0, canary_value, 0).map_err(access("write", "CANARY"));
    set(Canary { tgid: std::process::id(), ..Canary::NONE })?;
    // To read it is a call of `bpf()`, and counted before it is carried out.
    let counted = open::<Array<MapData, Canary>>(pins, "CANARY")
        .and_then(|canary| canary.get(&0, 0).map_err(access("read", "CANARY")));
    set(Canary::NONE)?;
    Ok(counted?.hits > 0)
}

fn open_links(pins: &Pins) -> Result<Vec<FdLink>, KernelError> {
    GUARD.iter().map(|hook| open_link(&pins.guard_link(hook.program))).collect()
}

fn open_link(path: &Path) -> Result<FdLink, KernelError> {
    let link = PinnedLink::from_pin(path).map(FdLink::from);
    link.map_err(|source: LinkError| KernelError::Link { path: path.to_owned(), source: Box::new(source) })
}
