//! Bringing the daemon up, and taking it down.

use std::{
    collections::VecDeque,
    fs::{self, File, Permissions},
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use enforcer_common::config::{Config, GuardOffsets};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        stat::{Mode, umask},
    },
    unistd::Group,
};
use tokio::{
    net::UnixListener,
    sync::{mpsc, watch},
};

mod failing;

pub(crate) use failing::StartError;

use super::{
    Asked, Attestation, Daemon, DaemonError, Ended, Events, Findings, Issuer, Past, Policy, Trust, audit,
    findings, grants, refused::RefusedRequests, seats, signals::Signals,
};
use crate::{
    cgroup::Cgroups,
    clock,
    control::{
        gate::{Gate, SeatOf},
        server::{self, Calls},
    },
    credentials::TrustDomain,
    host::{self},
    kernel::{Kernel, Pins},
    key_files::{self},
    path_error::PathError,
    precedence,
    procfs::{self},
    record::{EventKind, EventLine, Losses, Told, export},
    scrape,
    session::Registry,
    settings::Settings,
    sinks::{self},
    state::{Limits, State},
    workload,
};

/// Requests that wait for the loop.
const CALLS: usize = 64;
/// How long answers under way may take when the daemon stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What is told of what happens, beside the event file, and to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reports<'a> {
    /// How much of the audit log is kept.
    pub(crate) audit: Limits,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
    /// The file that says where events go.
    pub(crate) sinks: Option<&'a Path>,
    /// The file that says what is found in it.
    pub(crate) detections: Option<&'a Path>,
}

