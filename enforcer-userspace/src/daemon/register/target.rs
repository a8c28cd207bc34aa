//! What may be registered: a process or a cgroup that is there, is nobody's session, and does not take part in registering it.

use axum::http::StatusCode;
use enforcer_common::identity::EnrolKind;
use uuid::Uuid;

use super::super::{Daemon, internal, lifecycle::Place};
use crate::{
    control::{dto, peer::Peer, server::Refusal},
    exit::one_line,
    procfs,
    session::Session,
};

/// What is to be registered, found out and checked.
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) kind: EnrolKind,
    /// The process that was named; 0: none was.
    pub(super) pid: u32,
    /// What it was asked for as, for people to read.
    pub(super) command: Vec<String>,
}

impl Daemon {
    pub(super) fn find_target(&self, peer: &Peer, id: Uuid, target: dto::Target) -> Result<Target, Refusal> {
        match target {
            dto::Target::Process { pid, children } => {
                let cgroup_before = self.check_process(peer, pid)?;
                let cgroup = self.cgroups.create(&id.to_string()).map_err(|error| internal(&error))?;
                let place = Place { cgroup, borrowed: false, cgroup_before };
                let kind = if children { EnrolKind::Descendants } else { EnrolKind::Process };
                Ok(Target { place, kind, pid, command: procfs::command_line(pid) })
            }
            dto::Target::Cgroup { path } => self.find_cgroup(peer, &path),
            dto::Target::Unit { name } => {
                let name = if name.contains('.') { name } else { format!("{name}.service") };
                let found = self.cgroups.named(&name).map_err(|error| internal(&error))?;
                match &found[..] {
                    [one] => self.find_cgroup(peer, &one.to_string_lossy()),
                    [] => Err(no_target(format!("no unit `{name}` runs: there is no cgroup of that name"))),
                    _ => Err(no_target(format!("{} cgroups are named `{name}`", found.len()))
                        .hint("name one of them with `--cgroup`")),
                }
            }
        }
    }

    /// A process that can be registered, and the cgroup that it is in.
    fn check_process(&self, peer: &Peer, pid: u32) -> Result<String, Refusal> {
        let no = |why: &str| Err(bad_target(format!("process {pid} cannot be registered: {why}")));
        let cgroup = procfs::cgroup2_of(pid).map_err(|error| internal(&error))?;
        let Some(cgroup) = cgroup else {
            return Err(no_target(format!("there is no process {pid}")));
        };
        if pid == std::process::id() || pid == peer.pid {
            return no("it takes part in registering it");
        }
        // With its descendants, it would stand still itself.
        for taking_part in [std::process::id(), peer.pid] {
            if procfs::ancestors(taking_part).map_err(|error| internal(&error))?.contains(&pid) {
                return no("it is an ancestor of a process that takes part in registering it");
            }
        }
        let owner = procfs::uid_of(pid).map_err(|error| internal(&error))?;
        if peer.uid != 0 && owner != Some(peer.uid) {
            return Err(not_theirs(format!("process {pid} is another user's")));
        }
        if pid == 1 {
            return no("it is the parent of everything");
        }
        if procfs::is_kernel_thread(pid) {
            return no("it is a thread of the kernel's");
        }
        if self.is_in_session(pid) {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "enrolled",
                format!("process {pid} belongs to a session"),
            ));
        }
        Ok(cgroup)
    }

    fn find_cgroup(&self, peer: &Peer, path: &str) -> Result<Target, Refusal> {
        if peer.uid != 0 {
            return Err(not_theirs("a cgroup is registered by root".to_owned()));
        }
        let found = self.cgroups.borrow(path.as_ref()).map_err(|error| no_target(one_line(&error)))?;
        let cgroup = found.map_err(|why| bad_target(format!("`{path}` cannot be registered: {why}")))?;
        for pid in [1, std::process::id(), peer.pid] {
            let stands = procfs::cgroup2_of(pid).map_err(|error| internal(&error))?.unwrap_or_default();
            if self.cgroups.is_inside(&stands, &cgroup.path) {
                return Err(bad_target(format!(
                    "`{path}` cannot be registered: process {pid}, which takes part in it, is in it"
                )));
            }
        }
        let overlaps = |session: &&Session| {
            let other = &session.grant.cgroup;
            other.starts_with(&cgroup.path) || cgroup.path.starts_with(other)
        };
        if let Some(other) = self.registry.iter().find(overlaps) {
            let message = format!("`{path}` overlaps with the cgroup of session {}", other.grant.id);
            return Err(Refusal::new(StatusCode::CONFLICT, "enrolled", message));
        }
        if self.cgroups.all_processes(&cgroup.path).map_err(|error| internal(&error))?.is_empty() {
            return Err(no_target(format!("there is no process in `{path}`")));
        }
        let command = vec![cgroup.path.to_string_lossy().into_owned()];
        let place = Place { cgroup, borrowed: true, cgroup_before: "/".to_owned() };
        Ok(Target { place, kind: EnrolKind::Cgroup, pid: 0, command })
    }
}

fn no_target(message: String) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "no-such-target", message)
}

/// Whoever may operate the daemon may end what is registered: not what they could not end otherwise.
fn not_theirs(message: String) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "not-yours", message)
}

fn bad_target(message: String) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-target", message)
}
