"""Hostile learners: what a call leaves behind, and what a submission takes with all its processes.

Each is a pair of functions in one notebook: `leave_KIND` puts a number somewhere, `find_KIND` looks
for it there. Both run in one call first, and find it; then in two calls, and must not.
"""

import errno
import inspect
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pydoc import locate
from types import FunctionType
from typing import Any

import pytest

from sltools import exercises
from sltools.attacks.alignment import mk_mmd
from sltools.checking.judging import judge
from sltools.checking.task import ALL, OWN, RULES, Task, Wrong
from sltools.grading import cells, jail, sandbox, similarity
from sltools.grading.remote import RemoteAnswer, RemoteNotebook
from sltools.grading.sandbox import Limits, Sandbox
from sltools.grading.submissions import Submission
from tests.submissions import ROOT
from tests.test_exercises import _solution
from tests.test_grading_thirty import _running

LIMITS = Limits(cell=4, call=3, memory=2 * 2**30)
MARKER = "86399.75"  # seconds that what is left behind sleeps

COMMON = """
import atexit, ctypes, fcntl, functools, gc, linecache, mmap, multiprocessing.shared_memory, os
import builtins, platform, random, resource, signal, socket, subprocess, sys, tempfile, threading
import time, weakref
import numpy, torch, sltools.metrics, sltools.seeds
from pathlib import Path
LIBC = ctypes.CDLL(None, use_errno=True)
INTEL = platform.machine() == "x86_64"
kept, more, notes = [], [], []
made, other_end = os.pipe()
shared = mmap.mmap(-1, 4096)
opened = open("opened", "w+b")
lock = threading.Lock()

def counter():
    kept = [0]
    def count(new=None):
        kept[0] = kept[0] if new is None else new
        return kept[0]
    return count
count = counter()

def kept_as_default(new=None, box=[0]):
    box[0] = box[0] if new is None else new
    return box[0]

def detached(work):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            work()
            time.sleep(60)
        os._exit(0)
    os.wait()
    time.sleep(0.05)

def listen(family, place, number):
    server = socket.socket(family)
    server.bind(place)
    server.listen()
    def serve():
        while True:
            server.accept()[0].sendall(bytes([number]))
    detached(serve)

def ask(family, place):
    with socket.socket(family) as asking:
        asking.connect(place)
        return asking.recv(1)[0]

def memory(create):
    return multiprocessing.shared_memory.SharedMemory("posix", create, 9)

def held(place):
    try:
        fcntl.flock(open(place), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True

def processes():
    return [Path(p, "cmdline").read_bytes() for p in Path("/proc").glob("[0-9]*")]
"""
# A kind: how to leave the number n, and an expression that finds it, or is False or an error.
KEEPERS: dict[str, tuple[str, str]] = {
    "a global": ("kept.append(n)", "kept[-1]"),
    "a closure": ("count(n)", "count()"),
    "a default": ("kept_as_default(n)", "kept_as_default()"),
    "an attribute of a function": ("counter.note = n", "counter.note"),
    "an attribute of a module": ("torch.note = n", "torch.note"),
    "an attribute of the library": ("sltools.metrics.note = n", "sltools.metrics.note"),
    "an attribute of a class": ("torch.nn.Module.note = n", "torch.nn.Linear(1, 1).note"),
    "a builtin": ("builtins.note = n", "builtins.note"),
    "a module": ("sys.modules['note'] = n", "sys.modules['note']"),
    "the search path": ("sys.path.append(str(n))", "int(sys.path[-1])"),
    "a cache": ("linecache.cache['note'] = n", "linecache.cache['note']"),
    "the interpreter's objects": (
        "notes.append({'note': n})",
        "next(o for o in gc.get_objects() if isinstance(o, dict) and 'note' in o)['note']",
    ),
    "an environment variable": ("os.environ['NOTE'] = str(n)", "int(os.environ['NOTE'])"),
    "the environment": ("LIBC.setenv(b'N', str(n).encode(), 1)", "int(LIBC.getenv(b'N') and n)"),
    "torch's random state": (
        "torch.default_generator.manual_seed(n)",
        "torch.default_generator.initial_seed() == n and n",
    ),
    "numpy's random state": (
        "numpy.random.seed(n)",
        "n if (numpy.random.get_state()[1] == numpy.random.RandomState(n).get_state()[1]).all() "
        "else 0",
    ),
    "a file": ("open('note', 'w').write(str(n))", "int(open('note').read())"),
    "an open file": ("opened.seek(n)", "opened.tell()"),
    "what is in an open file": (
        "os.pwrite(opened.fileno(), bytes([n]), 0)",
        "os.pread(opened.fileno(), 1, 0)[0]",
    ),
    "a pipe": (
        "os.write(other_end, bytes([n]))",
        "os.set_blocking(made, 0) or os.read(made, 1)[0]",
    ),
    "shared pages": ("shared.__setitem__(0, n)", "shared[0]"),
    "a home": (
        "Path('~/n').expanduser().write_text(str(n))",
        "int((Path.home() / 'n').read_text())",
    ),
    "a temporary file": (
        "Path(tempfile.gettempdir(), 't').write_text(str(n))",
        "int(Path(tempfile.gettempdir(), 't').read_text())",
    ),
    "/dev/shm": ("open('/dev/shm/n', 'w').write(str(n))", "int(open('/dev/shm/n').read())"),
    "POSIX memory": (
        "(more.append(memory(True)), more[-1].buf.__setitem__(0, n))",
        "(m := memory(False)).buf[0]",
    ),
    "a fifo's name": ("os.mkfifo(f'fifo{n}')", "int(next(Path().glob('fifo*')).name[4:])"),
    "a link": ("os.symlink(str(n), 'link')", "int(os.readlink('link'))"),
    "numbers of inodes": (
        "[open(f'i{i}', 'w').close() for i in range(n)]",
        "(open('last', 'w').close() or os.stat('last').st_ino) >= n and n",
    ),
    "numbers of processes": (
        "[os.waitpid(os.fork() or os._exit(0), 0) for _ in range(n // 4)]",
        "(lambda pid: pid > n // 4 and n)(os.fork() or os._exit(0))",
    ),
    "a detached process": (
        f"detached(lambda: os.execvp('sleep', ['sleep', '{MARKER}' + str(n)]))",
        f"next(int(p.split(b'\\0')[1][{len(MARKER)}:]) for p in processes() if b'{MARKER}' in p)",
    ),
    "an abstract socket": (
        "listen(socket.AF_UNIX, chr(0) + 'note', n)",
        "ask(socket.AF_UNIX, chr(0) + 'note')",
    ),
    "a socket in a file": ("listen(socket.AF_UNIX, 's', n)", "ask(socket.AF_UNIX, 's')"),
    "the name of a process": (
        "LIBC.prctl(15, str(n).encode(), 0, 0, 0)",
        "int(open('/proc/1/comm').read())",
    ),
    "a nice value": ("os.nice(n % 10)", "os.nice(0) >= n % 10 and n"),
    "a limit": (
        "resource.setrlimit(resource.RLIMIT_STACK, (n * 4096, n * 4096))",
        "resource.getrlimit(resource.RLIMIT_STACK)[1] // 4096",
    ),
    "a mask": ("os.umask(n % 8)", "os.umask(0) == n % 8 and n"),
    "an alarm": ("signal.alarm(n)", "0 < signal.alarm(0) and n"),
    "a handler": ("signal.signal(signal.SIGUSR1, lambda *_: n)", "signal.getsignal(10)()"),
    "a thread": (
        "threading.Thread(target=time.sleep, args=[9], name=str(n), daemon=True).start()",
        "int(threading.enumerate()[-1].name)",
    ),
    "a lock": ("lock.acquire()", "lock.locked() and n"),
    "a lock on a file of the system": (
        "more.append(open(os.__file__)) or fcntl.flock(more[-1], fcntl.LOCK_SH)",
        "held(os.__file__) and n",
    ),
    "processors": (
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
        "len(os.sched_getaffinity(0)) == 1 and n",
    ),
    "a current folder": ("os.mkdir(f'd{n}') or os.chdir(f'd{n}')", "int(current[1:])"),
    "a function of the grader's side": (
        "sys.modules['sltools.grading.wire'].pack.__dict__.update(note=n)",
        "sys.modules['sltools.grading.wire'].pack.note",
    ),
    "the seeds": ("sltools.seeds.derive = lambda *_: n", "sltools.seeds.derive(0, 'x') == n and n"),
}


