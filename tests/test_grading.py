"""The parts of the grader: the wire, the sandbox, reading, comparing, homework, reports."""

import ast
import csv
import errno
import inspect
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import save
from torch import nn

from sltools import cli, data, exercises, experiments, lessons
from sltools.attacks import UnSplit
from sltools.checking.judging import judge
from sltools.errors import ExerciseError
from sltools.exercises import homework as asked
from sltools.grading import assignment as homework
from sltools.grading import cells as code
from sltools.grading import (
    forkserver,
    jail,
    report,
    roster,
    sandbox,
    secrets,
    similarity,
    submissions,
    wire,
)
from sltools.grading import grade as grading
from sltools.grading.remote import RemoteAnswer, RemoteNotebook
from sltools.grading.sandbox import Limits, Sandbox
from sltools.grading.submissions import Submission
from sltools.grading.usage import Usage
from sltools.models import Architecture
from sltools.view import View
from tests.homework import ANSWERS, solved
from tests.submissions import MARKER, RUNAWAY, cells, notebook
from tests.test_grading_thirty import _running

SALT = b"a salt for the tests, 32 bytes.."
LIMITS = Limits(cell=4, call=3, memory=2 * 2**30)


@pytest.fixture(scope="session")
def isolated() -> Sandbox:
    """A sandbox with all isolation."""
    if reason := sandbox.refusal(Sandbox()):
        pytest.skip(f"submissions cannot be isolated here: {reason}")
    return Sandbox(limits=LIMITS)


def run(box: Sandbox, source: str) -> RemoteNotebook:
    """Return a notebook of one cell."""
    return RemoteNotebook([source], box)


# ---- the wire ------------------------------------------------------------------------------------


def _sent(value: Any, recipes: bool = True) -> Any:
    return wire.receive(BytesIO(wire.pack(value)).read, recipes)


