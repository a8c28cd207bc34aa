//! Loading the object, adopting what is pinned, replacing programs of an earlier build, and taking everything away.

use std::{
    fs::File,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    pin::PinError as AyaPinError,
    programs::{
        ProgramError,
        links::{FdLink, LinkError, PinnedLink},
        loaded_programs,
    },
};
use enforcer_common::{
    ABI_VERSION,
    config::{Config, Meta},
};

use crate::exit::one_line;

use super::{
    attach::{Coverage, HOOKS, Linked},
    digest,
    flows::FlowMaps,
    guard::{GUARD, Guard},
    images::ImageMaps,
    maps::{self, MapsError, SessionMaps},
    pins::{PinError, Pins},
    ring::Ring,
    ring_fill::RingFill,
    rules::RuleMaps,
    tagger::Tagger,
};

/// How long the kernel may take to let go of programs whose pins are gone: of the guard only after each task of the host was seen to
/// leave the kernel, or to wait.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The kernel programs this build was made with.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-ebpf.o"));

/// Why the kernel side could not be brought up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    #[error("read the kernel's type information")]
    Btf(#[source] Box<aya::BtfError>),
    #[error("load the kernel programs")]
    Object(#[source] Box<aya::EbpfError>),
    #[error("the object has no program `{program}`")]
    NoProgram { program: &'static str },
    #[error("{action} `{program}` for `{hook}`")]
    Program {
        action: &'static str,
        program: &'static str,
        hook: &'static str,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("pin `{}`", path.display())]
    Pin {
        path: PathBuf,
        #[source]
        source: AyaPinError,
    },
    #[error("open the link pinned at `{}`", path.display())]
    Link {
        path: PathBuf,
        #[source]
        source: Box<LinkError>,
    },
    #[error(
        "the programs pinned at `{}` speak ABI version {pinned}, this build speaks {}",
        path.display(),
        ABI_VERSION
    )]
    Abi { path: PathBuf, pinned: u16 },
    #[error("the map at `{}` was not made by enforcer", path.display())]
    NotOurs { path: PathBuf },
    #[error("open `{}`", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("program {id} is still loaded: somebody else holds it")]
    StillLoaded { id: u32 },
    #[error("run the task iterator")]
    Iterate(#[source] io::Error),
    #[error("wait for records")]
    Records(#[source] io::Error),
    #[error("process {tgid} could not be tagged: it is gone, or the table of processes is full")]
    NotTagged { tgid: u32 },
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// How the kernel side came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nothing was pinned: loaded and attached.
    Fresh,
    /// This build's programs were pinned and attached: taken over as they are.
    Adopted,
    /// Another build's programs were: replaced, with the old ones attached until the new ones were.
    Upgraded,
}

impl Start {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Adopted => "adopted",
            Self::Upgraded => "upgraded",
        }
    }
}

/// The kernel side, up and pinned.
pub(crate) struct Kernel {
    pub(crate) sessions: SessionMaps,
    pub(crate) rules: RuleMaps,
    pub(crate) tagger: Tagger,
    pub(crate) images: ImageMaps,
    pub(crate) flows: FlowMaps,
    pub(crate) start: Start,
    pub(crate) guard: Guard,
    pub(crate) ring_fill: RingFill,
    pins: Pins,
    /// Open beside their pins: somebody who removes a pin does not end enforcement while a daemon runs.
    links: Vec<FdLink>,
}

impl Kernel {
    /// Adopts what is pinned, or loads and attaches at `cgroup_root`. `max_tasks` is the room for tagged processes, `can_guard` why there
    /// can be no guard.
    pub(crate) fn start(
        pins: &Pins,
        cgroup_root: &std::path::Path,
        config: &Config,
        max_tasks: u32,
        can_guard: Result<(), &str>,
    ) -> Result<Self, KernelError> {
        let root = File::open(cgroup_root)
            .map_err(|source| KernelError::Open { path: cgroup_root.to_owned(), source })?;
        let meta = digest::meta(config);
        let start_guard = |is_current| Guard::start(pins, &root, config, can_guard, is_current);
        let (start, guard) = if !pins.exist()? {
            let staged = pins.stage()?;
            let loaded = load(&staged, config, max_tasks)
                .and_then(|mut object| attach_all(&mut object, &root, |program| staged.link(program)))
                .and_then(|()| {
                    maps::write_meta(&mut maps::open_meta(&staged)?, meta)?;
                    Ok(pins.commit(&staged)?)
                });
            if let Err(error) = loaded {
                staged.remove()?;
                return Err(error);
            }
            (Start::Fresh, start_guard(false)?)
        } else {
            let pinned = check_pinned(pins)?;
            pins.recover()?;
            let is_current = pinned.digest == meta.digest;
            if is_current && open_links(pins).is_ok() {
                (Start::Adopted, start_guard(true)?)
            } else {
                upgrade(pins, config, max_tasks, &root)?;
                let guard = start_guard(is_current)?;
                // Last: until then, whoever starts does all of it again.
                maps::write_meta(&mut maps::open_meta(pins)?, meta)?;
                (Start::Upgraded, guard)
            }
        };
        Ok(Self {
            sessions: SessionMaps::open(pins)?,
            rules: RuleMaps::open(pins)?,
            tagger: Tagger::open(pins)?,
            images: ImageMaps::open(pins)?,
            flows: FlowMaps::open(pins)?,
            start,
            guard,
            ring_fill: RingFill::of(&maps::open_data(pins, "RECORDS")?)?,
            pins: pins.clone(),
            links: open_links(pins)?,
        })
    }

    /// The records.
    pub(crate) fn records(&self) -> Result<Ring, KernelError> {
        Ring::new(maps::open_records(&self.pins)?).map_err(KernelError::Records)
    }

    /// Attaches the programs anew, beside those that are there, and then removes these: for when one of them is not attached.
    pub(crate) fn replace_programs(
        &mut self,
        cgroup_root: &std::path::Path,
        config: &Config,
        max_tasks: u32,
    ) -> Result<(), KernelError> {
        let root = File::open(cgroup_root)
            .map_err(|source| KernelError::Open { path: cgroup_root.to_owned(), source })?;
        let meta = digest::meta(config);
        upgrade(&self.pins, config, max_tasks, &root)?;
        maps::write_meta(&mut maps::open_meta(&self.pins)?, meta)?;
        self.start = Start::Upgraded;
        self.hold_links()
    }

    /// Opens the pinned links again, after [`Self::let_go`].
    pub(crate) fn hold_links(&mut self) -> Result<(), KernelError> {
        self.links = open_links(&self.pins)?;
        self.guard.hold(&self.pins)
    }

    /// Lets go of the links, so that only their pins keep them.
    pub(crate) fn let_go(&mut self) {
        self.links.clear();
        self.guard.let_go();
    }

    /// What is attached now, asked of the kernel.
    pub(crate) fn coverage(&self) -> Vec<Coverage> {
        let linked = |pin: PathBuf| {
            let info = FdLink::from(PinnedLink::from_pin(pin)?).info()?;
            Ok::<_, LinkError>(Linked { link_id: info.id(), program_id: info.program_id() })
        };
        let hooks = HOOKS.iter().map(|hook| Coverage {
            hook,
            link: linked(self.pins.link(hook.program)).map_err(|error| one_line(&error)),
            needed: true,
        });
        let absence = self.guard.absence();
        let guard = GUARD.iter().map(|hook| Coverage {
            hook,
            link: match absence {
                None => linked(self.pins.guard_link(hook.program)).map_err(|error| one_line(&error)),
                Some(absence) => Err(format!("there is no guard: {absence}")),
            },
            needed: absence.is_none(),
        });
        hooks.chain(guard).collect()
    }
}

pub(super) fn read_btf() -> Result<Btf, KernelError> {
    Btf::from_sys_fs().map_err(|error| KernelError::Btf(Box::new(error)))
}

/// Loads the object with its maps pinned at `pins`; maps that are pinned there already are used.
fn load(pins: &Pins, config: &Config, max_tasks: u32) -> Result<Ebpf, KernelError> {
    let btf = read_btf()?;
    let mut loader = EbpfLoader::new();
    loader.override_global("CONFIG", config, true).map_max_entries("TASKS", max_tasks);
    for name in maps::NAMES {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut object = loader.load(OBJECT).map_err(|error| KernelError::Object(Box::new(error)))?;
    for hook in HOOKS {
        hook.load(&mut object, &btf)?;
    }
    Ok(object)
}

fn attach_all(object: &mut Ebpf, root: &File, pin: impl Fn(&str) -> PathBuf) -> Result<(), KernelError> {
    for hook in HOOKS {
        // The pin holds the link from here on.
        drop(hook.attach(object, root, &pin(hook.program))?);
    }
    Ok(())
}

/// Attaches this build's programs beside the old ones, on the same maps, and then removes the old ones. While both are
/// attached both must allow; a fork or exit is counted by whoever comes first.
fn upgrade(pins: &Pins, config: &Config, max_tasks: u32, root: &File) -> Result<(), KernelError> {
    let mut object = load(pins, config, max_tasks)?;
    let dir = pins.new_links();
    std::fs::create_dir(&dir).map_err(|source| KernelError::Open { path: dir.clone(), source })?;
    attach_all(&mut object, root, |program| dir.join(program))?;
    Ok(pins.replace_links()?)
}

/// Removes every pin, of any release: with them goes what only they kept alive. What others pinned stays.
pub(crate) fn remove_pins(pins: &Pins) -> Result<(), KernelError> {
    // Without the map that says whose they are, these are the rest of a removal that was cut short.
    if pins.exist()? && pins.map("META").exists() {
        read_our_meta(pins)?;
    }
    let pinned = |pin: PathBuf| {
        let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
        Some(link.info().ok()?.program_id())
    };
    let hooks = HOOKS.iter().map(|hook| pins.link(hook.program));
    let pins_of_programs = hooks.chain(GUARD.iter().map(|hook| pins.guard_link(hook.program)));
    let programs: Vec<u32> = pins_of_programs.filter_map(pinned).collect();
    pins.remove()?;
    wait_until_unloaded(&programs)
}

/// A pin that is removed lets go of its link a little later (v6.1/kernel/bpf/inode.c, bpf_free_inode), and the program runs until
/// then. When this returns, it has ended.
fn wait_until_unloaded(programs: &[u32]) -> Result<(), KernelError> {
    let deadline = Instant::now() + UNLOAD_TIMEOUT;
    loop {
        let loaded = loaded_programs().filter_map(Result::ok).map(|program| program.id());
        let Some(id) = loaded.into_iter().find(|id| programs.contains(id)) else {
            return Ok(());
        };
        if Instant::now() > deadline {
            return Err(KernelError::StillLoaded { id });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the pinned maps say of themselves, if they are ours.
fn read_our_meta(pins: &Pins) -> Result<Meta, KernelError> {
    let path = pins.map("META");
    let meta = maps::open_meta(pins)
        .and_then(|meta| maps::read_meta(&meta))
        .map_err(|_foreign_or_broken| KernelError::NotOurs { path: path.clone() })?;
    if meta.magic == Meta::MAGIC { Ok(meta) } else { Err(KernelError::NotOurs { path }) }
}

/// The pinned maps are ours and speak this build's ABI.
fn check_pinned(pins: &Pins) -> Result<Meta, KernelError> {
    let meta = read_our_meta(pins)?;
    if meta.abi != ABI_VERSION {
        return Err(KernelError::Abi { path: pins.root().to_owned(), pinned: meta.abi });
    }
    Ok(meta)
}

fn open_links(pins: &Pins) -> Result<Vec<FdLink>, KernelError> {
    let open = |hook: &super::attach::Hook| {
        let path = pins.link(hook.program);
        let link = PinnedLink::from_pin(&path).map(FdLink::from);
        link.map_err(|source| KernelError::Link { path, source: Box::new(source) })
    };
    HOOKS.iter().map(open).collect()
}
