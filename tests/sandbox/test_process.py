"""A locked process: every attempt of the battery is contained, and nothing is left of it afterwards."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sandbox.attempts import ATTEMPTS, Attempt

from nanochat_pl.sandbox import locked, process
from nanochat_pl.sandbox.process import run_python, tier
from nanochat_pl.sandbox.seccomp import allowed_numbers, this_machine
from nanochat_pl.system.errors import Failure

pytestmark = pytest.mark.skipif(this_machine() is None, reason="no filter of system calls for this machine")

TOKEN = "hf_do_not_read_me"
UNLOCKED = "import nanochat_pl.sandbox.inside as inside; inside.lock = lambda: []"
SECCOMP_ALONE = "import nanochat_pl.sandbox.confine as c; c.forbid_everything = lambda libc: False"


class Surroundings(NamedTuple):
    """What a program could harm, and what it looked like before."""

    folder: Path
    secret: Path
    victim: Path
    bystander: subprocess.Popen[bytes]
    listeners: list[socket.socket]
    port: int

    def aim(self, code: str) -> str:
        """Fill the names of what is here into a program."""
        names = {
            "SECRET": self.secret,
            "VICTIM": self.victim,
            "FOLDER": self.folder,
            "PARENT": os.getpid(),
            "BYSTANDER": self.bystander.pid,
            "PORT": self.port,
            "SOCKET": f"nanochat-{os.getpid()}",
        }
        for name, value in names.items():
            code = code.replace(name, str(value))
        return code

    def assert_unharmed(self) -> None:
        assert self.secret.read_text() == TOKEN
        assert self.victim.read_text() == "export PATH\n"
        assert self.victim.stat().st_mode & 0o777 == 0o644
        assert sorted(path.name for path in self.folder.iterdir()) == ["bashrc", "token"]
        assert self.bystander.poll() is None
        assert _state(self.bystander.pid) in "SR"
        assert not Path("/dev/shm/filled").exists()
        for listener in self.listeners:
            with pytest.raises(BlockingIOError):
                listener.recv(1) if listener.type == socket.SOCK_DGRAM else listener.accept()
        assert not _left_processes()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _left_processes() -> list[str]:
    """Return the locked processes of this checkout that still run after a moment of grace."""
    for _ in range(100):
        if not (left := _running()):
            return []
        time.sleep(0.1)
    return left


def _running() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except OSError:
            continue
        if locked._BOOT.encode() in arguments and locked._ROOT.encode() in arguments:
            found.append(path.parent.name)
    return found


def _listener(kind: int, family: int, address: object) -> socket.socket:
    listener = socket.socket(family, kind)
    listener.bind(address)
    if kind == socket.SOCK_STREAM:
        listener.listen()
    listener.setblocking(False)
    return listener


def _neighbouring_listeners() -> tuple[list[socket.socket], int]:
    """Listen on a TCP port, on the UDP port one higher and on an abstract socket."""
    while True:
        tcp = _listener(socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", 0))
        port = tcp.getsockname()[1]
        try:
            udp = _listener(socket.SOCK_DGRAM, socket.AF_INET, ("127.0.0.1", port + 1))
        except (OSError, OverflowError):
            tcp.close()
            continue
        abstract = _listener(socket.SOCK_STREAM, socket.AF_UNIX, f"\0nanochat-{os.getpid()}")
        return [tcp, udp, abstract], port


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    folder = tmp_path_factory.mktemp("home")
    (folder / "token").write_text(TOKEN)
    (folder / "bashrc").write_text("export PATH\n")
    (folder / "bashrc").chmod(0o644)
    bystander = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    listeners, port = _neighbouring_listeners()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        yield Surroundings(folder, folder / "token", folder / "bashrc", bystander, listeners, port)
    for listener in listeners:
        listener.close()
    bystander.kill()
    bystander.wait()


def _patched(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Let locked processes run a line before they do their job."""
    monkeypatch.setattr(locked, "_BOOT", locked._BOOT.replace("sys.path.pop()", f"{line}; sys.path.pop()"))