def test_arguments_arrive_as_they_were() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).eval()
    strided = torch.arange(6.0).view(2, 3).T
    sent = {
        "x": [None, True, 2, 0.5, "é"],
        3: (strided, torch.tensor(7), torch.zeros(0, 2)),
        "n": net,
    }
    got = _sent(sent)
    assert got["x"] == sent["x"] and type(got["x"][1]) is bool
    assert isinstance(got[3], tuple)
    for one, other in zip(got[3], (strided, torch.tensor(7), torch.zeros(0, 2)), strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype
    image = torch.rand(1, 1, 5, 5)
    assert torch.equal(got["n"](image), net(image)) and not got["n"].training
    shape = Architecture.of(net, (1, 5, 5))
    assert _sent(shape) == shape


@pytest.mark.slow
def test_a_view_arrives_with_what_the_server_may_see_and_no_more() -> None:
    digits = data.load("digits")
    session = experiments.train_victim(digits, "conv2", seed=1)
    view = session.observe(digits.test.images[:2])
    payload = wire.pack([view])
    got = wire.receive(BytesIO(payload).read, recipes=True)[0]
    assert isinstance(got, View)
    assert torch.equal(got.smashed, view.smashed) and got.architecture == view.architecture
    assert repr(got) == repr(view) and got.granted == ()
    attack = UnSplit(steps=2, seed=0)
    assert torch.equal(attack(got).inputs, attack(view).inputs)
    assert digits.test.images[0].numpy().tobytes() not in payload


def test_what_is_no_argument_cannot_be_sent() -> None:
    for value in (object(), nn.Linear(1, 1), {1, 2}, lambda: 0):
        with pytest.raises(wire.WireError, match="cannot be sent"):
            wire.pack([value])


TENSOR = {"0": torch.zeros(2)}
FORGED = {
    "a recipe": ({"network": ["[]", True, {"dict": []}]}, {}),
    "one tensor twice": ({"list": [{"tensor": "0"}, {"tensor": "0"}]}, TENSOR),
    "no such tensor": ({"tensor": "1"}, TENSOR),
    "a complex tensor": ({"tensor": "0"}, {"0": torch.zeros(2, dtype=torch.complex64)}),
    "a huge number": (10**30, {}),
    "a list without a kind": ([1], {}),
    "two kinds": ({"list": [], "dict": []}, {}),
    "a dictionary as a key": ({"dict": [[{"dict": []}, 1]]}, {}),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_messages_are_refused(name: str) -> None:
    tree, tensors = FORGED[name]
    text, arrays = json.dumps(tree).encode(), save(tensors)
    message = wire.HEADER.pack(len(text), len(arrays)) + text + arrays
    with pytest.raises(wire.WireError, match="no message"):
        wire.receive(BytesIO(message).read)


def test_bytes_that_are_no_message_are_refused() -> None:
    deep = b"[" * 100_000
    for message in (wire.HEADER.pack(len(deep), 0) + deep, wire.HEADER.pack(1, 9) + b"1ninebytes"):
        with pytest.raises(wire.WireError, match="no message"):
            wire.receive(BytesIO(message).read)
    with pytest.raises(wire.WireError, match="larger than"):
        wire.receive(BytesIO(wire.HEADER.pack(1, 2**31)).read)


@pytest.mark.parametrize(
    ("number", "shape", "told"),
    [(200_000, [0], "larger than 1024 KiB"), (5001, [0], "5000"), (1, [1] * 65, "dimensions")],
)
def test_arrays_that_would_be_costly_to_decode_are_refused(
    number: int, shape: list[int], told: str
) -> None:
    one = {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]}
    header = json.dumps(dict.fromkeys(range(number), one), separators=(",", ":")).encode()
    arrays = wire.LENGTH.pack(len(header)) + header + b"0"
    start = time.process_time()
    with pytest.raises(wire.WireError, match=told):
        wire.receive(BytesIO(wire.HEADER.pack(4, len(arrays)) + b"null" + arrays).read)
    assert time.process_time() - start < 10


def test_what_would_not_be_received_is_not_sent() -> None:
    for value in ("x" * 2**22, [torch.zeros(1)] * 5001, _nested(10_000)):
        with pytest.raises(wire.TooLarge, match=r"larger than|more than|too deeply"):
            wire.pack(value)


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# ---- the sandbox ---------------------------------------------------------------------------------


def _ask(remote: RemoteNotebook, name: str, *arguments: Any) -> Any:
    task = replace(exercises.find("04.tv"), answer=name)
    return RemoteAnswer(remote, task, LIMITS.call)(*arguments)


INSIDE = """
import os, socket
from pathlib import Path

def look():
    return {
        "processes": sorted(p.name for p in Path("/proc").glob("[0-9]*")),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "checks": len(list(Path("@LIBRARY@", "exercises/topics").glob("*"))),
        "grader": [p.name for p in Path("@LIBRARY@", "grading").rglob("*.py*") if p.read_bytes()],
        "home": os.listdir(Path.home()),
        "user": os.getuid(),
        "secrets": [name for name in ("@SALT@", "@PARENT@") if os.path.exists(name)],
    }

def fork():
    made = 0
    try:
        while made < 100:
            if os.fork() == 0:
                import time
                time.sleep(100)
            made += 1
    except BlockingIOError:
        return made

def fill():
    try:
        for number in range(100):
            with open(str(number), "wb") as file:
                file.write(bytes(2**21))
    except OSError as error:
        return error.errno
"""


@pytest.mark.slow
def test_a_jail_holds(isolated: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "salt").touch()
    source = INSIDE.replace("@LIBRARY@", str(forkserver.LIBRARY))
    source = source.replace("@SALT@", str(tmp_path / "salt")).replace("@PARENT@", str(tmp_path))
    remote = run(isolated, source)
    seen = _ask(remote, "look")
    assert seen["processes"] == ["1"] and seen["interfaces"] == ["lo"]
    assert set(seen["grader"]) == forkserver.NEEDED, "neither homework nor what compares"
    assert seen["checks"] == 0 and seen["home"] == [] and seen["secrets"] == []
    assert seen["user"] != 0, "limits on processes do not hold for root"
    assert _ask(remote, "fill") == 28  # no space left on device
    assert 0 < _ask(remote, "fork") < LIMITS.processes


KEEPERS = """
import ctypes, multiprocessing, os, platform, subprocess, threading
LIBC = ctypes.CDLL(None, use_errno=True)
ADD, REQUEST, KEYCTL = (248, 249, 250) if platform.machine() == "x86_64" else (217, 218, 219)

def call(*arguments):
    ctypes.set_errno(0)
    return [LIBC.syscall(*arguments) >= 0, os.strerror(ctypes.get_errno())]

def keep():
    user, session = ctypes.c_long(-4), ctypes.c_long(-3)  # keyrings
    return {
        "a key for other users": call(ADD, b"user", b"note", b"secret", 6, user),
        "a key for the session": call(ADD, b"user", b"note", b"secret", 6, session),
        "a search": call(REQUEST, b"user", b"note", None, 0),
        "a keyring": call(KEYCTL, 1, None),
        "a user namespace": [LIBC.unshare(0x10000000) == 0, os.strerror(ctypes.get_errno())],
        "by clone": call(56 if platform.machine() == "x86_64" else 220, 0x10000011, 0, 0, 0, 0),
        "the other ABI": call(0x40000000 + 39),
    }

def work():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(1))
    thread.start()
    thread.join()
    child = os.fork()
    if child == 0:
        os._exit(3)
    seen.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return [*seen, subprocess.run(["/bin/sh", "-c", "exit 4"]).returncode]
"""


@pytest.mark.skipif(not jail.can_filter(), reason="no filter of system calls on this machine")
def test_nothing_is_kept_in_the_kernel_for_another_process(isolated: Sandbox) -> None:
    remote = run(isolated, KEEPERS)
    assert {name: told for name, told in _ask(remote, "keep").items() if told[0]} == {}
    assert _ask(remote, "keep")["a key for other users"][1] == os.strerror(errno.EPERM)
    assert _ask(remote, "work") == [1, 3, 4], "threads and processes of its own go on"


def test_what_is_not_enforced_is_said(isolated: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    known = sandbox.not_enforced(isolated)
    monkeypatch.setattr(sandbox, "can_filter", lambda: False)
    assert "leave keys for another" in sandbox.not_enforced(isolated)[-1]
    monkeypatch.setattr(Usage, "_numbers", lambda _: [])
    assert "not for all that a submission starts" in sandbox.not_enforced(isolated)[0]
    assert len(known) == (not jail.can_filter())


def test_all_that_judges_is_hidden() -> None:
    made = [task for topic in asked.topics() for task in asked.draw(topic, 0, 0).tasks]
    tasks = [*exercises.tasks(), *made]
    code = {inspect.unwrap(task.judge).__code__.co_filename for task in tasks}
    hidden = [Path(place) for place in forkserver.HIDDEN]
    assert len(code) > 1
    for name in code:
        assert any(Path(name).is_relative_to(place) for place in hidden), name
    assert all(place.exists() for place in hidden if place.name not in ("_material", "__pycache__"))


@pytest.mark.parametrize("forgotten", [False, True], ids=["as it is", "its stand-in removed"])
@pytest.mark.parametrize(
    "name", ["exercises.topics.inversion", "exercises.homework.inversion", "grading.assignment"]
)
def test_no_check_can_be_imported(isolated: Sandbox, name: str, forgotten: bool) -> None:
    source = f"""
import importlib, sys
def load():
    if {forgotten}:
        del sys.modules["sltools.exercises"]
    try:
        importlib.import_module("sltools.{name}")
    except Exception as error:
        return [type(error).__name__]
    return []
"""
    assert _ask(run(isolated, source), "load")[0] in ("ImportError", "ModuleNotFoundError")


def test_what_is_hidden_is_hidden_inside_of_visible_folders(isolated: Sandbox) -> None:
    inside = str(forkserver.LIBRARY / "fieldmap"), str(forkserver.LIBRARY / "doctor.py")
    source = "import os\ndef look(): return [os.listdir({!r}), open({!r}).read()]".format(*inside)
    assert _ask(run(replace(isolated, hidden=inside), source), "look") == [[], ""]


@pytest.mark.slow
def test_a_submission_dies_with_its_grader(isolated: Sandbox) -> None:
    script = (
        "import time; from sltools.grading.sandbox import Sandbox\n"
        f"print(Sandbox().start().ask({{'cell': 1, 'source': {RUNAWAY!r}}}, 10), flush=True)\n"
        "time.sleep(60)"
    )
    grader = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert grader.stdout
    assert b"'error': None" in grader.stdout.readline()
    assert _running(MARKER)
    grader.send_signal(signal.SIGKILL)
    grader.wait()
    grader.stdout.close()
    deadline = time.monotonic() + 10
    while _running(MARKER) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _running(MARKER)


SEEN = """
import os, resource
def main(channel):
    status = open("/proc/self/status").read()
    rights = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff")]
    open("mine", "w").close()
    seen = [os.getpid(), os.listdir("."), rights, sorted(os.listdir("/proc"))[0]]
    os.write(channel, repr(seen).encode())
    os._exit(0)
"""


def test_a_jail_needs_no_root() -> None:
    """With the system's Python, which others than root may run."""
    python, user = "/usr/bin/python3", 65534
    if os.geteuid() != 0 or not Path(python).exists():
        pytest.skip("needs root, to become somebody else, and the system's Python")
    place = Path("/tmp") / f"sltools-jail-{os.getpid()}"
    place.mkdir()
    place.chmod(0o777)
    (place / "seen.py").write_text(SEEN)
    settings = {
        "isolate": True,
        "scratch": str(place / "root"),
        "visible": [*forkserver.SYSTEM, str(place)],
        "hidden": [],
        "disk": LIMITS.disk,
        "module": "seen",
    }
    (place / "root").mkdir()
    (place / "root").chmod(0o777)
    orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    orders.settimeout(30)
    server = subprocess.Popen(
        [python, shutil.copy(jail.__file__, place), str(theirs.fileno())],
        stderr=subprocess.PIPE,
        pass_fds=[theirs.fileno()],
        user=user,
        group=user,
        extra_groups=[],
    )
    theirs.close()
    told = []
    try:
        orders.send(json.dumps(settings).encode())
        ready = orders.recv(64)
        for _ in range(2 if ready else 0):
            ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
            order = {"folder": jail.WORK, "disk": 2**20, "environment": {}, "limits": {}}
            descriptors = [end[1].fileno() for end in ends]
            socket.send_fds(orders, [json.dumps(order).encode()], descriptors)
            ends[1][0].settimeout(30)
            ends[1][0].recv(64)  # its number
            told.append((ends[0][0].recv(4096).decode(), ends[1][0].recv(64)))
            for one, other in ends:
                one.close()
                other.close()
        orders.close()
        _, said = server.communicate(timeout=30)
    finally:
        server.kill()
        shutil.rmtree(place)
    if server.returncode == jail.REFUSED:
        pytest.skip(f"others than root cannot be isolated here: {said.decode()}")
    assert told == [("[1, ['mine'], ['0000000000000000'], '1']", b"0")] * 2, said


@pytest.mark.proofs
@pytest.mark.slow
def test_a_submission_and_each_of_its_tasks_have_only_so_much_time(isolated: Sandbox) -> None:
    tv = exercises.find("04.tv")
    task = replace(tv, judge=lambda answer, _: str([answer() for _ in range(3)]))
    short = replace(isolated, limits=replace(LIMITS, task=2.0, submission=3.5))
    remote = RemoteNotebook(["import time\ndef nap(): time.sleep(1)\ndef two(): 2"], short)

    def judged(name: str) -> str:
        return judge(task, RemoteAnswer(remote, task, LIMITS.call, name)).message

    assert judged("two") == f"{tv.meaning}\n[None, None, None]" and not remote.timed_out
    assert judged("nap").startswith("The task took more than 2 s by the clock in all")
    assert judged("nap").startswith("The notebook took more than 3.5 s by the clock in all")
    assert judged("two").startswith("The notebook took more than 3.5 s") and remote.timed_out


def test_what_is_killed_from_outside_is_told_from_what_ends_itself(isolated: Sandbox) -> None:
    remote = RemoteNotebook(["import os\ndef me(): os.kill(os.getpid(), 9); return 1"], isolated)
    assert _ask(remote, "me") == 1, "in a jail it cannot kill itself"
    process = isolated.start()
    os.kill(int(process.number), signal.SIGKILL)
    with pytest.raises(sandbox.Killed, match="was killed") as told:
        process.ask({"cell": 1, "source": "x = 1"}, 1)
    process.close()
    remote._stopped(told.value)
    assert remote.killed


def test_what_was_killed_is_tried_once_more_and_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (subs := tmp_path / "subs").mkdir()
    (subs / "one.ipynb").write_text(notebook(["x = 1"]))
    tries = []

    def killed(plan: Any, todo: Any, *rest: Any) -> Any:
        tries.append(len(todo))
        return [(sub, grading.Result(sub.name, grading.GRADED, killed=True)) for sub in todo]

    monkeypatch.setattr(grading, "_examine_all", killed)
    monkeypatch.setattr(grading, "not_enforced", lambda _: [])
    for _ in range(2):
        grading.grade(subs, tmp_path / "out", grading.HomeTasks(SALT, "04"), Sandbox())
    assert tries == [1, 1, 0, 0]


def test_folders_of_graders_that_were_killed_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, alive, new = (tmp_path / f"{forkserver.SCRATCH}{name}" for name in "abc")
    for folder in (dead, alive, new):
        folder.mkdir()
        (folder / "file").touch()
    os.utime(dead, (0, 0))
    os.utime(alive, (0, 0))
    held = forkserver.lock(str(alive))
    forkserver.clean()
    assert sorted(tmp_path.iterdir()) == [alive, new]
    os.close(held)


TROUBLE = """
import os
def end(): os._exit(3)
def loop():
    while True: pass
def hog(): return bytearray(2**40)
def leave(): raise SystemExit
def fine(): return 1
"""


def test_without_isolation_limits_hold_all_the_same() -> None:
    remote = run(Sandbox(isolate=False, limits=Limits(call=1, patience=20, memory=2**32)), TROUBLE)
    tv = exercises.find("04.tv")
    task = replace(tv, judge=lambda answer, _: str(answer()))
    answer = {
        name: judge(task, RemoteAnswer(remote, replace(tv, answer=name), 1))
        for name in ("end", "loop", "hog", "leave", "fine")
    }
    assert "ended the process" in answer["end"].message
    assert "computing time" in answer["loop"].message and remote.timed_out and not remote.killed
    assert "MemoryError" in answer["hog"].message and "SystemExit" in answer["leave"].message
    assert {name for name, verdict in answer.items() if verdict.outcome == "error"} == {
        *("end", "loop", "hog", "leave")
    }


CARRIERS = """
import torch
class Own(Exception): pass
def text(x): raise ValueError(f"here it is: {x.tolist()}")
def own(x):
    y = 1
    raise Own(x.tolist())
def made(x): raise type("T" + str(x.tolist())[3:9], (Exception,), {})()
def item(x): return type("T" + str(x.tolist())[3:9], (), {})()
def key(x): return {}[str(x.tolist())]
def library(x): return torch.zeros(2)[str(x.tolist())]
def forged(x):
    import socket
    from sltools.grading import wire
    channel = socket.socket(fileno=3)
    for n in range(3, 60):
        try: socket.socket(fileno=n).sendall(wire.pack({FORGED}))
        except OSError: pass
"""


@pytest.mark.parametrize(
    "forged",
    [
        '{"failed": str(x.tolist())}',
        '{"failed": [str(x.tolist()), 1, 1]}',
        '{"failed": ["ValueError", int(x * 1e6), int(x * 1e6)]}',
        '{"wrong": ["object", str(x.tolist())]}',
        '{"wrong": str(x.tolist())}',
        "{str(x.tolist()): 1}",
        "[x]",
    ],
)
def test_feedback_on_an_error_brings_no_hidden_data_home(forged: str, isolated: Sandbox) -> None:
    secret = torch.tensor(0.123456)
    remote = run(isolated, CARRIERS.replace("{FORGED}", forged))
    tv = exercises.find("04.tv")
    task = replace(tv, judge=lambda answer, _: str(answer(secret)))
    names = ("text", "own", "made", "item", "key", "library", "forged")
    told = {
        name: judge(task, RemoteAnswer(remote, replace(tv, answer=name), LIMITS.call)).message
        for name in names
    }
    assert not [text for text in told.values() if "1234" in text], told
    assert told["text"] == (
        "ValueError was raised.\n"
        'In line 4 of code cell 1: def text(x): raise ValueError(f"here it is: {x.tolist()}")'
    )
    assert told["own"].endswith("In line 7 of code cell 1: raise Own(x.tolist())")
    assert "an unknown type was raised" in told["made"] and "an unknown type;" in told["item"]
    assert told["key"].startswith("KeyError was raised.\nIn line 10")


def test_a_second_round_under_one_salt_meets_other_data() -> None:
    first, second = (submissions._notebook(notebook([text]).encode(), "a") for text in "xy")
    again = json.loads(notebook(["x"])) | {"metadata": {"kernelspec": "other"}}
    saved = submissions._notebook(json.dumps(again).encode(), "b")
    drawn = [next(secrets.seeds_of(SALT, "04.tv", s.digest)) for s in (first, second, saved)]
    assert drawn[0] != drawn[1], "what was learnt of the first round's data is worth nothing"
    assert drawn[0] == drawn[2], "the same work gets the same points"


def test_grading_is_refused_where_the_sandbox_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jail.py").write_text("import os; os.write(2, b'no namespaces'); os._exit(125)")
    monkeypatch.setattr(forkserver, "JAIL", tmp_path / "jail.py")
    (tmp_path / "subs").mkdir()
    (tmp_path / "subs" / "one.ipynb").write_text(notebook([]))
    plan = grading.HomeTasks(SALT, "04")
    with pytest.raises(ExerciseError, match=r"does not allow it \(no namespaces\).*--no-isolation"):
        grading.grade(tmp_path / "subs", tmp_path / "out", plan, Sandbox())
    assert not (tmp_path / "out").exists()


# ---- faults of the grader ------------------------------------------------------------------------


def test_a_fault_of_a_check_is_no_zero(isolated: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("in the check")

    plan = grading.HomeTasks(SALT, "04", challenges=False)
    monkeypatch.setattr(grading.judging, "judge", broken)
    result = grading._examine(plan, Submission("one", ("x = 1",)), isolated)
    assert result.status == grading.FAULT and result.points is None
    assert all(task.outcome == grading.FAULT for task in result.tasks)
    assert "in the check" in result.flags[0] and "not you" in result.tasks[0].message


def test_what_is_too_large_or_unreadable_costs_itself_and_no_more(isolated: Sandbox) -> None:
    own = "def total_variation(x): return x\ndef half(n): return 'x' * 2**21"
    made = (f"#{'x' * 5 * 2**20}", "x = '\ud800'", "x = '\0'", own)
    remote = RemoteNotebook(made, isolated)
    task = replace(exercises.find("04.tv"), judge=lambda answer, _: str(answer([answer(1)] * 2)))
    assert judge(task, RemoteAnswer(remote, task, LIMITS.call)), "a good answer is judged"
    verdict = judge(task, RemoteAnswer(remote, task, LIMITS.call, "half"))
    assert verdict.outcome == "error" and "larger than 4 MiB" in verdict.message
    assert sorted(remote.errors) == [1, 2, 3] and "larger than 4 MiB" in remote.errors[1]
    assert "UnicodeEncodeError" in remote.errors[2] and "null" in remote.errors[3]


def test_lost_imports_of_the_exercise_itself_are_a_fault(isolated: Sandbox) -> None:
    remote = RemoteNotebook(["x = 1"], isolated, "import os; os._exit(0)")
    with pytest.raises(ExerciseError, match="imports of the exercise itself"):
        _ask(remote, "x")


def test_a_sandbox_that_fails_midway_is_a_fault(tmp_path: Path, isolated: Sandbox) -> None:
    plan = grading.HomeTasks(SALT, "04", challenges=False)
    broken = replace(isolated, limits=Limits(memory=2**20))
    result = grading._examine(plan, Submission("one", ("x = 1",)), broken)
    assert result.status == grading.FAULT and result.points is None


# ---- submissions ---------------------------------------------------------------------------------


def test_nothing_handed_in_is_said(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ExerciseError):
            submissions.discover(folder)


def test_folders_files_and_strange_things_are_all_found(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "dir.ipynb").mkdir()
    for name in ("ann/1.ipynb", "bob.ipynb", ".DS_Store"):
        (tmp_path / name).write_text(notebook(["x = 1"]))
    os.mkfifo(tmp_path / "pipe.ipynb")
    (tmp_path / "link").symlink_to(tmp_path / "ann")
    found = {sub.name: sub for sub in submissions.discover(tmp_path)}
    assert list(found) == ["ann/1.ipynb", "bob.ipynb", "link", "pipe.ipynb"]
    assert found["bob.ipynb"].cells == found["ann/1.ipynb"].cells == ("x = 1",)
    assert {name for name, sub in found.items() if sub.problem} == {"link", "pipe.ipynb"}


def _zipped(path: Path, files: Mapping[str, str | bytes]) -> None:
    with ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def test_work_is_found_in_whatever_form_it_is_handed_in(tmp_path: Path) -> None:
    one = notebook(["x = 1"])
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["x ", "= 1"]}]}]}
    (deep := tmp_path / "deep" / "a" / "b").mkdir(parents=True)
    for path, content in {
        deep / "work.ipynb": one.encode(),
        tmp_path / "loud.IPYNB": one.encode(),
        tmp_path / "old.ipynb": json.dumps(old).encode(),
        tmp_path / "wide.ipynb": one.encode("utf-16"),
        tmp_path / "marked.ipynb": one.encode("utf-8-sig"),
        tmp_path / "many.ipynb": notebook(["y = 1"] * 1500 + ["x = 1"]).encode(),
    }.items():
        path.write_bytes(content)
    files = {"hw/1.ipynb": one, "hw/.ipynb_checkpoints/1.ipynb": one, "__MACOSX/hw/1.ipynb": "x"}
    _zipped(tmp_path / "packed.ZIP", files)
    (tmp_path / "moodle").mkdir()
    _zipped(tmp_path / "moodle" / "hw.zip", {"1.ipynb": one, "2.ipynb": "{", "notes.txt": "x"})
    found = {sub.name: sub for sub in submissions.discover(tmp_path)}
    assert set(found) == {
        *("deep/a/b/work.ipynb", "loud.IPYNB", "old.ipynb", "wide.ipynb", "marked.ipynb"),
        *("many.ipynb", "packed.ZIP/hw/1.ipynb", "moodle/hw.zip/1.ipynb", "moodle/hw.zip/2.ipynb"),
    }
    assert "a damaged one" in found.pop("moodle/hw.zip/2.ipynb").problem
    assert {sub.cells[-1] for sub in found.values()} == {"x = 1"}
    assert not any(sub.problem or sub.doubt for sub in found.values())


