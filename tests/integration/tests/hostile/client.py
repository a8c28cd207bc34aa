"""A client that means no good. `client.py UID MODE ARGUMENTS...`; a UID of 0 stays what it is."""
import array, ctypes, json, os, resource, select, signal, socket, struct, sys, time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

SETTINGS = frame(4, 0, 0)
GREETING = PREFACE + SETTINGS

def headers(*more):
    def literal(name, value):
        return bytes([0, len(name)]) + name + bytes([len(value)]) + value
    fields = [(b":path", b"/SpiffeWorkloadAPI/FetchX509SVID"), (b":authority", b"x"), (b"content-type", b"application/grpc"),
              (b"te", b"trailers"), (b"workload.spiffe.io", b"true"), *more]
    return b"\x83\x86" + b"".join(literal(*field) for field in fields)

def say(what):
    print(json.dumps(what), flush=True)

def connect(path, patience=30):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(patience)
    one.connect(path)
    return one

def connect_in_turn(path, patience=30):
    """As `connect`, but where as many wait as the listener has room for, waits as well."""
    end = time.monotonic() + patience
    while True:
        try:
            return connect(path)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.001)

def send(one, *parts):
    try:
        for part in parts:
            one.sendall(part)
    except OSError:
        pass

def read(one, seconds):
    """What comes until something is given or refused, or the time is over."""
    end, got = time.monotonic() + seconds, b""
    while (left := end - time.monotonic()) > 0 and b"spiffe://" not in got and not (got.startswith(b"HTTP/1.1") and b"\r\n\r\n" in got):
        one.settimeout(left)
        try:
            more = one.recv(65536)
        except OSError:
            break
        if not more:
            break
        got += more
    return got.decode("latin-1")

def is_open(one):
    """Whether the far end has not closed it; what it sent is read."""
    one.settimeout(0)
    try:
        while more := one.recv(65536):
            pass
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False

# One process after another, on one connection.

def fork_as(number):
    """A child with this number."""
    ids = (ctypes.c_int * 1)(number)
    arguments = struct.pack("<11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(ids), 1, 0)
    buffer = ctypes.create_string_buffer(arguments)
    libc = ctypes.CDLL(None, use_errno=True)
    pid = libc.syscall(435, buffer, ctypes.c_size_t(len(arguments)))
    if pid < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pid

def serve_as_child(one, path, commands, answers):
    """Does what the agent says on the agent's connection."""
    for line in os.fdopen(commands):
        what, text, seconds = json.loads(line)
        if what == "connect":
            one.connect(path)
        send(one, text.encode("latin-1"))
        got = read(one, seconds) if seconds else ""
        os.write(answers, (json.dumps(got) + "\n").encode())
    os._exit(0)

def agent():
    one = child = listener = to_child = from_child = None
    def begin(fork, path):
        nonlocal to_child, from_child
        commands, to = os.pipe()
        back, answers = os.pipe()
        pid = fork()
        if pid == 0:
            os.close(to), os.close(back)
            serve_as_child(one, path, commands, answers)
        os.close(commands), os.close(answers)
        to_child, from_child = to, os.fdopen(back)
        return pid
    def tell(what, text, seconds):
        os.write(to_child, (json.dumps([what, text, seconds]) + "\n").encode())
        return json.loads(from_child.readline())
    for line in sys.stdin:
        match json.loads(line):
            case ["connect", path]:
                one = connect(path)
                say("ok")
            case ["child", path]:
                one = socket.socket(socket.AF_UNIX)
                child = begin(os.fork, path)
                tell("connect", "", 0)
                say(child)
            case ["as", number]:
                try:
                    child = begin(lambda: fork_as(number), None)
                    say("ok")
                except OSError as error:
                    say(str(error))
            case ["tell", text, seconds]:
                say(tell("write", text, seconds))
            case ["end"]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                say("ok")
            case ["write", text, seconds]:
                send(one, text.encode("latin-1"))
                say(read(one, seconds))
            case ["listen", place]:
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(place)
                listener.listen()
                say("ok")
            case ["take"]:
                giver, _ = listener.accept()
                _, control, _, _ = giver.recvmsg(1, socket.CMSG_SPACE(4))
                one = socket.socket(fileno=struct.unpack("i", control[0][2])[0])
                say("ok")
            case ["give", place]:
                connect(place).sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno()]))])
                one.close()
                say("ok")

# Many connections.

def hold(path, count):
    held = [connect_in_turn(path) for _ in range(int(count))]
    say(len(held))
    for _ in sys.stdin:
        say(sum(map(is_open, held)))

def press(path, count):
    """Has so many connections, or is on the way to them, all the time from the first line that it reads on."""
    sys.stdin.readline()
    held = []
    while not select.select([sys.stdin], [], [], 0)[0]:
        was = len(held)
        held = [one for one in held if is_open(one)]
        while len(held) < int(count):
            try:
                held.append(connect(path))
            except OSError:
                break
        if was == 0:
            say("pressing")

