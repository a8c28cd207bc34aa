//! The end of enforcement: the only code that takes it away. Used by the daemon, and by the command line when there is no
//! daemon.

use std::{fs, io, path::PathBuf, thread, time::Duration};

use enforcer_common::image::NO_ANSWER;

use crate::{
    cgroup::Cgroups,
    control::dto,
    exit::one_line,
    kernel::{self, ImageMaps, PinError, Pins},
    path_error::PathError,
    process::Process,
    procfs,
    settings::Settings,
    sinks::FileSink,
    state::{LogDir, State},
};

/// A session that is about to be held to nothing.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) released: dto::Released,
    pub(crate) cgroup: PathBuf,
    /// Somebody else's: its processes stay in it.
    pub(crate) borrowed_cgroup: bool,
    /// Where its processes go back to.
    pub(crate) cgroup_before: String,
}

/// Removes pins, cgroups and files, in this order: while a program runs, nothing it relies on is gone. If the pins cannot be
/// removed, nothing else is. What cannot be removed is in the answer.
pub(crate) fn remove_all(
    settings: &Settings,
    cgroups: &Cgroups,
    sessions: Vec<Held>,
    keep_events: bool,
) -> dto::TornDown {
    let mut left = Vec::new();
    match Pins::at(&settings.pin_dir) {
        Ok(pins) => {
            // Found while they are there; let go on when nothing holds them any more.
            let waiting = waiting(&pins);
            note(&mut left, kernel::remove_pins(&pins));
            for process in waiting {
                note(&mut left, process.let_go_on());
            }
        }
        // Nothing can be pinned there.
        Err(PinError::NotBpffs { .. }) => {}
        Err(error) => note(&mut left, Err::<(), _>(error)),
    }
    if !left.is_empty() {
        return dto::TornDown { version: dto::VERSION, ended: false, released: Vec::new(), left };
    }
    for session in &sessions {
        if session.borrowed_cgroup {
            note(&mut left, thaw(cgroups, &session.cgroup));
            continue;
        }
        note(&mut left, empty_cgroup(cgroups, &session.cgroup, place_before(cgroups, &sessions, session)));
    }
    // Cgroups of sessions that nobody knows any more.
    match cgroups.all() {
        Ok(found) => found.iter().for_each(|path| note(&mut left, empty_cgroup(cgroups, path, "/"))),
        Err(error) => note(&mut left, Err::<(), _>(error)),
    }
    match cgroups.remove_parent() {
        Ok(true) => {}
        Ok(false) => left.push(format!("the cgroup `{}`, which is in use", settings.cgroup)),
        Err(error) => note(&mut left, Err::<(), _>(error)),
    }
    remove_files(settings, keep_events, &mut left);
    let released = sessions.into_iter().map(|session| session.released).collect();
    dto::TornDown { version: dto::VERSION, ended: true, released, left }
}

/// The processes that stand still until somebody has measured what they execute. Pins that are not there, or of another release, have none.
fn waiting(pins: &Pins) -> Vec<Process> {
    let tickets = ImageMaps::open(pins).and_then(|maps| maps.tickets()).unwrap_or_default();
    let stopped = tickets
        .iter()
        .filter(|(number, ticket)| ticket.answer_to(*number) == NO_ANSWER && ticket.stopped != 0);
    let held = stopped.filter_map(|(_, ticket)| {
        let process = Process::hold(ticket.tgid).ok()??;
        let started = procfs::start_ticks(ticket.tgid).ok()??;
        (started == ticket.start_ns / procfs::TICK_NS && process.is_alive()).then_some(process)
    });
    held.collect()
}

