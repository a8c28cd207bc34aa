"""The demo's agent. It knows nothing of enforcer: it only makes connections, itself and through its children.

Arguments: the allowed and the refused address, each as host:port, and a refused IPv6 port. Runs once, then once more for
every line on its standard input. Prints one line per attempt.
"""
import errno
import os
import socket
import subprocess
import sys

ALLOWED, REFUSED = sys.argv[1], sys.argv[2]
V6_PORT = int(sys.argv[3])


def attempt(who, address, kind=socket.SOCK_STREAM, family=socket.AF_INET):
    shown = "%s:%s" % (address[0], address[1]) if family == socket.AF_INET else "[%s]:%s" % address[:2]
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    try:
        with socket.socket(family, kind) as sock:
            sock.settimeout(5)
            if kind == socket.SOCK_STREAM:
                sock.connect(address)
                outcome = "connected, server says %r" % sock.recv(64).decode().strip()
            else:
                sock.sendto(b"hello", address)
                outcome = "sent"
    except OSError as error:
        outcome = "refused: %s" % errno.errorcode.get(error.errno, error.errno)
    print("  %-22s %s %-20s %s" % (who, protocol, shown, outcome), flush=True)


def split(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


def shell(address):
    """A shell opens the connection by itself (bash's /dev/tcp)."""
    host, port = split(address)
    script = 'exec 3<>/dev/tcp/%s/%d && read -r line <&3 && echo "$line"' % (host, port)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    if done.returncode == 0:
        outcome = "connected, server says %r" % done.stdout.strip()
    else:
        outcome = "refused: EPERM" if "Operation not permitted" in done.stderr else done.stderr.strip()
    print("  %-22s tcp %-20s %s" % ("shell", address, outcome), flush=True)


def python_child():
    """Another interpreter, IPv6 and UDP."""
    subprocess.run([sys.executable, __file__, ALLOWED, REFUSED, str(V6_PORT), "child"], check=True)


def grandchild():
    """Forks twice and starts a session of its own: reparented to init, out of the process group."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() > 0:
            os._exit(0)
        attempt("double-forked daemon", split(REFUSED))
        os.write(write, b"x")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    os.read(read, 1)
    os.close(read)


def everything():
    attempt("agent", split(ALLOWED))
    attempt("agent", split(REFUSED))
    shell(ALLOWED)
    shell(REFUSED)
    python_child()
    grandchild()


if len(sys.argv) > 4:
    attempt("python child", ("::1", V6_PORT, 0, 0), family=socket.AF_INET6)
    attempt("python child", split(REFUSED), kind=socket.SOCK_DGRAM)
else:
    everything()
    print("done", flush=True)
    for _ in sys.stdin:
        attempt("agent", split(ALLOWED))
        attempt("agent", split(REFUSED))
        grandchild()
        print("done", flush=True)