/// Runs a daemon until it is told to stop. Enforcement goes on afterwards, unless that was what it was told.
pub(crate) async fn run(
    settings: Settings,
    trust_keys: &[PathBuf],
    trust_domain: Option<TrustDomain>,
    policy: Option<&Path>,
    reports: Reports<'_>,
) -> Result<(), StartError> {
    // Threads that are started from here on do as this one does.
    if let Err(error) = precedence::go_before_others() {
        eprintln!("warning: go before other processes: {error}");
    }
    // A daemon that trusts fewer keys than it was told does not come up.
    let trust_keys = key_files::trust_keys(trust_keys)?;
    let policy = Policy::load(policy)?;
    let at = |address| move |source| StartError::Metrics { address, source };
    let sinks = reports.sinks.map(sinks::load).transpose()?.unwrap_or_default();
    let detections = findings::settings(reports.detections)?;
    let metrics = reports.metrics.map(|address| scrape::listen(address).map_err(at(address))).transpose()?;
    let operators = operators(&settings)?;
    let host = host::inspect()?;
    let pins = Pins::at(&settings.pin_dir)?;
    pins.exist()?;
    let made_run_dir = make_dir(&settings.run_dir)?;
    let lock = match lock(&settings.lock()) {
        Ok(lock) => lock,
        Err(error) => {
            if made_run_dir {
                fs::remove_dir(&settings.run_dir).map_err(PathError::at("remove", &settings.run_dir))?;
            }
            return Err(error);
        }
    };
    let cgroups = Cgroups::new(&host.cgroup_root, &settings.cgroup);
    let (kernel, detached) = match start_kernel(&pins, &cgroups, &host) {
        Ok(started) => started,
        Err(error) => {
            // Only what is empty goes: a session's cgroup stays.
            cgroups.remove_parent_if_empty()?;
            fs::remove_file(settings.lock()).map_err(PathError::at("remove", &settings.lock()))?;
            if made_run_dir {
                fs::remove_dir(&settings.run_dir).map_err(PathError::at("remove", &settings.run_dir))?;
            }
            return Err(error);
        }
    };
    let mut ring = kernel.records()?;
    let state = State::open(&settings.state_dir, &settings.sessions())?;
    let (issuer, new_authority) = Issuer::open(&settings, trust_domain, &host.name)?;
    let exported = export::Host {
        name: host.name.clone(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        trust_domain: issuer.trust_domain().clone(),
    };
    let events = Events::open(&settings.events())?;
    let cpus = kernel.sessions.lost().map_err(DaemonError::from)?.len();
    let written = (&*settings.events(), events.sequence());
    let sinks = sinks::start(sinks, written, &settings.cursors(), &exported)?;
    let (findings, tampered) = Findings::open(&settings, detections)?;
    let (done, mut beside) = mpsc::unbounded_channel();
    let mut daemon = Daemon {
        policy,
        operators,
        trust: Trust::new(trust_keys, &settings)?,
        issuer,
        signer: grants::open(&settings, &host.boot_id)?,
        attestation: Attestation::new(&kernel),
        audit_limits: reports.audit,
        events,
        sinks,
        registry: Registry::default(),
        past: Past::open(&settings)?,
        empty: Default::default(),
        started: clock::wall(clock::boot_ns()),
        settings: settings.clone(),
        host,
        cgroups,
        kernel,
        state,
        losses: Losses::new(Told::default(), cpus),
        findings,
        totals: super::flows::Totals::default(),
        metrics: Default::default(),
        said: Default::default(),
        done,
        registering: None,
        waiting: VecDeque::new(),
        turned_away: Arc::default(),
        refused: RefusedRequests::default(),
        faults: 0,
        last_fault: None,
    };
    let log = audit::open(&daemon.settings, &daemon.host, reports.audit, daemon.events.sequence())?;
    daemon.events.log = Some(log);
    let resumed = resume_losses(&mut daemon, cpus);
    daemon.survive(resumed);
    if let Some(absence) = daemon.kernel.guard.absence() {
        eprintln!("warning: there is no guard: {absence}");
    }
    let started = format!(
        "enforcer {}, ABI version {}, kernel {}, {}, {}, baselines of {} agents",
        env!("CARGO_PKG_VERSION"),
        enforcer_common::ABI_VERSION,
        daemon.host.release,
        daemon.kernel.start.name(),
        daemon.coverage_said(),
        daemon.findings.agents(),
    );
    let line = EventLine::new(EventKind::DaemonStarted, &daemon.started).detail(started);
    daemon.events.write(line);
    if let Some(change) = new_authority {
        daemon.note(EventKind::AuthorityChanged, change);
    }
    for sign in tampered.into_iter().chain(detached) {
        daemon.note(EventKind::TamperSign, sign);
    }
    daemon.restore()?;
    daemon.issuer.keep_trust_domain()?;

    raise_descriptor_limit();
    let signals = Signals::new().map_err(PathError::at("watch the signals of", Path::new("/proc/self")))?;
    let (heard, mut called) = mpsc::channel(CALLS);
    let (unheard, mut refused) = mpsc::channel(1);
    let calls = Calls { heard, unheard };
    let (stop, stopped) = watch::channel(());
    let stopped = || {
        let mut stopped = stopped.clone();
        // When the sender is gone.
        async move { while stopped.changed().await.is_ok() {} }
    };
    let (control, workload) = (settings.socket(), settings.workload_socket());
    let tags = || daemon.kernel.tagger.reader().map_err(DaemonError::from);
    let seats = seats::control(tags()?, daemon.cgroups.clone(), operators);
    let gate = gate_of(&control, listen_to_all(&control)?, seats, &daemon)?;
    let server = tokio::spawn(server::serve(gate, calls.clone(), stopped()));
    let seats = seats::workload(tags()?, daemon.cgroups.clone());
    let gate = gate_of(&workload, listen_to_all(&workload)?, seats, &daemon)?;
    let credentials = tokio::spawn(workload::serve(gate, calls, stopped()));
    let (scrapes, mut scraped) = mpsc::channel(1);
    let collected = metrics.map(|listener| tokio::spawn(scrape::serve(listener, scrapes, stopped())));
    let asked = Asked { calls: &mut called, refused: &mut refused, scrapes: &mut scraped };
    let ended = daemon.serve(&mut ring, asked, &mut beside, signals).await;
    if let Some(collected) = collected {
        collected.abort();
    }
    // Streams of credentials end with the daemon; so do its answers.
    daemon.issuer.end_all();
    daemon.attestation.measurer.stop();
    if !matches!(ended, Ok(Ended { torn_down: true })) {
        daemon.save_findings();
    }
    daemon.close_audit();
    drop((stop, called, refused));
    // A client that follows events would keep the server up for ever.
    drop(tokio::time::timeout(STOP_TIMEOUT, async { tokio::join!(server, credentials) }).await);
    if !ended?.torn_down {
        for socket in [control, workload] {
            fs::remove_file(&socket).map_err(PathError::at("remove", &socket))?;
        }
    }
    drop(lock);
    Ok(())
}

/// To what the host lets us have: each connection and each reader of events takes some. Having fewer is no fault.
fn raise_descriptor_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, most, most)
    {
        eprintln!("warning: raise the limit of open files: {error}");
    }
}

