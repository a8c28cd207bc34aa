//! The one table of techniques: what each is, what it needs, what counts as having got out, and whether the threat model
//! declares it open.
//!
//! What is declared is what the design leaves open, with its reason. It is compared with what happens: a technique that gets
//! out undeclared fails the run, and so does one that is declared and does not get out.
//!
//! It is over 400 lines because it is one table, and each technique is a line of it.

use crate::context::Context;
use crate::sys::Attempt;
use crate::techniques::{
    abi, control, families, files, foreign, inbound, inet, ip_options, lineage, objects, processes, raw,
    unix, uring,
};

/// One way in which a process of a session might get data out, or undo enforcement.
#[derive(Debug)]
pub(crate) struct Technique {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) attempt: fn(&Context) -> Attempt,
    /// Nobody, if not root.
    pub(crate) as_root: bool,
    pub(crate) outsider: Option<Outsider>,
    pub(crate) proof: Proof,
    pub(crate) leave: Leave,
    /// The envelope says that no Unix socket may be connected to.
    pub(crate) rules_unix: bool,
    /// It may be that no session begins, which is an answer too.
    pub(crate) may_not_begin: bool,
    /// It would undo the enforcement that the others need.
    pub(crate) own_daemon: bool,
    pub(crate) open: Open,
    /// Kernels on which the control does not get out either, as `uname -r` begins; and why.
    pub(crate) not_on: Option<(&'static [&'static str], &'static str)>,
}

/// Somebody outside the session, who is there for the attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outsider {
    pub(crate) role: &'static str,
    pub(crate) as_root: bool,
}

/// What shows that it got out. Never what the attacker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A packet with the magic was seen, to an address that is not allowed.
    Magic,
    /// The outsider is dead.
    OutsiderEnds,
    /// The daemon is dead.
    DaemonEnds,
    /// A link of the enforcer's does nothing any more.
    LinksGone,
    /// A pin is not where it was.
    PinsGone,
    /// A process of another session has lost its tag.
    TagsGone,
    /// What the kernel starts for processes that dump core is another program.
    CorePattern,
    /// There is a route that was not there.
    Route,
}

/// What whoever starts the attempt leaves to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    Nothing,
    /// A connected socket, at a number that it knows.
    Socket,
    /// A connected socket as its standard input.
    SocketAsInput,
    /// A terminal, as its standard input and the one that controls it.
    Terminal,
}

/// Whether the threat model declares the technique open.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Open {
    No,
    /// Where no guard in the kernel (BPF LSM, or `fmod_ret`) runs.
    WithoutGuard(&'static str),
    Always(&'static str),
    /// Where Landlock does not keep signals inside a session, which it does from Linux 6.12; and there only without a guard,
    /// or (if the second is true) also with one.
    WithoutScope(&'static str, bool),
}

impl Open {
    /// The reason, if it is open there.
    pub(crate) fn reason(self, guard: bool, kernel: &str) -> Option<&'static str> {
        match self {
            Self::Always(why) => Some(why),
            Self::WithoutScope(why, always) if kernel == "6.1" && (always || !guard) => Some(why),
            Self::WithoutScope(..) => None,
            Self::WithoutGuard(why) if !guard => Some(why),
            Self::WithoutGuard(_) | Self::No => None,
        }
    }
}

impl Technique {
    const fn new(name: &'static str, about: &'static str, attempt: fn(&Context) -> Attempt) -> Self {
        Self {
            name,
            about,
            attempt,
            as_root: false,
            outsider: None,
            proof: Proof::Magic,
            leave: Leave::Nothing,
            rules_unix: false,
            may_not_begin: false,
            own_daemon: false,
            open: Open::No,
            not_on: None,
        }
    }

    const fn root(mut self) -> Self {
        self.as_root = true;
        self
    }

    /// With an outsider, who runs as the same user as the attempt does by default.
    const fn with(mut self, role: &'static str) -> Self {
        self.outsider = Some(Outsider { role, as_root: false });
        self
    }

    const fn with_root(mut self, role: &'static str) -> Self {
        self.outsider = Some(Outsider { role, as_root: true });
        self
    }

    const fn proof(mut self, proof: Proof) -> Self {
        self.proof = proof;
        self
    }

    const fn leave(mut self, leave: Leave) -> Self {
        self.leave = leave;
        self.may_not_begin = true;
        self
    }

    const fn rules_unix(mut self) -> Self {
        self.rules_unix = true;
        self.may_not_begin = true;
        self
    }

    /// As root, against a daemon of its own, which may not survive it.
    const fn destructive(mut self) -> Self {
        self.as_root = true;
        self.own_daemon = true;
        self
    }

    const fn open(mut self, why: &'static str) -> Self {
        self.open = Open::Always(why);
        self
    }

    const fn open_without_guard(mut self, why: &'static str) -> Self {
        self.open = Open::WithoutGuard(why);
        self
    }

    const fn open_without_scope_ever(mut self, why: &'static str) -> Self {
        self.open = Open::WithoutScope(why, true);
        self
    }

    const fn open_without_scope(mut self, why: &'static str) -> Self {
        self.open = Open::WithoutScope(why, false);
        self
    }

    const fn not_on(mut self, kernels: &'static [&'static str], why: &'static str) -> Self {
        self.not_on = Some((kernels, why));
        self
    }

    /// Why the control is expected to fail on this kernel.
    pub(crate) fn inapplicable_on(&self, kernel: &str) -> Option<&'static str> {
        let (kernels, why) = self.not_on?;
        kernels.contains(&kernel).then_some(why)
    }
}