def _source(kinds: dict[str, tuple[str, str]]) -> str:
    """Return cells' code: `leave(n)` leaves n everywhere, `find(n)` says where it is, `both(n)`."""
    functions = [
        f"def leave_{place}(n): {leave}\ndef find_{place}(n): return {find}"
        for place, (leave, find) in enumerate(kinds.values())
    ]
    return (
        COMMON
        + "\n".join(functions)
        + """
def tried(name, n):
    try:
        found = globals()[name](n)
        return found if isinstance(found, int) else repr(found)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def leave(n):
    return [tried(f"leave_{place}", n) and None for place in range(KINDS)]

def find(n):
    global current
    current = Path.cwd().name
    os.chdir(os.environ["HOME"])
    return [tried(f"find_{place}", n) for place in range(KINDS)]

def both(n):
    leave(n)
    return find(n)
""".replace("KINDS", str(len(kinds)))
    )


@pytest.fixture(scope="module")
def isolated() -> Sandbox:
    """A sandbox with all isolation."""
    if reason := sandbox.refusal(Sandbox()):
        pytest.skip(f"submissions cannot be isolated here: {reason}")
    return Sandbox(limits=LIMITS)


def _answer(box: Sandbox, source: str, name: str = "answer", **facts: Any) -> RemoteAnswer:
    task = replace(exercises.find("04.tv"), answer=name, **facts)
    return RemoteAnswer(RemoteNotebook([source], box), task, box.limits.call)