def test_what_may_be_right_and_is_not_read_needs_review(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (subs := tmp_path / "subs").mkdir()
    monkeypatch.setattr(submissions, "MAX_ARCHIVE", 2**20)
    _zipped(subs / "bomb.zip", {"a.ipynb": bytes(2**21)})
    _zipped(subs / "empty.zip", {"solution.py": "x = 1"})
    (subs / "broken.zip").write_bytes((subs / "empty.zip").read_bytes()[:60])
    locked = bytearray((subs / "bomb.zip").read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(header) + flags] |= 1  # says that a password is needed
    (subs / "locked.zip").write_bytes(locked)
    (subs / "work.rar").write_bytes(b"Rar!")
    (subs / "endless.ipynb").write_text(notebook(["x = 1"] * (submissions.MAX_CELLS + 1)))
    monkeypatch.setattr(grading, "not_enforced", lambda _: [])
    results = grading.grade(subs, tmp_path / "out", grading.HomeTasks(SALT, "04"), Sandbox())
    told = {result.submission: result.flags[0] for result in results}
    assert {(r.status, r.points) for r in results} == {(grading.REVIEW, None)}, "never a zero"
    assert "more than 1 MiB" in told["bomb.zip"] and "no notebook" in told["empty.zip"]
    assert "cannot be opened" in told["broken.zip"] and "encrypted" in told["locked.zip"]
    assert ".rar" in told["work.rar"] and "10,001 code cells" in told["endless.ipynb"]
    assert all(told[r.submission] in r.remarks[0] for r in results), "the learner is told why"


OWN = "\n".join(
    f"def f{n}(a, b):\n    c = a {sign} {n}\n    return c.sum() {sign} b[{n}:]"
    for n, sign in enumerate("+-*/@|&^")
)


def test_near_identical_code_is_noticed_under_other_names() -> None:
    course = cells("solutions")
    renamed = OWN.replace("(a, b)", "(left, right)").replace("c = a", "mid = left")
    other = OWN.replace("+", "-").replace("sum", "mean").replace("[", "[1 + ")
    made = {"one": OWN, "two": f"# all my own\n{renamed}", "three": other, "four": "x = 1"}
    subs = [Submission(name, (*course, text)) for name, text in made.items()]
    subs += [Submission("five", tuple(course)), Submission("six", tuple(course))]
    assert similarity.similar(subs, [course]) == {"one": ["two"], "two": ["one"]}


def _forms(*sources: str) -> str:
    return similarity.forms(sources, {"key": "answer"}).get("key", "")


def test_the_same_answer_is_known_under_other_names() -> None:
    plain = "def answer(x):\n    total = helper(x)\n    return total.sum()"
    helper = "def helper(a):\n    return a * 2 + torch.pi"
    other = (
        "scale = 3\nx = 1\nfor total in (1, 2):\n    print(mine(total))\n"
        'def mine(b: Tensor) -> Tensor:\n    """Mine."""\n    return b * 2 + torch.pi',
        "def answer(image: Tensor) -> Tensor:\n    s = mine(image)  # mine\n    return s.sum()",
    )
    form = _forms(helper, plain)
    assert form and form == _forms(*other)
    for changed in ("a * 3 + torch.pi", "a + 2 * torch.pi", "a * 2 + math.pi"):
        assert _forms(helper.replace("a * 2 + torch.pi", changed), plain) != form
    assert _forms("def answer(x):\n    ...", "answer = None") == _forms("x = 1") == ""
    values = "guess = 1\nfor i in range(3):\n    guess += i\nanswer = guess"
    renamed = "g = 1\nfor step in range(3):\n    g += step\nanswer = g"
    assert _forms(values) == _forms(renamed) != _forms(values.replace("+=", "*="))


def test_copies_are_flagged_at_any_size_and_published_answers_noted() -> None:
    plan = grading.HomeTasks(SALT, "04", challenges=False)
    own = "def total_variation(x):\n    return sum(x.diff(dim=d).pow(2).mean() for d in (2, 3))"
    mine = "def tv(im):\n    # mine\n    return sum(im.diff(dim=k).pow(2).mean() for k in (2, 3))"
    exercise = cells("exercises")

    def with_tv(source: str, name: str = "total_variation") -> list[str]:
        check = f'{source}\n\n\ncheck("04.tv", {name})'
        return [check if 'check("04.tv"' in cell else cell for cell in exercise]

    made = {
        "ann": with_tv(own),
        "bob": with_tv(mine, "tv"),
        "eve": with_tv(own.replace("pow(2)", "abs()")),
        "twin": with_tv(own.replace("pow(2)", "abs()")),
        "stub": exercise,
        "stub too": exercise,
        "solved": cells("solutions"),
    }
    noticed = grading._compare(plan, [Submission(n, tuple(c)) for n, c in made.items()])
    flags = {name: " / ".join(told) for name, told in noticed.flags.items() if told}
    assert set(flags) == {"ann", "bob", "eve", "twin"}
    assert flags["ann"] == "04.tv: the same code but for names as bob"
    assert flags["eve"].startswith("the same cells as twin / 04.tv: the same code")
    assert not noticed.notes["ann"] and "04.tv, 04.feature_loss" in noticed.notes["solved"][0]


def test_reading_a_hostile_notebook_takes_no_minutes() -> None:
    loops = "x=1\n" * 9000 + "for i in x:x\n" * 2000  # thousands of uses of thousands of places
    start = time.process_time()
    code.statements(["\n" * 20_000 + "("])
    assert not code.should_define("\n" * 20_000 + "1/0", "f")
    assert similarity.forms([loops, "x=x\n" * 20_000], {"key": "x"}) == {}
    similarity.similar([Submission("one", ("x=x;" * 20_000,) * 9)])
    code.statements(["%time x = 1\n" * 8000] * 3)
    assert time.process_time() - start < 60  # done naively it takes minutes, on any machine


# ---- secrets, homework ---------------------------------------------------------------------------


def test_a_salt_is_its_owners_and_is_not_kept_in_the_course(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "salt"
    salt = secrets.make(path)
    assert salt == secrets.read(path) == path.read_bytes() and len(salt) == 32
    with pytest.raises(ExerciseError, match="cannot write"):
        secrets.make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ExerciseError, match="would be published"):
        secrets.make(lessons.course() / "salt")
    with pytest.raises(ExerciseError, match="assignment new"):
        secrets.read(tmp_path / "none")
    path.write_bytes(b"short")
    with pytest.raises(ExerciseError, match="5 bytes"):
        secrets.read(path)
    first = [next(secrets.seeds_of(salt, key, "")) for key in ("04.tv", "04.step")]
    assert first[0] != first[1] and next(secrets.seeds_of(SALT, "04.tv", "")) != first[0]


def _solutions(plan: homework.Assignment, learner: str) -> str:
    return solved(plan.topic, plan.homework(learner))


def _handed_in(path: Path, more: str) -> str:
    made = json.loads(path.read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code"]
    return notebook([*code, more])


@pytest.mark.proofs
@pytest.mark.slow
def test_homework_from_salt_to_scores(
    tmp_path: Path, isolated: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = homework.Assignment(SALT, ("ann", "bob", "cat", "eve"))
    paths = dict(zip(plan.learners, homework.write(plan, tmp_path / "out"), strict=True))
    (subs := tmp_path / "subs").mkdir()
    published = ANSWERS["04"].wrong.partition("recovered")[0]
    others = f"{_solutions(plan, 'eve')}\nrecovered = recovered.flip(0)"
    handed = {
        "ann": _handed_in(paths["ann"], _solutions(plan, "ann")),
        "bob": _handed_in(paths["bob"], published),
        "cat": _handed_in(paths["cat"], _solutions(plan, "ann")),
        "eve": _handed_in(paths["eve"], others),
        "who": _handed_in(paths["bob"], "").replace(plan.code("bob"), "AAAA-AAAA"),
        "zoe": _handed_in(paths["bob"], ""),
    }
    for name, text in handed.items():
        (subs / f"{name}.ipynb").write_text(text)
    results = grading.grade(subs, tmp_path / "scores", plan, isolated, 2)
    points = {r.submission[:3]: [task.points for task in r.tasks] for r in results}
    assert points == {
        "ann": [2, 3, 5],
        "bob": [0, 0, 0],
        "cat": [0, 0, 5],  # with Ann's constants; how to recover the images is the same for all
        "eve": [2, 3, 0],
        "who": [None] * 3,
        "zoe": [0, 0, 0],
    }
    status = {r.submission[:3]: (r.status, r.learner) for r in results}
    assert status["who"] == (grading.REVIEW, "") and status["ann"] == (grading.GRADED, "ann")
    flags = {r.submission[:3]: " ".join(r.flags) for r in results}
    assert "AAAA-AAAA in its first code cell is on no roster" in flags["who"]
    assert "bob handed in bob.ipynb, zoe.ipynb" in flags["bob"] and flags["bob"] == flags["zoe"]
    assert "nearly the same code as cat.ipynb, eve.ipynb" in flags["ann"]
    assert "hw04.prior, hw04.recover, hw04.sensor: the same code but for names" in flags["cat"]
    notes = {r.submission[:3]: r.notes for r in results}
    assert notes["bob"] == ("hw04.sensor: a published solution",) and not notes["ann"]
    page = (tmp_path / "scores" / "feedback" / report.page_name("ann.ipynb")).read_text()
    assert "eve.ipynb" not in page, "flags are for the teacher"
    assert "10 of 10 points" in page and "Homework 04, inversion, graded on 20" in page
    assert "cannot know the brightness" in page, "right answers are told what they mean"
    page = (tmp_path / "scores" / "feedback" / report.page_name("who.ipynb")).read_text()
    assert "the short code AAAA-AAAA in its first code cell is on no roster" in page

    examined: list[str] = []
    real = grading._examine_all

    def counting(plan: Any, todo: Any, *rest: Any) -> Any:
        examined.extend(sub.name for sub in todo)
        return real(plan, todo, *rest)

    monkeypatch.setattr(grading, "_examine_all", counting)
    (subs / "zoe.ipynb").write_text(_handed_in(paths["eve"], "recovered = 7"))
    again = grading.grade(subs, tmp_path / "scores", plan, isolated, 2)
    assert examined == ["zoe.ipynb"], "what is known is not graded anew"
    assert [r.points for r in again if r.submission != "zoe.ipynb"] == [10, 0, 5, 5, None]


def test_everybody_on_the_roster_has_a_row_and_one_submission_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = homework.Assignment(SALT, ("ann", "bob", "cat"))
    ann, bob, _ = homework.write(plan, tmp_path / "made")
    (subs := tmp_path / "subs").mkdir()
    for time_, (name, path) in enumerate({"z": ann, "b": ann, "a": ann, "bob": bob}.items()):
        shutil.copy(path, subs / f"{name}.ipynb")
        os.utime(subs / f"{name}.ipynb", (min(time_, 1), min(time_, 1)))  # "b" and "a" at one time
    task = grading.TaskResult("hw04.prior", "A prior", "right", "", 2, 2)

    def examined(plan: Any, todo: Any, *rest: Any) -> Any:
        return [
            (sub, grading.Result(sub.name, grading.GRADED, plan.learner(sub), (task,)))
            for sub in todo
        ]

    monkeypatch.setattr(grading, "_examine_all", examined)
    monkeypatch.setattr(grading, "not_enforced", lambda _: [])
    for _ in range(2):  # the second time from what is kept
        results = grading.grade(subs, tmp_path / "out", plan, Sandbox())
    assert {r.submission[:-6]: r.counts for r in results if r.submission} == {
        "a": False,
        "b": True,
        "z": False,
        "bob": True,
    }
    assert "ann handed in a.ipynb, b.ipynb, z.ipynb; b.ipynb counts" in results[0].flags
    (missing,) = [r for r in results if not r.submission]
    assert (missing.learner, missing.status) == ("cat", grading.MISSING)
    assert missing.points is None and missing.out_of == 10, "which is not a zero"
    assert grading.summary(results).startswith("4 submissions, 4 graded, 1 nothing handed in")
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["learner"], row["points"], row["counts"]) for row in rows] == [
        *(("ann", "2", "no"), ("ann", "2", "yes"), ("bob", "2", "yes"), ("ann", "2", "no")),
        ("cat", "", "yes"),
    ]
    assert len(list((tmp_path / "out" / "feedback").iterdir())) == 4 and not rows[-1]["feedback"]


def test_homework_is_each_learners_own_and_always_the_same(tmp_path: Path) -> None:
    plan = homework.Assignment(SALT, ("ann", "=bob"))
    one, two = (homework.write(plan, tmp_path / name) for name in ("1", "2"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    texts = [path.read_text(encoding="utf-8") for path in one]
    assert plan.code("ann") in texts[0] and plan.code("ann") not in texts[1]
    other = homework.Assignment(SALT[::-1], ("ann",))
    assert other.code("ann") != plan.code("ann")
    assert len({plan.homework(str(number)).parts[0].text for number in range(30)}) > 20
    assert homework.write(plan, tmp_path / "1") == one
    one[1].write_text("edited")
    with pytest.raises(ExerciseError, match="stays as it is; name a new folder"):
        homework.write(plan, tmp_path / "1")
    assert [path.read_text(encoding="utf-8") for path in one] == [texts[0], "edited"]
    mine, others = (plan.homework(learner).given["smashed"] for learner in plan.learners)
    assert not torch.equal(mine, others)


@pytest.mark.parametrize("text", ["name\nann", "id\nann\nann", "id\n \n", "id\n", ""])
def test_a_roster_without_different_ids_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "roster.csv").write_text(text)
    with pytest.raises(ExerciseError, match="roster"):
        roster.read(tmp_path / "roster.csv")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id;name\nann;Ann\n", "semicolons between the columns; put commas"),
        ("id\tname\nann\tAnn\n", "tabs between the columns"),
        ("name,email\nAnn,a@b\n", "no column `id`: its first line is 'name,email'; put commas"),
    ],
)
def test_a_roster_of_another_form_is_told_what_is_expected(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "roster.csv").write_text(text)
    with pytest.raises(ExerciseError, match=told):
        roster.read(tmp_path / "roster.csv")