/// What the state directory knows of sessions, for when there is no daemon to ask.
pub(crate) fn known_sessions(settings: &Settings, cgroups: &Cgroups) -> Vec<Held> {
    if !settings.sessions().is_dir() {
        return Vec::new();
    }
    let files = State::open(&settings.state_dir, &settings.sessions()).and_then(|state| state.sessions());
    let files = files.unwrap_or_default().into_iter().filter_map(Result::ok);
    let held = |file: crate::state::SessionFile| {
        let metadata = crate::envelope::parse(&file.envelope.text).ok().map(|envelope| envelope.metadata);
        let (agent, owner) =
            metadata.map_or_else(Default::default, |metadata| (metadata.name, metadata.owner));
        let processes = cgroups.processes(&file.cgroup).map_or(0, |processes| processes.len());
        Held {
            released: dto::Released { id: file.id.to_string(), agent, owner, processes },
            cgroup: file.cgroup,
            borrowed_cgroup: file.borrowed_cgroup,
            cgroup_before: file.cgroup_before,
        }
    };
    files.map(held).collect()
}

/// Where a session's processes were before any session had them: those of a session below another were in that one's cgroup.
fn place_before<'a>(cgroups: &Cgroups, sessions: &'a [Held], session: &'a Held) -> &'a str {
    let above = |session: &&'a Held| {
        let id = cgroups.session_of(&session.cgroup_before)?;
        sessions.iter().find(|above| above.released.id == id)
    };
    // As many steps as there are sessions, whatever the files say.
    let lineage = std::iter::successors(Some(session), above).take(sessions.len());
    lineage.last().map_or("/", |outermost| &outermost.cgroup_before)
}

/// Lets go on what a quarantine has stopped.
fn thaw(cgroups: &Cgroups, path: &std::path::Path) -> Result<(), PathError> {
    if path.is_dir() { cgroups.freeze(path, false) } else { Ok(()) }
}

/// Moves the processes out and removes the cgroup. Processes fork meanwhile, so it is done until none is left.
fn empty_cgroup(cgroups: &Cgroups, path: &std::path::Path, before: &str) -> Result<(), PathError> {
    const ATTEMPTS: usize = 1000;
    for _ in 0..ATTEMPTS {
        let inside = cgroups.processes(path)?;
        // One that is ending.
        let waits = inside.is_empty();
        for pid in inside {
            cgroups.release(before, pid)?;
        }
        if cgroups.remove(path)? {
            return Ok(());
        }
        if waits {
            thread::sleep(Duration::from_millis(1));
        }
    }
    // `remove_parent` reports what stays.
    Ok(())
}

fn remove_files(settings: &Settings, keep_events: bool, left: &mut Vec<String>) {
    let mut files = vec![
        settings.socket(),
        settings.workload_socket(),
        settings.lock(),
        settings.grant_key(),
        settings.grant_key().with_extension("tmp"),
        settings.state_dir.join("told"),
        settings.state_dir.join("told.tmp"),
        // As it was called before.
        settings.state_dir.join("lost"),
    ];
    if !keep_events {
        files.extend(FileSink::files(&settings.events()));
        files.extend([settings.ended(), settings.ended().with_extension("tmp")]);
        files.extend(LogDir::at(&settings.audit()).files_beside());
    }
    for file in files {
        note(left, absent_is_fine(fs::remove_file(&file), &file));
    }
    let mut dirs = vec![settings.sessions(), settings.authorities()];
    if !keep_events {
        // Whoever keeps the events wants to be able to check the audit log, too.
        dirs.extend([settings.cursors(), settings.audit(), settings.baselines()]);
    }
    for dir in dirs {
        note(left, absent_is_fine(fs::remove_dir_all(&dir), &dir));
    }
    // The revisions accepted of signed envelopes stay: whoever may tear down must not be able to make them forgotten.
    for dir in [&settings.revisions(), &settings.state_dir, &settings.run_dir] {
        match fs::remove_dir(dir) {
            // Somebody else keeps something there, or events or revisions are kept.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            other => note(left, absent_is_fine(other, dir)),
        }
    }
}

fn absent_is_fine(result: io::Result<()>, path: &std::path::Path) -> Result<(), PathError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PathError::at("remove", path)(error)),
        _ => Ok(()),
    }
}

fn note<E: std::error::Error + 'static>(left: &mut Vec<String>, result: Result<(), E>) {
    if let Err(error) = result {
        left.push(one_line(&error));
    }
}