def test_what_a_call_leaves_behind_no_other_finds(isolated: Sandbox) -> None:
    number, source = 37, _source(KEEPERS)
    within = dict(zip(KEEPERS, _answer(isolated, source, "both")(number), strict=True))
    assert {kind: told for kind, told in within.items() if told != number} == {}
    notebook = RemoteNotebook([source], isolated)
    tv = exercises.find("04.tv")
    leave, find = (
        RemoteAnswer(notebook, replace(tv, answer=name), LIMITS.call) for name in ("leave", "find")
    )
    leave(number)
    after = dict(zip(KEEPERS, find(number), strict=True))
    assert {kind: told for kind, told in after.items() if told == number} == {}
    assert not _running(MARKER)


FORGER = """
from sltools.grading import wire
import os, socket
calls = []
def forge(n):
    calls.append(n)
    for number in range(3, 64):
        try:
            socket.socket(fileno=os.dup(number)).sendall(wire.pack({"returned": n + 1}))
        except OSError:
            pass
    return n
def count(n):
    calls.append(n)
    with open("calls", "a") as file:
        file.write("x")
    return max(len(calls), os.path.getsize("calls"))
"""


def test_who_keeps_what_other_calls_were_given_earns_nothing_by_it(isolated: Sandbox) -> None:
    def judge_memory(answer: Any, seed: int) -> None:
        """Give the point to who knows in the last call what the first was given."""
        secret = 1 + seed % 1000
        found = [answer(secret if call == 0 else 0) for call in range(4)]
        if found[-1] <= 1:
            raise Wrong(f"It knows of no other call: {found}.")

    told = []
    for name in ("count", "forge"):
        answer = _answer(isolated, FORGER, name, judge=judge_memory)
        verdict = judge(replace(exercises.find("04.tv"), judge=judge_memory), answer, [123])
        told.append(verdict.message)
    assert told == [
        "It knows of no other call: [1, 1, 1, 1].",
        "It knows of no other call: [125, 1, 1, 1].",  # forged of what the call itself was given
    ]


