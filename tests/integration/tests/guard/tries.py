"""Tries what the guard is to refuse, and what it is not, each once; prints `label errno` a line. 0: it worked.

An error that says nothing of a guard (a file that is no module, a root that cannot be pivoted to) is printed as it is: the test compares
what a session gets with what is got outside.
"""

import ctypes
import os
import socket
import struct
import sys
import time

victim, place, pins, cgroup = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

# x86-64 and arm64 agree on those of the later ones.
PIDFD_OPEN, PIDFD_SIGNAL, PIDFD_GETFD, OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG = 434, 424, 438, 428, 429, 430, 431
SYSCALLS = {
    "x86_64": dict(bpf=321, perf_event_open=298, init_module=175, finit_module=313, ptrace=101, vm_readv=310, pivot_root=155),
    "aarch64": dict(bpf=280, perf_event_open=241, init_module=105, finit_module=273, ptrace=117, vm_readv=270, pivot_root=41),
}[os.uname().machine]


def call(name, *arguments):
    number = SYSCALLS[name] if isinstance(name, str) else name
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def report(label, attempt):
    try:
        attempt()
        error = 0
    except OSError as failed:
        error = failed.errno
    print(label, error, flush=True)


def in_child(attempt):
    """In a child, whose number for the error is the exit code."""
    child = os.fork()
    if child == 0:
        try:
            attempt()
            os._exit(0)
        except OSError as failed:
            os._exit(failed.errno)
        except BaseException:
            os._exit(255)
    error = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if error:
        raise OSError(error, "in the child")


def open_socket(family, kind, protocol):
    return lambda: socket.socket(family, kind, protocol).close()


def write_nothing(path):
    return lambda: os.close(os.open(path, os.O_WRONLY))


def attach_to(pid):
    PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
    # A tracer that ends lets go.
    in_child(lambda: call("ptrace", PTRACE_SEIZE, pid, 0, 0))


def read_memory(pid):
    target = int(open(f"/proc/{os.getpid()}/maps").readline().split("-")[0], 16)
    space = ctypes.create_string_buffer(8)
    ours = struct.pack("QQ", ctypes.addressof(space), 8)
    theirs = struct.pack("QQ", target, 8)
    try:
        call("vm_readv", pid, ctypes.c_char_p(ours), 1, ctypes.c_char_p(theirs), 1, 0)
    except OSError as failed:
        # The address is ours, not theirs: that it was looked at is all that counts.
        if failed.errno != 14:
            raise


def open_memory(pid):
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))


def take_descriptor(pid):
    pidfd = call(PIDFD_OPEN, pid, 0)
    os.close(call(PIDFD_GETFD, pidfd, 0, 0))


def signal_by_pidfd(pid):
    pidfd = call(PIDFD_OPEN, pid, 0)
    call(PIDFD_SIGNAL, pidfd, 18, 0, 0)


def next_program():
    attributes = ctypes.create_string_buffer(struct.pack("QQ", 0, 0) + bytes(128))
    BPF_PROG_GET_NEXT_ID = 11
    call("bpf", BPF_PROG_GET_NEXT_ID, attributes, 128)


def count_something():
    PERF_TYPE_SOFTWARE, SIZE = 1, 64
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", PERF_TYPE_SOFTWARE, SIZE, 1) + bytes(112))
    os.close(call("perf_event_open", attributes, 0, -1, -1, 0))


def mount(kind, target):
    if libc.mount(b"none", target.encode(), kind, 0, None):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def umount(target):
    MNT_DETACH = 2
    if libc.umount2(target.encode(), MNT_DETACH):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def move_mount():
    OPEN_TREE_CLONE, AT_FDCWD, MOVE_MOUNT_F_EMPTY_PATH = 1, -100, 4
    tree = call(OPEN_TREE, AT_FDCWD, ctypes.c_char_p(f"{place}/from".encode()), OPEN_TREE_CLONE)
    target = ctypes.c_char_p(f"{place}/to".encode())
    call(MOVE_MOUNT, tree, ctypes.c_char_p(b""), AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH)
    umount(f"{place}/to")


def configure():
    FSCONFIG_SET_STRING = 1
    context = call(FSOPEN, ctypes.c_char_p(b"tmpfs"), 0)
    try:
        call(FSCONFIG, context, FSCONFIG_SET_STRING, ctypes.c_char_p(b"source"), ctypes.c_char_p(b"x"), 0)
    finally:
        os.close(context)