def _assert_contained(attempt: Attempt, surroundings: Surroundings) -> None:
    completed = run_python(surroundings.aim(attempt.code), timeout_s=attempt.timeout_s)
    printed = completed.stdout + completed.stderr
    assert "ESCAPED" not in completed.stdout, attempt.name
    assert TOKEN not in printed
    assert len(printed) <= 2 * locked.KEPT_OUTPUT_BYTES
    assert all(character.isprintable() or character in "\n\t\ufffd" for character in completed.stdout)
    surroundings.assert_unharmed()


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_an_attempt_is_contained(attempt, surroundings):
    _assert_contained(attempt, surroundings)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_an_attempt_is_contained_without_landlock(attempt, surroundings, monkeypatch):
    _patched(monkeypatch, SECCOMP_ALONE)
    _assert_contained(attempt, surroundings)


def test_there_are_eighty_attempts():
    assert len({attempt.name for attempt in ATTEMPTS}) >= 80


# uretprobe and uprobe of x86_64: the kernel lets them past filters and ends who calls them without its own trampoline
KILLED_BY_THE_KERNEL = (335, 336)
HARMLESS_TO_US = (
    "read a secret",
    "read a secret by system call",
    "learn whether a file exists",
    "TCP to a service of this machine",
    "fork by the C library",
    "shell by os.system",
    "new user namespace",
    "listen",
)


@pytest.mark.parametrize("name", HARMLESS_TO_US)
def test_without_the_lock_the_same_attempt_succeeds(name, surroundings, monkeypatch):
    _patched(monkeypatch, UNLOCKED)
    (code,) = [attempt.code for attempt in ATTEMPTS if attempt.name == name]
    stdout = run_python(surroundings.aim(code), unsafe_code=True).stdout
    assert "ESCAPED" in stdout or TOKEN in stdout
    if name.startswith("TCP"):
        surroundings.listeners[0].accept()[0].close()


def test_every_call_off_the_list_is_refused():
    """All numbers an architecture has, and those of x86_64's second set, by the kernel's own answer."""
    skipped = {*allowed_numbers(this_machine()).values(), *KILLED_BY_THE_KERNEL}
    numbers = [number for number in [*range(500), *range(2**30, 2**30 + 600)] if number not in skipped]
    code = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for number in {numbers}:
    ctypes.set_errno(0)
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1:
        print(number)
print("done")
"""
    assert run_python(code).stdout == "done\n"


@pytest.mark.parametrize("number", KILLED_BY_THE_KERNEL)
def test_probes_calls_that_pass_every_filter_kill_or_are_refused(number):
    code = f"import ctypes\nprint(ctypes.CDLL(None).syscall({number}, 0), flush=True)"
    completed = run_python(code)
    assert completed.exit_code == -signal.SIGILL or completed.stdout == "-1\n"


def test_calls_in_the_convention_of_another_architecture_kill():
    if this_machine() != "x86_64":
        pytest.skip("int 0x80 is of x86_64")
    code = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000" "cd80" "c3"))  # mov eax, 20 (getpid); int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
print(ctypes.CFUNCTYPE(ctypes.c_long)(address)(), flush=True)
"""
    completed = run_python(code)
    assert completed.stdout == ""
    assert completed.exit_code == -signal.SIGSYS


def test_the_parent_keeps_64_kb_and_kills_at_1_mb():
    completed = run_python("while True:\n    print('x' * 1000)")
    assert completed.output_exceeded
    assert completed.exit_code is None
    assert len(completed.stdout) == locked.KEPT_OUTPUT_BYTES


def test_output_below_the_cap_is_cut_but_the_program_ends_by_itself():
    completed = run_python("print('x' * 100_000)")
    assert completed[2:] == (0, False, False)
    assert len(completed.stdout) == locked.KEPT_OUTPUT_BYTES


def test_a_program_over_its_time_is_killed():
    completed = run_python("print('begun', flush=True)\nwhile True:\n    pass", timeout_s=0.5)
    assert completed == ("begun\n", "", None, True, False)


def test_a_program_that_closes_its_output_is_killed_too():
    code = "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)"
    assert run_python(code, timeout_s=0.5).timed_out