pub(crate) fn find(name: &str) -> Option<&'static Technique> {
    TECHNIQUES.iter().chain([&ALLOWED]).find(|technique| technique.name == name)
}

/// No way out, but what every envelope of the suite allows: a session in which this does not work proves nothing.
pub(crate) const ALLOWED: Technique =
    Technique::new("allowed", "a connection and a datagram to what is allowed", inet::allowed);

const ALL_KERNELS: &[&str] = &["6.1", "6.12", "6.18"];

const DEPUTY: &str = "the envelope says nothing of Unix sockets, so they are not judged; what their owners do is their own doing";
const RELAY: &str = "a rule allows the relay, and what it does with what it gets is its own doing";
const FILES: &str =
    "files and pipes are not judged: whoever reads what a session writes is a deputy of its own";
const WINDOW: &str = "what waits for a peer's window leaves when no process of the session runs, so that the socket is never \
    seen in a session's hands; without a guard nobody sees it come in either";
const PACKET: &str = "no cgroup hook sees a packet socket, and without a guard nobody sees it come in";
const SIGNAL: &str = "without a guard, a user's processes may signal each other";
const FILE_SIGNAL: &str = "a user's processes may signal each other, and this signal the kernel sends for a file: no hook on `kill` sees it";
const SAME_USER: &str = "a user's processes may limit each other, and no hook of the guard is asked";
const ROOT_DAEMON: &str = "a session of root's has the daemon's user, so without a guard it may signal it; enforcement goes on without the \
    daemon; use `--user`";
const ROOT_PINS: &str = "a session of root's owns the pins, as root does: without a guard it may open, move and remove them; use `--user`";
const ROOT_CGROUPS: &str = "a session of root's may write the files of other cgroups, which are root's, where there is no guard; use `--user`";
const ROOT_SETTINGS: &str = "a session of root's may write the kernel's settings, which are files of root's, where there is no guard; use `--user`";
const SYSTEM_V: &str =
    "queues of System V are not judged: whoever reads what a session writes is a deputy of its own";