# ---- what belongs to what ------------------------------------------------------------------------


def test_the_name_handed_to_check_is_read_from_the_cells() -> None:
    made = [
        'check("04.tv", first)\n%time check("04.step", nobody)\nexercises.check("04.step", mine)',
        "def check(: broken",
        'if True:\n    check("04.tv", last)\ncheck("04.tv", lambda x: x)\ncheck(key, last)',
        "x = '" + code.MAX_CELL * "-" + "'\ncheck('04.tv', too_long)",
        code.MAX_CELL // 2 * "-" + "1",
    ]
    assert code.answer_names(made) == {"04.tv": "last", "04.step": "mine"}
    assert code.should_define("<<<\ndef f(x)", "f") and code.should_define("f = 1 +", "f")
    assert not code.should_define("def f2(): f(1) == 2\nf == 3", "f")


RAW = """
x = !ls \\
    -l
?len
%matplotlib inline
total = [5
%2]
if total:
    %time y = len(x)
!echo a \\
  b
result = %timeit -n 10 -o sum(range(3))
%env A=1
await asyncio.sleep(0)
z = result.best >= 0
1 / 0
"""


def test_cells_are_read_as_ipython_reads_them(isolated: Sandbox) -> None:
    made = [
        "import asyncio\nasync def late(): return 7\nvalue = await late()",
        "%%time\n\ndef f(): return 1\n%timeit f()",
        "\n \n%%capture out --no-stderr\n%%time -q\n!pip install x\ng = 2",
        "%%writefile f.py\ndef f(: broken\nh = 3",
        "%%bash\nrm -rf /\nh=3",
        "%%timeit\nh = 3",
        "    a = 1\n    b = a",
        ">>> c = 4",
        RAW,
        "get_ipython().run_line_magic('matplotlib', 'inline')\nd = 5",
    ]
    source = "def answer(): return [value, f(), g, b, c, y, z, d, 'h' in globals()]"
    remote = RemoteNotebook([*made, source], isolated)
    assert _ask(remote, "answer") == [7, 1, 2, 1, 4, 0, True, 5, False]
    assert remote.errors == {9: "ZeroDivisionError: division by zero"}
    names = {name for one in code.statements(made) for name in code.defined(one)}
    assert {"f", "g", "b", "z", "value"} <= names and "h" not in names


