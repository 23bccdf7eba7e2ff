"""What a hostile program may try. Each prints ESCAPED where it got through; other effects the tests look for.

`SECRET`, `VICTIM`, `FOLDER`, `PARENT`, `BYSTANDER`, `PORT` and `SOCKET` are filled in by the test: a file to read, a
file to alter, a folder to write to, two processes to harm, a TCP port (UDP: one higher) and an abstract socket.
System calls are made directly, through ctypes, so that it is the kernel that is tested and not Python's functions.
"""

from __future__ import annotations

from typing import NamedTuple

_CALLS = """
import ctypes, os, platform
NUMBERS = {  # x86_64, aarch64
    "openat": (257, 56), "mkdirat": (258, 34), "unlinkat": (263, 35), "fchmodat": (268, 53), "symlinkat": (266, 36),
    "clone": (56, 220), "execve": (59, 221), "kill": (62, 129), "ptrace": (101, 117), "socket": (41, 198),
    "memfd_create": (319, 279), "unshare": (272, 97), "prlimit64": (302, 261), "process_vm_readv": (310, 270),
    "renameat": (264, 38), "truncate": (76, 45), "mount": (165, 40), "bpf": (321, 280), "keyctl": (250, 219),
    "io_uring_setup": (425, 425), "pidfd_open": (434, 434), "setsid": (112, 157), "tgkill": (234, 131),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "shmget": (29, 194), "dup": (32, 23),
    "ioctl": (16, 29), "chdir": (80, 49), "setuid": (105, 146), "inotify_init1": (294, 26), "seccomp": (317, 277),
}
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    found = libc.syscall(NUMBERS[name][platform.machine() == "aarch64"], *arguments)
    if found >= 0:
        print("ESCAPED", name, found, flush=True)
    return found
"""
_OS = "import os, signal, socket, subprocess, sys, threading, time, resource, multiprocessing\n"


class Attempt(NamedTuple):
    """A program and what it is after."""

    name: str
    code: str
    timeout_s: float = 3.0


def _by_os(name: str, body: str, timeout_s: float = 3.0) -> Attempt:
    return Attempt(name, _OS + body, timeout_s)


def _by_call(name: str, body: str, timeout_s: float = 3.0) -> Attempt:
    return Attempt(name, _CALLS + body, timeout_s)