/// All of them, by theme.
#[rustfmt::skip] // A table: one row, one line.
pub(crate) const TECHNIQUES: &[Technique] = &[
    // Destinations by name.
    Technique::new("tcp-connect4", "TCP over IPv4", inet::tcp4),
    Technique::new("tcp-connect6", "TCP over IPv6", inet::tcp6),
    Technique::new("tcp-mapped", "TCP to an IPv4 address as IPv6 writes it", inet::tcp_mapped),
    Technique::new("tcp-unspecified4", "TCP to 0.0.0.0, which is this host", inet::tcp_unspecified4),
    Technique::new("tcp-unspecified6", "TCP to ::, which is this host", inet::tcp_unspecified6),
    Technique::new("tcp6-socket-name4", "an IPv6 socket, connected by an IPv4 address", inet::tcp6_socket_name4).not_on(ALL_KERNELS, "TCP takes IPv4 addresses on an IPv6 socket only as mapped ones"),
    Technique::new("tcp-reconnect", "an allowed connection, dissolved by `AF_UNSPEC`, then another", inet::tcp_reconnect),
    Technique::new("tcp-fastopen", "`sendto` with `MSG_FASTOPEN`", inet::tcp_fastopen),
    Technique::new("tcp-fastopen-connect", "`TCP_FASTOPEN_CONNECT`: the first write connects", inet::tcp_fastopen_connect),
    Technique::new("tcp-repair", "a connection by `TCP_REPAIR`, without a handshake", inet::tcp_repair).root(),
    Technique::new("mptcp", "Multipath TCP, which opens more connections by itself", inet::mptcp),
    Technique::new("udp-sendto4", "a datagram over IPv4", inet::udp_sendto4),
    Technique::new("udp-sendto6", "a datagram over IPv6", inet::udp_sendto6),
    Technique::new("udp-sendto-mapped", "a datagram to a mapped address", inet::udp_sendto_mapped),
    Technique::new("udp6-socket-name4", "a datagram of an IPv6 socket to an IPv4 address", inet::udp6_socket_name4),
    Technique::new("udp-unspec-family", "a datagram to an address of no family", inet::udp_unspec_family),
    Technique::new("udp-connect4", "connected UDP over IPv4", inet::udp_connect4),
    Technique::new("udp-connect6", "connected UDP over IPv6", inet::udp_connect6),
    Technique::new("udp-connect-mapped", "connected UDP to a mapped address", inet::udp_connect_mapped),
    Technique::new("udp-elsewhere", "connected to what is allowed, a datagram elsewhere", inet::udp_elsewhere),
    Technique::new("udp-reconnect", "connected to what is allowed, then elsewhere", inet::udp_reconnect),
    Technique::new("udp-sendmmsg", "`sendmmsg`: an allowed datagram first, another behind it", inet::udp_sendmmsg),
    Technique::new("udp-more", "`MSG_MORE`: two destinations for one datagram", inet::udp_more),
    Technique::new("udp-segments", "`UDP_SEGMENT`: cut into datagrams late", inet::udp_segments),
    Technique::new("multicast4", "IPv4 multicast", inet::multicast4),
    Technique::new("multicast6", "IPv6 multicast", inet::multicast6),
    Technique::new("broadcast", "IPv4 broadcast", inet::broadcast),
    Technique::new("bind-to-device", "`SO_BINDTODEVICE`", inet::bind_to_device),
    Technique::new("packet-info", "`IP_PKTINFO`: another source for one datagram", inet::packet_info),
    Technique::new("transparent", "`IP_TRANSPARENT`: a source that is not the host's", inet::transparent).root(),
    Technique::new("racing-address", "an address that changes while it is read", inet::racing_address),
    Technique::new("reflection", "an allowed server that answers to a source that is not the host's", inet::reflection).root().with("echo"),
    Technique::new("option-memory", "a socket whose memory for options is full", inet::option_memory),
    Technique::new("dns-udp", "a question to the resolver, over UDP", inet::dns_udp),
    Technique::new("dns-tcp", "a question to the resolver, over TCP", inet::dns_tcp),
    Technique::new("relay-refused", "a relay on this host that no rule allows", inet::relay_refused).with("relay"),
    Technique::new("relay-allowed", "a relay on this host that a rule allows", inet::relay_allowed).with("relay").open(RELAY),
    // The header says otherwise.
    Technique::new("source-route", "`IP_OPTIONS`: a loose source route", ip_options::loose_source_route).root(),
    Technique::new("source-route-cmsg", "`IP_RETOPTS`: a strict source route by control message", ip_options::strict_source_route_message).root(),
    Technique::new("source-route-tcp", "a source route, with TCP Fast Open", ip_options::tcp_source_route).root(),
    Technique::new("routing-header", "`IPV6_RTHDR`: segment routing", ip_options::segment_routing),
    Technique::new("routing-header-cmsg", "`IPV6_RTHDR` by control message", ip_options::segment_routing_message).not_on(ALL_KERNELS, "the kernel takes no segment routing header by control message"),
    Technique::new("routing-header-connected", "`IPV6_RTHDR` on a UDP socket that is connected", ip_options::segment_routing_connected),
    Technique::new("routing-header-tcp", "`IPV6_RTHDR` on an open TCP connection", ip_options::segment_routing_tcp),
    Technique::new("routing-header-mobile", "the routing header of Mobile IPv6, by control message", ip_options::home_address_route).not_on(&["6.18"], "the kernel has no Mobile IPv6"),
    // Other protocols over IP.
    Technique::new("raw4", "a raw socket over IPv4", raw::raw4).root(),
    Technique::new("raw6", "a raw socket over IPv6", raw::raw6).root(),
    Technique::new("own-header4", "`IP_HDRINCL`: the header names another destination than the call", raw::own_header).root(),
    Technique::new("own-header6", "the same over IPv6", raw::own_header6).root(),
    Technique::new("raw-icmp", "an ICMP tunnel by a raw socket", raw::raw_icmp).root(),
    Technique::new("ping4", "an ICMP tunnel by a ping socket", raw::ping4),
    Technique::new("ping6", "the same over ICMPv6, connected", raw::ping6),
    Technique::new("udp-lite", "UDP-Lite", raw::udp_lite),
    Technique::new("udp-lite-connect", "connected UDP-Lite over IPv6", raw::udp_lite_connect),
    Technique::new("sctp", "SCTP", raw::sctp).with("sctp").not_on(&["6.18"], "the kernel has no SCTP"),
    Technique::new("l2tp", "L2TP over IP", raw::l2tp).not_on(&["6.18"], "the kernel has no L2TP"),
    Technique::new("smc", "SMC, which falls back to a TCP socket of the kernel's", raw::smc).not_on(&["6.18"], "the kernel has no SMC"),
    // Other families.
    Technique::new("packet-datagram", "`AF_PACKET`, cooked", families::packet_datagram).root(),
    Technique::new("packet-bypass", "`AF_PACKET` with `PACKET_QDISC_BYPASS`", families::packet_bypass).root(),
    Technique::new("packet-raw", "`AF_PACKET`, raw", families::packet_raw).root(),
    Technique::new("packet-old", "`SOCK_PACKET`, under the family of IPv4", families::packet_old).root(),
    Technique::new("netlink-user", "`NETLINK_USERSOCK` to another process", families::netlink_user).with("netlink-user"),
    Technique::new("netlink-route", "`NETLINK_ROUTE` to another process", families::netlink_route).root().with_root("netlink-route"),
    Technique::new("vsock", "`AF_VSOCK` to this host", families::vsock).with("vsock").not_on(&["6.18"], "the kernel has no `vsock_loopback`"),
    Technique::new("tipc", "`AF_TIPC` to this node", families::tipc).with("tipc").not_on(&["6.18"], "the kernel has no TIPC"),
    Technique::new("tun", "a TUN device: the kernel takes in the packets that are written to it", families::tun).root(),
    Technique::new("route", "a route of the attacker's own", families::route).root().proof(Proof::Route),
    // Sockets of others.
    Technique::new("passed-tcp", "a connected TCP socket by `SCM_RIGHTS`", foreign::passed_connected).with("donor-tcp"),
    Technique::new("passed-tcp-write", "the same, by `write`", foreign::passed_written).with("donor-tcp"),
    Technique::new("passed-udp", "a connected UDP socket by `SCM_RIGHTS`", foreign::passed_connected).with("donor-udp"),
    Technique::new("passed-udp-unconnected", "a UDP socket by `SCM_RIGHTS`, not connected", foreign::passed_unconnected).with("donor-udp-unconnected"),
    Technique::new("passed-listener", "a listening socket by `SCM_RIGHTS`, accepted from", foreign::passed_listener).with("donor-listener"),
    Technique::new("passed-sendfile", "a connected socket by `SCM_RIGHTS`, fed by `sendfile`", foreign::passed_sendfile).with("donor-tcp"),
    Technique::new("passed-splice", "the same, by `splice`", foreign::passed_splice).with("donor-tcp"),
    Technique::new("passed-closed-window", "a connected socket whose peer does not read yet", foreign::passed_closed_window).with("donor-closed-window").open_without_guard(WINDOW),
    Technique::new("passed-packet-socket", "a packet socket by `SCM_RIGHTS`", foreign::passed_packet_socket).with_root("donor-packet").open_without_guard(PACKET),
    Technique::new("lent-socket", "a socket of the session's own that somebody else connects", foreign::lent).with("borrower"),
    Technique::new("stolen-tcp", "a connected socket by `pidfd_getfd`", foreign::stolen_connected).with("victim"),
    Technique::new("inherited", "a connected socket that whoever called `run` left open", foreign::inherited).leave(Leave::Socket),
    Technique::new("inherited-input", "a connected socket as standard input", foreign::inherited_stream).leave(Leave::SocketAsInput),
    Technique::new("inbound-tcp", "a shell for whoever connects", inbound::tcp).with("dialer"),
    Technique::new("inbound-tcp-unbound", "the same, without `bind`", inbound::tcp_unbound).with("dialer-by-file"),
    Technique::new("inbound-udp", "an answer to a datagram", inbound::udp).with("datagram-dialer"),
    // io_uring.
    Technique::new("uring-tcp", "socket, connect and send by io_uring", uring::tcp),
    Technique::new("uring-tcp-async", "the same, in worker threads of the kernel's", uring::tcp_async),
    Technique::new("uring-tcp-polled", "the same, by a thread that polls", uring::tcp_polled),
    Technique::new("uring-udp", "`sendmsg` by io_uring", uring::udp),
    Technique::new("uring-packet", "a packet socket made by io_uring", uring::packet).root(),
    Technique::new("passed-ring", "another process's polled ring by `SCM_RIGHTS`", foreign::passed_ring).with("donor-ring").not_on(ALL_KERNELS, "the kernel does not pass rings over Unix sockets any more"),
    Technique::new("stolen-ring", "another process's polled ring by `pidfd_getfd`", foreign::stolen_ring).with("ring-owner"),
    // System calls by other numbers.
    Technique::new("int80-udp", "the gate of 32-bit programs", abi::int80_udp),
    Technique::new("int80-socketcall", "the same, by `socketcall`", abi::int80_socketcall),
    Technique::new("int80-packet", "a packet socket by that gate", abi::int80_packet).root(),
    Technique::new("x32-udp", "the x32 ABI", abi::x32_udp).not_on(ALL_KERNELS, "the kernel does not offer x32"),
    // Out of the session by birth.
    Technique::new("thread", "from another thread", lineage::in_thread),
    Technique::new("vfork", "a child on its parent's memory", lineage::vfork),
    Technique::new("double-fork", "a daemon: two forks, and a session of its own", lineage::double_fork),
    Technique::new("clone-parent", "`CLONE_PARENT`: a sibling", lineage::clone_parent),
    Technique::new("leader-exits", "the first thread ends", lineage::leader_exits),
    Technique::new("exec-from-thread", "`execve` from another thread", lineage::exec_from_thread),
    Technique::new("exec-from-memory", "a program that is in no file", lineage::exec_from_memory),
    Technique::new("process-namespace", "number 1 of another table of processes", lineage::process_namespace),
    Technique::new("many-children", "two hundred children, each with a datagram", lineage::many_children),
    Technique::new("clone-into-cgroup", "`CLONE_INTO_CGROUP`", lineage::clone_into_cgroup).root(),
    Technique::new("move-cgroup", "out of the session's cgroup", lineage::move_cgroup).root(),
    Technique::new("socket-before-move", "the same, with a socket made before", lineage::socket_before_move).root(),
    Technique::new("network-namespace", "into another network, which has the same addresses", lineage::network_namespace).root().with_root("namespace"),
    Technique::new("set-user-id", "a program that runs as root", files::set_user_id).with_root("programs"),
    Technique::new("file-capability", "a program with `CAP_NET_RAW`", files::file_capability).with_root("programs"),
    // Deputies.
    Technique::new("unix-stream", "a Unix socket", unix::stream).with("unix-stream").open(DEPUTY),
    Technique::new("unix-datagram", "a datagram to a Unix socket", unix::datagram).with("unix-datagram").open(DEPUTY),
    Technique::new("unix-packets", "a Unix socket of packets", unix::packets).with("unix-packets").open(DEPUTY),
    Technique::new("unix-abstract", "an abstract Unix socket", unix::abstract_stream).with("unix-abstract").open(DEPUTY),
    Technique::new("unix-stream-ruled", "a Unix socket, where the envelope allows none", unix::stream).with("unix-stream").rules_unix(),
    Technique::new("unix-link-ruled", "the same, by a symbolic link", unix::stream_by_link).with("unix-stream").rules_unix(),
    Technique::new("unix-datagram-ruled", "a datagram to a Unix socket, where the envelope allows none", unix::datagram).with("unix-datagram").rules_unix(),
    Technique::new("unix-packets-ruled", "a Unix socket of packets, where the envelope allows none", unix::packets).with("unix-packets").rules_unix(),
    Technique::new("unix-abstract-ruled", "an abstract Unix socket, where the envelope allows none", unix::abstract_stream).with("unix-abstract").rules_unix(),
    Technique::new("fifo", "a named pipe that somebody reads", files::fifo).with("fifo").open(FILES),
    Technique::new("file", "a file that somebody looks into", files::file).with("file").open(FILES),
    Technique::new("message-queue", "a message queue of System V", files::message_queue).with("message-queue").open(SYSTEM_V),
    Technique::new("terminal-input", "types into the terminal of whoever started it", files::terminal_input).leave(Leave::Terminal).not_on(&["6.12"], "the kernel takes no typing from programs (`dev.tty.legacy_tiocsti`)"),
    // Processes of others.
    Technique::new("ptrace", "`ptrace`: data into another's memory", processes::trace).with("victim"),
    Technique::new("memory-file", "the same, by `/proc/PID/mem`", processes::memory_file).with("victim"),
    Technique::new("memory-call", "the same, by `process_vm_writev`", processes::memory_call).with("victim"),
    Technique::new("proc-descriptor", "another's nameless file, by `/proc/PID/fd`", foreign::opened_through_proc).with("victim"),
    Technique::new("signal", "ends a process of the same user", processes::signal).with("victim").proof(Proof::OutsiderEnds).open_without_scope(SIGNAL),
    Technique::new("signal-pidfd", "the same, by a descriptor of the process", processes::signal_by_descriptor).with("victim").proof(Proof::OutsiderEnds).open_without_scope(SIGNAL),
    Technique::new("signal-owner", "the same, by the owner of a pipe", processes::signal_by_file_owner).with("victim").proof(Proof::OutsiderEnds).open_without_scope_ever(FILE_SIGNAL),
    Technique::new("limit", "the same, by a limit on its time", processes::limit).with("busy").proof(Proof::OutsiderEnds).open(SAME_USER),
    Technique::new("cgroup-kill", "ends all processes of another cgroup", processes::cgroup_kill).root().with_root("cgroup-member").proof(Proof::OutsiderEnds).open_without_guard(ROOT_CGROUPS),
    Technique::new("core-pattern", "a program that the kernel starts, in no session", files::core_pattern).root().proof(Proof::CorePattern).open_without_guard(ROOT_SETTINGS),
    // The enforcer itself.
    Technique::new("enrol-again", "a second session, of an envelope that allows everything", control::enrol_again).root(),
    Technique::new("teardown", "the end of all enforcement, by asking for it", control::teardown).destructive().proof(Proof::PinsGone),
    Technique::new("passed-control", "the same, over a daemon's connection by `SCM_RIGHTS`", foreign::passed_control_connection).destructive().with_root("donor-control").proof(Proof::PinsGone).not_on(ALL_KERNELS, "the daemon answers who connected, and nobody else who writes, outside sessions either"),
    Technique::new("kill-daemon", "ends the daemon", processes::kill_daemon).destructive().proof(Proof::DaemonEnds).open_without_scope(ROOT_DAEMON),
    Technique::new("detach-links", "detaches programs, by number", objects::detach_links).destructive().proof(Proof::LinksGone),
    Technique::new("detach-pins", "detaches programs, by their pins", objects::detach_pinned_links).destructive().proof(Proof::LinksGone),
    Technique::new("delete-tags", "deletes tags from their map, by number", objects::delete_tags).destructive().proof(Proof::TagsGone),
    Technique::new("delete-tags-pin", "the same, by the map's pin", objects::delete_tags_by_pin).destructive().proof(Proof::TagsGone),
    Technique::new("unlink-pins", "removes the pins", objects::unlink_pins).destructive().proof(Proof::PinsGone).open_without_guard(ROOT_PINS),
    Technique::new("rename-pins", "moves the pins", objects::rename_pins).destructive().proof(Proof::PinsGone).open_without_guard(ROOT_PINS),
    Technique::new("unmount-pins", "unmounts the file system that the pins are in", objects::unmount_pins).destructive().proof(Proof::PinsGone),
    Technique::new("mount-over-pins", "mounts another over it", objects::mount_over_pins).destructive().proof(Proof::PinsGone),
    Technique::new("live-frames", "a packet as if a device had received it, by a test of a program", objects::live_frames).root(),
    Technique::new("override-verdict", "a program behind ours, which takes the refusal back", objects::override_verdict).root(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_there_are_enough() {
        let names: BTreeSet<&str> = TECHNIQUES.iter().map(|technique| technique.name).collect();
        assert_eq!(names.len(), TECHNIQUES.len());
        assert!(names.len() >= 60, "{}", names.len());
    }

    #[test]
    fn outsiders_exist() {
        for outsider in TECHNIQUES.iter().filter_map(|technique| technique.outsider) {
            assert!(crate::outsiders::exists(outsider.role), "{}", outsider.role);
        }
    }
}