def test_lines_keep_their_numbers_whatever_ipython_makes_of_them() -> None:
    for source, line in ((RAW, 16), ("\n\n%%time\n!a \\\n  b\n1 / 0", 6)):
        last = code.parse(source).body[-1]
        assert isinstance(last, ast.Expr) and isinstance(last.value, ast.BinOp)
        assert (last.lineno, source.splitlines()[last.lineno - 1]) == (line, "1 / 0")


TV = "    return sum(x.diff(dim=d).square().mean() for d in (2, 3))"


@pytest.mark.proofs
@pytest.mark.slow
def test_other_names_and_lost_imports_cost_nothing_and_failures_are_told(
    isolated: Sandbox,
) -> None:
    plan = grading.HomeTasks(SALT, "04", challenges=False)
    made = [
        f'def my_tv(x):\n{TV}\n\n\ncheck("04.tv", my_tv)',  # no import of check
        'check("04.feature_loss", feature_loss_two)',  # defined nowhere: the task's own name counts
        "def feature_loss(guess: Tensor, smashed: Tensor):\n"
        "    return (guess - smashed).square().mean() / smashed.var()",
        "import nowhere\ndef unsplit_step(*a): ...",
        "def negative_client(weight, bias):\n    return -weight",
        "negative_client = 1 / 0",
        "def score_clones(*a): ...",
    ]
    result = grading._examine(plan, Submission("one", tuple(made)), isolated)
    told = {task.task.removeprefix("04."): task for task in result.tasks}
    assert (told["tv"].points, told["feature_loss"].points) == (2, 2)
    assert "cell 4, which should define `unsplit_step`, failed:\nModuleNot" in told["step"].message
    assert "Was it renamed to `score_clones`?" in told["clone_score"].message
    assert "cell 4: ModuleNotFoundError" in told["fair_score"].message
    assert "renamed to `fair_score`" not in told["fair_score"].message