def test_an_honest_program_runs_as_python_runs_it():
    code = """
import collections, dataclasses, datetime, json, math, random, re, sys
@dataclasses.dataclass
class Point:
    x: int
name = input()
print(name, Point(1), sys.stdin.read())
print(json.dumps(collections.Counter("aab")), math.pi, re.sub("a", "b", "a"), "\\N{BULLET}")
print(datetime.datetime.strptime("2024-02-29", "%Y-%m-%d").date(), __name__, random.random() < 1)
sys.exit(3)
"""
    completed = run_python(code, stdin="Ada\nrest")
    assert completed.stderr == ""
    assert completed.stdout == (
        'Ada Point(x=1) rest\n{"a": 2, "b": 1} 3.141592653589793 b •\n2024-02-29 __main__ True\n'
    )
    assert completed.exit_code == 3


def test_an_error_shows_the_programs_lines_and_none_of_ours():
    completed = run_python("def f():\n    return 1 / 0\nf()")
    assert completed.exit_code == 1
    assert 'File "<program>", line 2, in f' in completed.stderr
    assert "nanochat_pl" not in completed.stderr


def test_more_input_than_a_pipe_holds_reaches_the_program():
    assert run_python("import sys\nprint(len(sys.stdin.read()))", stdin="x" * 500_000).stdout == "500000\n"
    assert run_python("pass", stdin="x" * 500_000).exit_code == 0


def test_death_is_told_from_failure():
    assert run_python("import ctypes\nctypes.string_at(0)").exit_code == -signal.SIGSEGV
    assert run_python("raise ValueError").exit_code == 1


@pytest.mark.parametrize("runs", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_runs_leave_no_process_no_file_and_no_descriptor(runs, surroundings):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(runs):
        run_python(f"print({number})")
    assert len(os.listdir("/proc/self/fd")) == before
    surroundings.assert_unharmed()


def test_a_kernel_without_seccomp_runs_nothing(surroundings, monkeypatch):
    _patched(monkeypatch, UNLOCKED)
    with pytest.raises(Failure, match="--unsafe_code"):
        run_python(f"open({str(surroundings.folder / 'made')!r}, 'w')")
    surroundings.assert_unharmed()


def test_a_process_that_could_not_lock_itself_runs_nothing_even_if_its_parent_goes_on(monkeypatch):
    _patched(monkeypatch, UNLOCKED)
    monkeypatch.setattr(process, "require_sandbox", lambda *_, **__: None)
    completed = run_python("print('run')")
    assert completed.stdout == ""
    assert completed.exit_code == 1


def test_a_machine_without_a_filter_refuses_before_it_starts_anything(monkeypatch):
    monkeypatch.setattr(process, "this_machine", lambda: None)
    monkeypatch.setattr(process, "LockedProcess", None)
    with pytest.raises(Failure, match="--unsafe_code"):
        run_python("pass")
    assert not tier().is_safe


def test_unsafe_code_runs_where_nothing_locks(monkeypatch):
    _patched(monkeypatch, UNLOCKED)
    assert run_python("print(1)", unsafe_code=True).stdout == "1\n"


def test_what_unsafe_code_started_ends_with_it(monkeypatch):
    _patched(monkeypatch, UNLOCKED)
    code = "import os, time\nif os.fork() == 0:\n    os.close(1)\n    os.close(2)\n    time.sleep(60)"
    assert run_python(code, unsafe_code=True).exit_code == 0
    assert not _left_processes()


def test_the_tier_names_what_is_in_force(monkeypatch):
    assert tier().is_safe
    _patched(monkeypatch, SECCOMP_ALONE)
    assert tier().layers == ("seccomp",)


def test_landlock_alone_already_hides_files(surroundings, monkeypatch):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(444, None, ctypes.c_size_t(0), 1) < 1:
        pytest.skip("this kernel has no Landlock")
    _patched(monkeypatch, "import nanochat_pl.sandbox.confine as c; c._filter_calls = lambda libc: False")
    completed = run_python(f"print(open({str(surroundings.secret)!r}).read())", unsafe_code=True)
    assert "PermissionError" in completed.stderr


def test_locked_processes_die_with_the_parent():
    code = """
import os, signal, threading, time
from nanochat_pl.sandbox.process import run_python
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
run_python("while True: pass", timeout_s=60)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=locked._ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not _left_processes()


def test_a_program_that_names_every_module_still_starts():
    code = f"'''{' '.join(sorted(sys.stdlib_module_names))}'''\nprint('begun')"
    assert run_python(code).stdout == "begun\n"
