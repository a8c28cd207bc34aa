//! Which program goes to which hook, and attaching it.

use std::{collections::HashSet, fs::File, path::Path};

use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Iter,
        Lsm, Program, ProgramError,
        links::{FdLink, LinkError, PinnedLink},
    },
};

use super::object::KernelError;

/// A place in the kernel that one of our programs is attached to.
#[derive(Debug)]
pub(crate) struct Hook {
    /// As the kernel's documentation writes it.
    pub(crate) hook: &'static str,
    pub(crate) program: &'static str,
    /// What this hook's program promises.
    pub(crate) covers: &'static str,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    SockAddr,
    Sock,
    Skb(CgroupSkbAttachType),
    Tracepoint(&'static str),
    /// Over these objects.
    Iter(&'static str),
    /// By the hook's name in the kernel.
    Lsm(&'static str),
}

/// Every hook that a daemon does not start without, in the order of attaching: identity is tracked before anything is decided by it.
pub(crate) const HOOKS: &[Hook] = &[
    Hook {
        hook: "tp_btf/task_newtask",
        program: "track_fork",
        covers: "children have an identity before they run",
        kind: Kind::Tracepoint("task_newtask"),
    },
    Hook {
        hook: "tp_btf/sched_process_exec",
        program: "track_exec",
        covers: "records name the program that runs; images are held to a list",
        kind: Kind::Tracepoint("sched_process_exec"),
    },
    Hook {
        hook: "tp_btf/sched_process_exit",
        program: "track_exit",
        covers: "identities end with a process's last thread",
        kind: Kind::Tracepoint("sched_process_exit"),
    },
    Hook {
        hook: "iter/task",
        program: "enrol_task",
        covers: "enrolment under the kernel's own start time",
        kind: Kind::Iter("task"),
    },
    Hook {
        hook: "iter/task_file",
        program: "enrol_socket",
        covers: "sockets that a registered process holds already",
        kind: Kind::Iter("task_file"),
    },
    Hook {
        hook: "tp_btf/inet_sock_set_state",
        program: "track_connection",
        covers: "records say what a TCP connection carried, and who listens",
        kind: Kind::Tracepoint("inet_sock_set_state"),
    },
    Hook {
        hook: "cgroup/sock_create",
        program: "egress_socket",
        covers: "no raw, MPTCP, SCTP, UDP-Lite, ping sockets",
        kind: Kind::Sock,
    },
    Hook {
        hook: "cgroup/connect4",
        program: "egress_connect4",
        covers: "connections to IPv4",
        kind: Kind::SockAddr,
    },
    Hook {
        hook: "cgroup/connect6",
        program: "egress_connect6",
        covers: "connections to IPv6 and IPv4-mapped",
        kind: Kind::SockAddr,
    },
    Hook {
        hook: "cgroup/sendmsg4",
        program: "egress_sendmsg4",
        covers: "datagrams to IPv4 and IPv4-mapped",
        kind: Kind::SockAddr,
    },
    Hook {
        hook: "cgroup/sendmsg6",
        program: "egress_sendmsg6",
        covers: "datagrams to IPv6",
        kind: Kind::SockAddr,
    },
    Hook {
        hook: "cgroup/bind4",
        program: "listen_bind4",
        covers: "ports that nobody may reach are refused",
        kind: Kind::SockAddr,
    },
    Hook { hook: "cgroup/bind6", program: "listen_bind6", covers: "likewise for IPv6", kind: Kind::SockAddr },
    Hook {
        hook: "cgroup_skb/egress",
        program: "packet_egress",
        covers: "every packet that leaves, by its real header",
        kind: Kind::Skb(CgroupSkbAttachType::Egress),
    },
    Hook {
        hook: "cgroup_skb/ingress",
        program: "packet_ingress",
        covers: "every packet that arrives; connections that others begin",
        kind: Kind::Skb(CgroupSkbAttachType::Ingress),
    },
];

/// Whether a hook is in place.
#[derive(Debug)]
pub(crate) struct Coverage {
    pub(crate) hook: &'static Hook,
    /// The program behind the pinned link, or why there is none.
    pub(crate) link: Result<Linked, String>,
    /// Whether a session is not begun without it: all but the guard's, where there is none.
    pub(crate) needed: bool,
}

/// A link and its program, by the kernel's ids.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linked {
    pub(crate) link_id: u32,
    pub(crate) program_id: u32,
}

impl Coverage {
    /// Whether the program runs, given the links that somebody detached.
    pub(crate) fn is_attached(&self, detached: &HashSet<u32>) -> bool {
        self.link.as_ref().is_ok_and(|linked| !detached.contains(&linked.link_id))
    }
}

impl Hook {
    /// Verifies and loads the program, without attaching it.
    pub(super) fn load(&'static self, object: &mut Ebpf, btf: &Btf) -> Result<(), KernelError> {
        let program = self.find(object)?;
        let loaded = match self.kind {
            Kind::SockAddr => as_kind::<CgroupSockAddr>(program).and_then(|program| program.load()),
            Kind::Sock => as_kind::<CgroupSock>(program).and_then(|program| program.load()),
            Kind::Skb(_) => as_kind::<CgroupSkb>(program).and_then(|program| program.load()),
            Kind::Tracepoint(name) => {
                as_kind::<BtfTracePoint>(program).and_then(|program| program.load(name, btf))
            }
            Kind::Iter(over) => as_kind::<Iter>(program).and_then(|program| program.load(over, btf)),
            Kind::Lsm(name) => as_kind::<Lsm>(program).and_then(|program| program.load(name, btf)),
        };
        loaded.map_err(|source| self.error("load", source))
    }

    /// Attaches the loaded program and pins its link, so that it stays when we are gone.
    pub(super) fn attach(
        &'static self,
        object: &mut Ebpf,
        cgroup_root: &File,
        pin: &Path,
    ) -> Result<PinnedLink, KernelError> {
        let program = self.find(object)?;
        let link = self.link(program, cgroup_root).map_err(|source| self.error("attach", source))?;
        link.pin(pin).map_err(|source| KernelError::Pin { path: pin.to_owned(), source })
    }

    fn link(&self, program: &mut Program, cgroup_root: &File) -> Result<FdLink, ProgramError> {
        // A link on a cgroup always allows others beside it; the flag for it is refused (EINVAL).
        let mode = CgroupAttachMode::Single;
        let not_pinnable = |_: LinkError| ProgramError::UnexpectedProgramType;
        match self.kind {
            Kind::SockAddr => {
                let program = as_kind::<CgroupSockAddr>(program)?;
                let id = program.attach(cgroup_root, mode)?;
                program.take_link(id)?.try_into().map_err(not_pinnable)
            }
            Kind::Sock => {
                let program = as_kind::<CgroupSock>(program)?;
                let id = program.attach(cgroup_root, mode)?;
                program.take_link(id)?.try_into().map_err(not_pinnable)
            }
            Kind::Skb(direction) => {
                let program = as_kind::<CgroupSkb>(program)?;
                let id = program.attach(cgroup_root, direction, mode)?;
                program.take_link(id)?.try_into().map_err(not_pinnable)
            }
            Kind::Tracepoint(_) => {
                let program = as_kind::<BtfTracePoint>(program)?;
                let id = program.attach()?;
                Ok(program.take_link(id)?.into())
            }
            Kind::Iter(_) => {
                let program = as_kind::<Iter>(program)?;
                let id = program.attach()?;
                program.take_link(id)?.try_into().map_err(not_pinnable)
            }
            Kind::Lsm(_) => {
                let program = as_kind::<Lsm>(program)?;
                let id = program.attach()?;
                Ok(program.take_link(id)?.into())
            }
        }
    }

    fn find<'a>(&self, object: &'a mut Ebpf) -> Result<&'a mut Program, KernelError> {
        object.program_mut(self.program).ok_or(KernelError::NoProgram { program: self.program })
    }

    fn error(&'static self, action: &'static str, source: ProgramError) -> KernelError {
        KernelError::Program { action, program: self.program, hook: self.hook, source: Box::new(source) }
    }
}

fn as_kind<'a, T>(program: &'a mut Program) -> Result<&'a mut T, ProgramError>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    program.try_into()
}