def test_notebooks_of_other_topics_get_no_zero(tmp_path: Path, isolated: Sandbox) -> None:
    shipped = lessons.course().parent / "solutions"
    (gina := tmp_path / "subs" / "gina").mkdir(parents=True)
    for topic in ("01", "03"):
        shutil.copy(next(shipped.glob(f"{topic}_*.ipynb")), gina)
    plan = homework.Assignment(SALT, ("ann",))
    (written,) = homework.write(plan, gina)
    (gina / "plain.ipynb").write_text(notebook(["def total_variation(x): ..."]))
    found = {sub.name[5:7]: sub for sub in submissions.discover(tmp_path / "subs")}
    topics = {name: grading.HomeTasks(SALT, "04").other(sub) for name, sub in found.items()}
    assert topics == {"01": "topic 01", "03": "topic 03", "an": "homework", "pl": ""}
    assert {name: plan.other(sub) for name, sub in found.items()} == {
        "01": "topic 01",
        "03": "topic 03",
        "an": "",
        "pl": "",
    }
    assert "is missing or was changed" in plan.doubt(found["pl"])

    for path in (written, gina / "plain.ipynb"):
        path.unlink()
    results = grading.grade(
        tmp_path / "subs", tmp_path / "out", grading.HomeTasks(SALT, "04"), isolated
    )
    assert [(r.status, r.points, r.tasks) for r in results] == [(grading.OTHER, None, ())] * 2
    row = (tmp_path / "out" / "scores.csv").read_text(encoding="utf-8").splitlines()[1]
    assert row.startswith("gina/01_split_learning.ipynb,,other topic,,,")
    page = (tmp_path / "out" / "feedback" / report.page_name(results[0].submission)).read_text()
    assert "belongs to topic 01; here topic 04" in page and "points" not in page