# What a submission takes, with processes of its own, beside what it does itself: a function each.
TAKERS = """
import ctypes, os, signal, subprocess, sys, time
LIBC = ctypes.CDLL(None, use_errno=True)

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def unwaited():
    for _ in range(4):
        if os.fork() == 0:
            burn(60)
            os._exit(0)
    time.sleep(60)

def detached():
    for _ in range(4):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                burn(60)
            os._exit(0)
    time.sleep(60)

def reaped_by_nobody():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if os.fork() == 0:
            burn(0.4)
            os._exit(0)
        time.sleep(0.2)

def zombies():
    for _ in range(5):
        if os.fork() == 0:
            burn(0.5)
            os._exit(0)
    time.sleep(60)

def waited():
    while True:
        if os.fork() == 0:
            burn(0.2)
            os._exit(0)
        os.wait()

def memory_of_children():
    for _ in range(3):
        if os.fork() == 0:
            taken = bytearray(os.urandom(1)) * (120 * 2**20)
            time.sleep(60)
    time.sleep(60)

def memory_and_files():
    taken = bytearray(os.urandom(1)) * (200 * 2**20)
    for number in range(60):
        with open(str(number), "wb") as file:
            file.write(bytes(2**20))
    time.sleep(60)

def files():
    made = 0
    try:
        while True:
            open(f"f{made}", "w").close()
            made += 1
    except OSError as error:
        return error.errno

def refused():
    intel = os.uname().machine == "x86_64"
    numbers = (29, 64, 68, 240, 319) if intel else (194, 190, 186, 180, 279)
    arguments = [(0, 9, 0o1600), (0, 1, 0o1600), (0, 0o1600), (b"n", 66, 0o600, None), (b"n", 0)]
    told = []
    for number, given in zip(numbers, arguments):
        ctypes.set_errno(0)
        told.append(LIBC.syscall(number, *given) >= 0 or ctypes.get_errno())
    return told

def sleep():
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def held(isolated: Sandbox) -> Iterator[Any]:
    """Run a function of TAKERS under narrow limits, and return what becomes of it."""
    limits = replace(LIMITS, call=0.8, patience=30.0)
    box = replace(isolated, limits=limits)

    def run(name: str) -> Any:
        process = box.start()
        process.ask({"cell": 1, "source": TAKERS}, 5)
        process._limits = replace(limits, memory=250 * 2**20)  # which is not that of one process
        try:
            request = {"answer": name, "arguments": [], "gradient": False}
            return process.ask(request, 0.8).get("returned")
        except (sandbox.Ended, sandbox.TimedOut) as stopped:
            return str(stopped)
        finally:
            process.close()

    yield run


@pytest.mark.parametrize("name", ["unwaited", "detached", "reaped_by_nobody", "zombies", "waited"])
def test_processor_time_is_that_of_all_processes(held: Any, name: str) -> None:
    start = time.monotonic()
    assert held(name) == "It took more than 0.8 s of computing time."
    assert time.monotonic() - start < 60, "which it sleeps"


@pytest.mark.parametrize("name", ["memory_of_children", "memory_and_files"])
def test_memory_is_that_of_all_processes_and_of_files(held: Any, name: str) -> None:
    assert "GiB of memory in all" in held(name)


def test_files_are_counted_and_memory_of_no_process_is_refused(held: Any) -> None:
    assert held("files") == errno.ENOSPC
    if jail.can_filter():
        assert held("refused") == [errno.EPERM] * 5


def test_a_sleeper_is_no_fault_of_the_machine(held: Any, isolated: Sandbox) -> None:
    process = isolated.start()
    process.ask({"cell": 1, "source": TAKERS}, 5)
    with pytest.raises(sandbox.TimedOut, match="had not ended") as stopped:
        process.ask({"answer": "sleep", "arguments": [], "gradient": False}, 9, most=1.0)
    process.close()
    notebook = RemoteNotebook([], isolated)
    notebook._stopped(stopped.value)
    assert stopped.value.asleep and not notebook.timed_out, "which is not tried once more"


# ---- write it yourself ---------------------------------------------------------------------------

BORROWED = """
import torch
import sltools
import sltools.attacks.inversion as inversion
from sltools.attacks.inversion import total_variation as tv
def direct(x): return tv(x)
def module(x): return inversion.total_variation(x)
def deep(x): return sltools.attacks.inversion.total_variation(x)
def mine(x): return tv(x) if False else sum(x.diff(dim=d).square().mean() for d in (2, 3))
def attack(x):
    return inversion.InputSearch and mine(x)