def halves(path, rounds):
    begun = b"POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    request = frame(1, 4, 1, headers())
    parts = [
        [b"G"],
        [b"GET /v1/status HTTP/1.1\r\nhost: x\r\n"],
        [b"GET /v1/status HTTP/1.1\r\n", *[b"x-%d: y\r\n" % n for n in range(2000)]],
        [b"GET /v1/status HTTP/1.1\r\n", *[b"x: " + b"y" * 65536] * 100],
        [begun + b"content-length: 1000\r\n\r\n{\"envelope\": \""],
        [begun + b"content-length: 1000000\r\n\r\n{\"envelope\": \"" + b"x" * 900000],
        [begun + b"transfer-encoding: chunked\r\n\r\n", b"c\r\n{\"envelope\":\r\n"],
        [begun + b"transfer-encoding: chunked\r\n\r\n", b"fffffffffffffff\r\n{"],
        [begun + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\nGET /v1/enforcement"],
        [begun + b"expect: 100-continue\r\ncontent-length: 1000000\r\n\r\n"],
        [PREFACE[:10]],
        [GREETING],
        [GREETING, request[:20]],
        # Requests that never come to their end.
        [GREETING, *[frame(1, 4, stream, headers()) + frame(0, 0, stream, b"\0") for stream in range(1, 65, 2)]],
        # Headers that never come to their end, and too many of them.
        [GREETING, frame(1, 0, 1, headers()), *[frame(9, 0, 1, headers()[2:])] * 5000],
        [GREETING, frame(1, 0, 1, headers()), *[frame(9, 0, 1)] * 20000],
        [GREETING, frame(1, 0, 1, headers()), *[frame(9, 0, 1, b"\x40\x01a\x7f\x81\x7e" + b"b" * 16000)] * 100],
        # What has to be answered, by a client that does not read.
        [GREETING, *[SETTINGS] * 20000],
        [GREETING, *[frame(6, 0, 0, bytes(8))] * 20000],
        [GREETING, *[frame(1, 5, stream, headers()) + frame(3, 0, stream, bytes([0, 0, 0, 8])) for stream in range(1, 8001, 2)]],
        [GREETING, *[frame(2, 0, stream, bytes([0, 0, 0, 0, 1])) for stream in range(1, 20001, 2)]],
        [GREETING, frame(8, 0, 0, bytes([127, 255, 255, 255])) * 2],
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(500)],
        [os.urandom(1 << 16)] * 16,
        [bytes(1 << 16)] * 16,
    ]
    held = []
    for _ in range(int(rounds)):
        for part in parts:
            try:
                one = connect(path)
            except OSError:
                continue
            one.settimeout(1)
            send(one, *part)
            held.append(one)
    say(len(held))
    for _ in sys.stdin:
        say(sum(map(is_open, held)))

def large(path, seconds):
    """100 MB, in whatever form. What is said to each."""
    block = 1 << 16
    count = 1600
    answers = {}
    for to in ["POST /v1/sessions", "POST /v1/registrations", "PUT /v1/envelope", "GET /v1/status", "DELETE /v1/sessions/x", "POST /nothing",
               "POST /SpiffeWorkloadAPI/FetchX509SVID"]:
        for what, first, rest in [("zeros", bytes(block), bytes(block)), ("spaces", b" " * block, b" " * block),
                                  ("text", b'{"envelope":"' + b"x" * (block - 13), b"x" * block)]:
            for how in ["length", "chunks"]:
                one = connect(path)
                one.settimeout(float(seconds))
                said = f"content-length: {block * count}" if how == "length" else "transfer-encoding: chunked"
                send(one, f"{to} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{said}\r\n\r\n".encode())
                for number in range(count):
                    data = rest if number else first
                    part = data if how == "length" else b"%x\r\n%b\r\n" % (len(data), data)
                    try:
                        one.sendall(part)
                    except OSError:
                        break
                answers[f"{to} {what} {how}"] = [number + 1, read(one, float(seconds))[:12]]
                one.close()
    say(answers)
    sys.stdin.read()

def messages(path, seconds):
    """A message of 100 MB, on each of some streams."""
    one = connect(path)
    one.settimeout(float(seconds))
    send(one, GREETING, *[frame(1, 4, stream, headers()) + frame(0, 0, stream, bytes([0, 6, 0, 0, 0])) for stream in range(1, 33, 2)],
         *[frame(0, 0, stream, bytes(1 << 14)) for _ in range(6400) for stream in [1, 3]])
    say(read(one, float(seconds)))
    sys.stdin.read()

def deaf(path, count):
    """Asks, and does not read."""
    asked = [b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n" * 50, b"GET /v1/events?follow=true HTTP/1.1\r\nhost: x\r\n\r\n",
             b"GET /v1/sessions HTTP/1.1\r\nhost: x\r\n\r\n" * 5000, b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n" * 20000,
             PREFACE + frame(4, 0, 0, bytes([0, 4, 0, 0, 0, 0])) + b"".join(frame(1, 5, stream, headers()) for stream in range(1, 33, 2))]
    held = []
    for number in range(int(count)):
        try:
            one = connect(path)
            one.settimeout(0.2)
            send(one, asked[number % len(asked)])
            held.append(one)
        except OSError:
            pass
    say(len(held))
    sys.stdin.read()

def asks(path):
    """The first line of what is said to each."""
    answers = []
    for request in json.loads(sys.stdin.readline()):
        one = connect(path)
        send(one, request.encode("latin-1"))
        answers.append(read(one, 5).split("\r\n")[0])
        one.close()
    say(answers)

uid, mode, *arguments = sys.argv[1:]
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
if int(uid):
    os.setgroups([])
    os.setgid(65534)
    os.setuid(int(uid))
globals()[mode](*arguments)