/// And what somebody had detached, which is attached again.
fn start_kernel(
    pins: &Pins,
    cgroups: &Cgroups,
    host: &host::Host,
) -> Result<(Kernel, Option<String>), StartError> {
    let config = Config {
        offsets: host.offsets,
        guard: *host.guard.as_ref().unwrap_or(&GuardOffsets::UNKNOWN),
        cgroup_parent_id: cgroups.create_parent()?,
        cgroup_parent_level: cgroups.level(),
        pad: 0,
    };
    let can_guard = host.guard.as_ref().map(|_| ()).map_err(String::as_str);
    let mut kernel = Kernel::start(pins, &host.cgroup_root, &config, host.max_tasks, can_guard)?;
    let by_somebody = super::coverage::detached_hooks(&kernel)?;
    let detached = procfs::detached_links()?;
    if kernel.coverage().iter().any(|hook| hook.needed && !hook.is_attached(&detached)) {
        kernel.replace_programs(&host.cgroup_root, &config, host.max_tasks)?;
    }
    let names: Vec<_> = by_somebody.into_iter().collect();
    let said =
        (!names.is_empty()).then(|| format!("somebody had detached {}: attached again", names.join(", ")));
    Ok((kernel, said))
}

/// Makes a directory that everybody may enter: the socket in it has permissions of its own. True if it was not there.
fn make_dir(path: &Path) -> Result<bool, StartError> {
    if path.is_dir() {
        return Ok(false);
    }
    fs::create_dir_all(path).map_err(PathError::at("create", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
        .map_err(PathError::at("set the mode of", path))?;
    Ok(true)
}

/// Holds the place of the one daemon; the kernel lets go of it when the process ends, however it ends.
pub(crate) fn lock(path: &Path) -> Result<Flock<File>, StartError> {
    let opened = File::options().create(true).truncate(false).read(true).write(true).open(path);
    let mut file = opened.map_err(PathError::at("open", path))?;
    let mut pid = String::new();
    file.read_to_string(&mut pid).map_err(PathError::at("read", path))?;
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| StartError::Running { pid: pid.trim().to_owned() })?;
    lock.set_len(0).map_err(PathError::at("write", path))?;
    io::Seek::rewind(&mut *lock).map_err(PathError::at("write", path))?;
    writeln!(lock, "{}", std::process::id()).map_err(PathError::at("write", path))?;
    Ok(lock)
}

/// Asks for the writers of whatever comes over a socket.
fn gate_of(path: &Path, listener: UnixListener, seats: SeatOf, daemon: &Daemon) -> Result<Gate, PathError> {
    Gate::new(listener, seats, Arc::clone(&daemon.turned_away))
        .map_err(PathError::at("ask for the writers of", path))
}

/// Binds a socket, for root alone. The lock is ours, so a socket that is there is a dead daemon's.
fn bind(path: &Path) -> Result<UnixListener, PathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(PathError::at("remove", path)(error));
        }
        _ => {}
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    bound.map_err(PathError::at("listen at", path))
}

/// Both sockets: sessions run as any user. Who may ask for what is seen by who asks.
fn listen_to_all(path: &Path) -> Result<UnixListener, PathError> {
    let listener = bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))
        .map_err(PathError::at("set the mode of", path))?;
    Ok(listener)
}

/// The group of those who operate the daemon, if there is one.
fn operators(settings: &Settings) -> Result<Option<u32>, StartError> {
    let group = Group::from_name(&settings.group)
        .map_err(|source| StartError::Group { group: settings.group.clone(), source })?;
    Ok(group.map(|group| group.gid.as_raw()))
}

/// What is missing of the kernel's records goes on from what earlier daemons have told of it. Where that cannot be read, nothing is said
/// of what those had taken.
fn resume_losses(daemon: &mut Daemon, cpus: usize) -> Result<(), DaemonError> {
    let last = daemon.events.sequence();
    let known = daemon.state.told(&daemon.numbering());
    let is_known = known.is_some();
    let mut told = known.unwrap_or_default();
    if !is_known {
        let is_first = daemon.kernel.sessions.made()?.iter().all(|made| *made == 0);
        (told.since, told.from_first) = (last, is_first);
    } else if told.since > last {
        // The event files were taken away.
        (told.since, told.from_first) = (last, false);
    }
    daemon.losses = Losses::new(told.clone(), cpus);
    if is_known {
        let reading = daemon.events.written(&told, u32::try_from(cpus).unwrap_or(u32::MAX));
        daemon.losses.resume(reading.map_err(DaemonError::from)?.into_written());
    }
    Ok(daemon.state.save_told(&daemon.numbering(), &told)?)
}