alias = tv
compared = float(tv(torch.zeros(1, 1, 3, 3)))
"""


def test_the_librarys_own_answer_is_refused_where_it_is_to_be_written(isolated: Sandbox) -> None:
    task = exercises.find("04.tv")
    assert task.rule == OWN and task.library
    notebook = RemoteNotebook([BORROWED], isolated)

    def judged(name: str, task: Task = task) -> Any:
        return judge(task, RemoteAnswer(notebook, task, LIMITS.call, name), [123])

    for name in ("direct", "module", "deep", "alias"):
        verdict = judged(name)
        assert verdict.outcome == "wrong" and not verdict.points
        assert verdict.message.startswith("Write it yourself: your answer calls sltools.attacks.")
    assert judged("mine") and judged("attack") and not notebook.errors, "cells may compare"
    assert judged("direct", replace(task, rule=ALL))


@pytest.mark.parametrize("task", exercises.tasks(), ids=lambda task: task.key)
def test_every_task_says_what_it_may_be_made_of(task: Task) -> None:
    assert task.rule in RULES and task.rule in task.header()
    assert all(isinstance(locate(name), FunctionType) for name in task.library)
    assert task.rule == OWN or not task.library
    solution = _solution(task)
    if isinstance(solution, FunctionType):
        calls = {name.rpartition(".")[2] for name in task.library}
        assert not calls & set(solution.__code__.co_names), "the solution would be refused"
    (path,) = (ROOT / "exercises").glob(f"{task.topic}_*.ipynb")
    made = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert any(f"*{task.header()}*" in "".join(cell["source"]) for cell in made)


def test_who_only_imports_and_who_pastes_is_noted() -> None:
    made = ["from sltools.attacks import total_variation\nfrom sltools import metrics as m"]
    for source, told in {
        "": True,
        "total_variation = m.mse": True,
        "def total_variation(x):\n    'It.'\n    return m.mse(x, x)": True,
        "def total_variation(x):\n    y = x + 1\n    return m.mse(x, y)": False,
        "def total_variation(x): return x.mean()": False,
        "total_variation = torch.mean": False,
    }.items():
        assert cells.borrowed([*made, source], "total_variation") == told, source
    pasted = inspect.getsource(mk_mmd).replace("samples", "crowds").replace("mk_mmd", "squared_mmd")
    subs = [Submission(name, (source,)) for name, source in {"a": pasted, "b": "x = 1"}.items()]
    sources = {"sltools.attacks.alignment.mk_mmd": inspect.getsource(mk_mmd)}
    assert similarity.pasted(subs, sources) == {"a": list(sources), "b": []}
    assert similarity.pasted(subs, sources, [[pasted]])["a"] == [], (
        "a published text is everybody's"
    )


def test_slow_cells_that_reach_nothing_of_an_answer_are_known() -> None:
    made = [
        "import torch\nfrom x import *",
        "scale = 2\ndef helper(x): return x * scale",
        "def answer(x):\n    local = helper(x)\n    return local",
        "client = train(1)\nlocal = 3",
        "print(helper(3))",
        "model = make()\ndef use(x): return model(x)",
        "model.fit()",
        "def fit(): model.step()\nfit()",
        "scale += 1",
        "for x in range(3): scale = x",
        "def answer(: broken",
    ]
    assert cells.reaching(made, ["answer"]) == {1, 2, 3, 5, 9, 10}
    assert cells.reaching(made, ["use"]) == {1, 6, 7, 8}