def load_file():
    file = os.open(f"{place}/no-module", os.O_RDONLY)
    call("finit_module", file, ctypes.c_char_p(b""), 0)


def load_data():
    data = ctypes.create_string_buffer(b"no module", 64)
    call("init_module", data, 64, ctypes.c_char_p(b""))


def make_tun():
    TUNSETIFF, IFF_TUN = 0x400454CA, 1
    import fcntl
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"guard%d", IFF_TUN))
    os.close(device)


def own_child(attempt):
    def try_it():
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        try:
            attempt(child)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
    return try_it


def own_sandbox():
    CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    open("/proc/self/uid_map", "w").write("0 0 1")
    mount(b"tmpfs", place + "/to")
    umount(place + "/to")


def two_processes_talk():
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b"x"], [0])
    assert len(socket.recv_fds(theirs, 1, 1)[1]) == 1


def own_setting(name, text):
    def write():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return write


AF_NETLINK = socket.AF_NETLINK
REFUSED = [
    ("socket_create packet", open_socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300)),
    ("socket_create packet-of-inet", open_socket(socket.AF_INET, 10, 0x0300)),
    ("socket_create uevent", open_socket(AF_NETLINK, socket.SOCK_RAW, 15)),
    ("ptrace_access_check attach", lambda: attach_to(victim)),
    ("ptrace_access_check read", lambda: read_memory(victim)),
    ("ptrace_access_check memory", lambda: open_memory(victim)),
    ("ptrace_access_check descriptor", lambda: take_descriptor(victim)),
    ("task_kill kill", lambda: os.kill(victim, 18)),
    ("task_kill pidfd", lambda: signal_by_pidfd(victim)),
    ("bpf next", next_program),
    ("perf_event_open count", count_something),
    ("inode_rename pin", lambda: (os.rename(f"{pins}/pin", f"{pins}/nip"), os.rename(f"{pins}/nip", f"{pins}/pin"))),
    ("inode_unlink pin", lambda: os.unlink(f"{pins}/pin")),
    ("inode_rmdir pins", lambda: os.rmdir(f"{pins}/directory")),
    ("inode_rmdir cgroup", lambda: os.rmdir(f"{cgroup}/empty")),
    ("sb_mount tmpfs", lambda: (mount(b"tmpfs", f"{place}/to"), umount(f"{place}/to"))),
    ("sb_umount place", lambda: umount(f"{place}/mounted")),
    ("move_mount tree", move_mount),
    ("sb_pivotroot root", lambda: call("pivot_root", ctypes.c_char_p(b"/"), ctypes.c_char_p(b"/"))),
    ("fs_context_parse_param source", configure),
    ("kernel_read_file module", load_file),
    ("kernel_load_data module", load_data),
    ("file_open sysctl", write_nothing("/proc/sys/kernel/domainname")),
    ("file_open sysrq", write_nothing("/proc/sysrq-trigger")),
    ("file_open sysfs", write_nothing("/sys/module/kernel/parameters/panic")),
    ("file_open cgroup", write_nothing(f"{cgroup}/cgroup.procs")),
    ("file_open memory", lambda: os.close(os.open("/dev/mem", os.O_RDONLY))),
    ("file_open tun", make_tun),
]
ALLOWED = [
    ("socket_create unix", open_socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)),
    ("socket_create route", open_socket(AF_NETLINK, socket.SOCK_RAW, 0)),
    ("socket_create tcp", open_socket(socket.AF_INET, socket.SOCK_STREAM, 0)),
    ("ptrace_access_check own", own_child(attach_to)),
    ("task_kill own", own_child(lambda child: os.kill(child, 18))),
    ("file_receive own", two_processes_talk),
    ("file_open oom_score_adj", own_setting("oom_score_adj", "100")),
    ("file_open comm", own_setting("comm", "tries")),
    ("file_open null", write_nothing("/dev/null")),
    ("file_open place", write_nothing(f"{place}/no-module")),
    ("sb_mount own-sandbox", lambda: in_child(own_sandbox)),
]
for label, attempt in REFUSED:
    report(f"refused {label}", attempt)
for label, attempt in ALLOWED:
    report(f"allowed {label}", attempt)