ATTEMPTS = [
    # processes
    _by_os("fork bomb", "while True:\n    os.fork()\n    print('ESCAPED', flush=True)"),
    _by_call("fork bomb by system call", "for _ in range(100):\n    call('clone', 17, None, None, None, 0)"),
    _by_call("fork by the C library", "if libc.fork() >= 0:\n    print('ESCAPED')"),
    _by_call("vfork by the C library", "if libc.vfork() >= 0:\n    print('ESCAPED')\n    os._exit(0)"),
    _by_os(
        "twelve children of 200 MB",
        "for _ in range(12):\n    multiprocessing.Process(target=bytearray, args=(200 * 2**20,)).start()\n"
        "print('ESCAPED')",
    ),
    _by_os(
        "daemon by two forks",
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(60)\nprint('ESCAPED')",
    ),
    _by_os("child that keeps the pipe", "if os.fork() == 0:\n    time.sleep(60)\nprint('ESCAPED')"),
    _by_os(
        "5,000 threads",
        "for _ in range(5000):\n    threading.Thread(target=time.sleep, args=(60,)).start()\n    print('ESCAPED')",
    ),
    _by_call("shell by the C library", "if libc.system(b'echo ESCAPED') == 0:\n    print('ESCAPED')"),
    _by_os("shell by os.system", "if os.system('echo ESCAPED') == 0:\n    print('ESCAPED')"),
    _by_os("shell by subprocess", "print(subprocess.run(['/bin/echo', 'ESCAPED'], capture_output=True))"),
    _by_os("posix_spawn", "os.posix_spawn('/bin/echo', ['/bin/echo', 'ESCAPED'], {})\nprint('ESCAPED')"),
    _by_os("become a shell", "os.execv('/bin/echo', ['/bin/echo', 'ESCAPED'])"),
    _by_call(
        "become a shell by system call",
        "argv = (ctypes.c_char_p * 3)(b'/bin/echo', b'ESCAPED', None)\ncall('execve', b'/bin/echo', argv, None)",
    ),
    # memory and time
    Attempt("3 GB at once", "x = bytearray(3 * 10**9)\nprint('ESCAPED')"),
    Attempt(
        "memory bit by bit", "x = []\nwhile len(x) < 400:\n    x.append(bytearray(2**20))\nprint('ESCAPED')"
    ),
    Attempt(
        "memory by shared mappings",
        "import mmap\nx = [mmap.mmap(-1, 2**20) for _ in range(400)]\nprint('ESCAPED')",
    ),
    _by_call("files in memory", "for _ in range(100):\n    call('memfd_create', b'x', 0)"),
    _by_call("System V shared memory", "call('shmget', 0, ctypes.c_size_t(2**30), 0o1600)"),
    Attempt("endless loop", "while True:\n    pass", 1.0),
    Attempt("sleep", "import time\ntime.sleep(60)\nprint('ESCAPED')", 1.0),
    _by_os(
        "deaf to all signals",
        "for number in range(1, 65):\n    try:\n        signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError):\n        pass\nwhile True:\n    pass",
        1.0,
    ),
    Attempt(
        "unbounded recursion",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f():\n    f()\nf()\nprint('ESCAPED')",
        1.0,
    ),
    Attempt(
        "a hundred million digits", "import sys\nsys.set_int_max_str_digits(0)\nprint(10**100000000)", 1.0
    ),
    Attempt(
        "regular expression without end",
        "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')\nprint('ESCAPED')",
        1.0,
    ),
    _by_os(
        "raise its own limits",
        "resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)\nprint('ESCAPED')",
    ),
    _by_call(
        "raise its own limits by system call",
        "new = (ctypes.c_ulong * 2)(2**40, 2**40)\ncall('prlimit64', 0, 9, new, None)",
    ),
    _by_call(
        "lower the limits of the parent",
        "new = (ctypes.c_ulong * 2)(0, 0)\ncall('prlimit64', PARENT, 7, new, None)",
    ),
    # files
    Attempt("read a secret", "print(open('SECRET').read())"),
    _by_call(
        "read a secret by system call",
        "got = call('openat', -100, b'SECRET', 0)\nif got >= 0:\n    print(os.read(got, 100))",
    ),
    Attempt("read the users", "print('ESCAPED', open('/etc/passwd').read())"),
    Attempt("read the environment of others", "print('ESCAPED', open('/proc/PARENT/environ', 'rb').read())"),
    _by_os("read its own environment", "print(dict(os.environ))\nprint(os.environb)"),
    Attempt("read the memory of others", "print('ESCAPED', open('/proc/PARENT/mem', 'rb'))"),
    Attempt("reach the root of others", "import os\nprint('ESCAPED', os.listdir('/proc/PARENT/root'))"),
    _by_os("list the files of others", "print('ESCAPED', os.listdir('FOLDER'))"),
    _by_os("learn whether a file exists", "print('ESCAPED' if os.path.exists('SECRET') else 'no')"),
    _by_os(
        "fill the working folder",
        "for number in range(100):\n    with open(f'{number}.bin', 'wb') as file:\n        file.write(bytes(2**20))\n"
        "        print('ESCAPED')",
    ),
    Attempt(
        "fill a folder",
        "with open('FOLDER/filled', 'wb') as file:\n    file.write(bytes(2**20))\nprint('ESCAPED')",
    ),
    Attempt(
        "fill /dev/shm",
        "with open('/dev/shm/filled', 'wb') as file:\n    file.write(bytes(2**20))\nprint('ESCAPED')",
    ),
    Attempt("fill /tmp", "import tempfile\nprint('ESCAPED', tempfile.mkstemp())"),
    _by_os("200,000 folders", "for number in range(200000):\n    os.mkdir(f'FOLDER/{number}')"),
    _by_call(
        "a tree of 300 folders", "call('mkdirat', -100, b'FOLDER/deep', 0o700)\ncall('chdir', b'FOLDER')"
    ),
    Attempt("append to a start-up file", "open('VICTIM', 'a').write('alias ls=rm')"),
    _by_os("delete a file", "os.unlink('VICTIM')"),
    _by_call("delete a file by system call", "call('unlinkat', -100, b'VICTIM', 0)"),
    _by_call("empty a file by system call", "call('truncate', b'VICTIM', 0)"),
    _by_call("rename a file by system call", "call('renameat', -100, b'VICTIM', -100, b'FOLDER/renamed')"),
    _by_os("change the rights to a file", "os.chmod('VICTIM', 0o777)"),
    _by_call("change the rights by system call", "call('fchmodat', -100, b'VICTIM', 0o777)"),
    _by_os(
        "write through a link", "os.symlink('VICTIM', 'FOLDER/link')\nopen('FOLDER/link', 'w').write('x')"
    ),
    _by_call("link by system call", "call('symlinkat', b'VICTIM', -100, b'FOLDER/link')"),
    _by_call("watch files", "call('inotify_init1', 0)"),
    _by_os(
        "write to inherited descriptors",
        "for number in range(3, 1024):\n    try:\n        os.write(number, b'x')\n        print('ESCAPED', number)\n"
        "    except OSError:\n        pass",
    ),
    _by_os("use up the descriptors", "while True:\n    os.dup(1)\n    print('ESCAPED')"),
    _by_call("duplicate by system call", "call('dup', 1)"),
    _by_call("type into the terminal", "call('ioctl', 0, 0x5412, b'x')"),
    # network
    _by_os(
        "TCP to a service of this machine", "socket.create_connection(('127.0.0.1', PORT))\nprint('ESCAPED')"
    ),
    _by_os(
        "UDP",
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.sendto(b'x', ('127.0.0.1', PORT + 1))\n"
        "print('ESCAPED')",
    ),
    _by_os("abstract socket", "s = socket.socket(socket.AF_UNIX)\ns.connect('\\0SOCKET')\nprint('ESCAPED')"),
    _by_os("listen", "s = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()\nprint('ESCAPED')"),
    _by_os("ask a name server", "print(socket.gethostbyname('localhost'), 'ESCAPED')"),
    _by_call(
        "sockets by system call",
        "for family in range(50):\n    for kind in (1, 2, 3):\n        call('socket', family, kind, 0)",
    ),
    # signals and other processes
    _by_os("terminate the parent", "os.kill(os.getppid() or PARENT, signal.SIGTERM)\nprint('ESCAPED')"),
    _by_os("stop the parent", "os.kill(PARENT, signal.SIGSTOP)\nprint('ESCAPED')"),
    _by_os("urge the parent", "os.kill(PARENT, signal.SIGURG)\nprint('ESCAPED')"),
    _by_os("kill everything", "os.kill(-1, signal.SIGKILL)\nprint('ESCAPED')"),
    _by_call("kill by system call", "call('kill', BYSTANDER, 9)\ncall('tgkill', BYSTANDER, BYSTANDER, 9)"),
    _by_call("trace the parent", "call('ptrace', 16, PARENT, None, None)"),
    _by_call("trace a bystander", "call('ptrace', 16, BYSTANDER, None, None)"),
    _by_call("read a bystander's memory", "call('process_vm_readv', BYSTANDER, None, 0, None, 0, 0)"),
    _by_call("hold a bystander", "call('pidfd_open', BYSTANDER, 0)"),
    # the kernel's surface
    _by_call("new user namespace", "call('unshare', 0x10000000)"),
    _by_call("mount", "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)"),
    _by_call("load BPF", "call('bpf', 0, None, 0)"),
    _by_call("keys of the kernel", "call('keyctl', 0, -3, 1)"),
    _by_call("calls by a ring", "call('io_uring_setup', 1, bytes(120))"),
    _by_call("watch performance", "call('perf_event_open', bytes(120), 0, -1, -1, 0)"),
    _by_call("handle page faults", "call('userfaultfd', 1)"),
    _by_call("leave its session", "call('setsid')"),
    _by_call("become somebody else", "call('setuid', 0)"),
    _by_call("another filter", "call('seccomp', 1, 0, None)"),
    # output and death
    Attempt("endless output", "while True:\n    print('x' * 10000)"),
    Attempt("endless errors", "import sys\nwhile True:\n    sys.stderr.write('x' * 10000)"),
    Attempt("output that is not UTF-8", "import sys\nsys.stdout.buffer.write(bytes(range(256)) * 10)"),
    Attempt("commands to the terminal", "print('\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\x90\\r\\x08')"),
    Attempt("segmentation fault", "import ctypes\nctypes.string_at(0)"),
    Attempt("core dump", "import os\nos.abort()"),
    Attempt("NUL in the source", "print('ESCAPED')\0"),
    Attempt("200 kB of source", "x = '" + "a" * 200_000 + "'"),
    Attempt("2 MB of source", "print('ESCAPED')\n#" + "a" * 2 * 2**20),
    Attempt("half a character in the source", "print('\ud800')"),
    Attempt("nested source", "x = " + "(" * 50_000),
    Attempt("names of all modules", "import sys\n" + "'''{}'''\nimport this, antigravity\nprint('ESCAPED')"),
]