def test_scores_are_not_written_among_the_submissions(tmp_path: Path) -> None:
    (tmp_path / "one.ipynb").write_text(notebook([]))
    plan = grading.HomeTasks(SALT, "04")
    for out in (tmp_path, tmp_path / "scores", tmp_path / "a" / ".." / "scores"):
        with pytest.raises(ExerciseError, match="lies in the folder of submissions"):
            grading.grade(tmp_path, out, plan, Sandbox())
    assert len(list(tmp_path.iterdir())) == 1


# ---- reports and command line --------------------------------------------------------------------


def test_no_cell_of_a_table_is_a_formula() -> None:
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\n=1", "＝1", "|cmd"):
        assert report.safe_cell(text) == f"'{text.replace(chr(9), ' ').replace(chr(10), ' ')}"
    assert report.safe_cell("ann;=1+1; \t-1;b") == "ann;'=1+1;'  -1;b"
    assert report.safe_cell("\x1b[31mred\r\n\u202e\x9b") == r"\x1b[31mred  \u202e\x9b"
    assert report.safe_cell("ann-1") == "ann-1" and report.safe_cell(-1) == -1


def test_unreadable_submissions_have_rows_and_pages_too(tmp_path: Path, isolated: Sandbox) -> None:
    (tmp_path / "subs").mkdir()
    for name in ("=1+1.ipynb", "<b>.ipynb"):
        (tmp_path / "subs" / name).write_text("{")
    plan = grading.HomeTasks(SALT, "04", challenges=False)
    results = grading.grade(tmp_path / "subs", tmp_path / "out", plan, isolated)
    assert [(r.status, r.points, r.out_of) for r in results] == [("unreadable", 0, 17)] * 2
    assert grading.summary(results) == "2 submissions, 2 unreadable; 0 with flags"
    rows = (tmp_path / "out" / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 3 and rows[2].startswith("'=1+1.ipynb,,unreadable,0,17,0,")
    page = (tmp_path / "out" / "feedback" / report.page_name("<b>.ipynb")).read_text()
    assert "0 of 17 points" in page and "&lt;b&gt;" in page and "<b>.ipynb" not in page
    assert page.count("a damaged one") == 1 and "Error" not in page
    assert "Topic 04, Attack 1: inversion and stealing, graded on 20" in page

    (tmp_path / "out" / "feedback" / "my notes.html").touch()
    (tmp_path / "subs" / "<b>.ipynb").unlink()
    grading.grade(tmp_path / "subs", tmp_path / "out", plan, isolated)
    left = {path.name for path in (tmp_path / "out" / "feedback").iterdir()}
    assert left == {report.page_name("=1+1.ipynb"), "my notes.html"}


def test_errors_keep_their_lines_on_a_page() -> None:
    task = grading.TaskResult("04.tv", "A prior", "error", "line 1\n    x < 1\nNameError", 0, 2)
    right = replace(task, outcome="right", message="one\ntwo")
    result = grading.Result("one", grading.GRADED, "", (task, right), cells={"3": "a\n  b"})
    page = report._page(result, "Topic 04")
    assert "<pre>line 1\n    x &lt; 1\nNameError</pre>" in page and "one<br>two" in page
    assert "<pre>a\n  b</pre>" in page


def test_an_unknown_topic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExerciseError, match="no exercises of topic '99'"):
        grading.HomeTasks(SALT, "99")


def test_pages_have_safe_names_of_their_own() -> None:
    names = ["../x.ipynb", "..\\x.ipynb", "x", "<b>\udcff", "A/b.ipynb", "a/b.ipynb"]
    pages = [report.page_name(name) for name in names]
    assert len({page.lower() for page in pages}) == len(names)
    assert all(Path(page).name == page and page.isascii() for page in pages)


def test_commands_make_homework_and_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (roster := tmp_path / "roster.csv").write_text("id,name\nann,Ann\nbob,Bob\n")
    place = ["--salt", str(tmp_path / "salt"), "--roster", str(roster), "--out"]

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sltools", *arguments])
        with pytest.raises(SystemExit):
            cli.main()
        return "".join(capsys.readouterr())

    assert "salt" in call("grade", str(tmp_path), *place, str(tmp_path / "out"))
    said = call("assignment", "new", *place, str(tmp_path / "homework"))
    assert "2 notebooks" in said and (tmp_path / "homework" / "index.csv").exists()
    assert f"NOTE: made a new salt at {tmp_path / 'salt'}" in said
    other = ["--salt", str(tmp_path / "slat"), "--out", str(tmp_path / "out")]
    (tmp_path / "empty").mkdir()
    assert "NOTE: made a new salt at" in call("grade", str(tmp_path / "empty"), *other)
    assert "NOTE" not in call("grade", str(tmp_path / "empty"), *other)
    assert len(list((tmp_path / "homework").glob("*.ipynb"))) == 2
    assert "no folder" in call("grade", str(tmp_path / "none"), *place, str(tmp_path / "out"))
