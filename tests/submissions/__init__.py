"""Thirty submissions to topic 04, good, weak, broken and hostile, and the points each must get."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "04_inversion_and_stealing.ipynb"
FULL = {"tv": 2, "feature_loss": 2, "step": 4, "negative": 3, "clone_score": 3, "fair_score": 3}
HUGE = 200 * 2**20
MARKER = "86399.25"  # seconds that a runaway process sleeps: what to look for in /proc


def cells(folder: str) -> list[str]:
    """Return the code cells of the course's exercise, from `folder`."""
    notebook = json.loads((ROOT / folder / NAME).read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join(cell["source"]) for cell in code]


def solved(changes: dict[str, str | None] | None = None, first: str = "") -> list[str]:
    """Return the solution's cells with some of its answers changed, or deleted (None).

    Without the challenge, whose imports take a second.
    """
    made = [first] if first else []
    for source in cells("solutions"):
        if "04.challenge" in source:
            continue
        key = next((name for name in FULL if f'check("04.{name}"' in source), "")
        source = (changes or {}).get(key, source)
        made += [] if source is None else [source]
    return made


def notebook(sources: list[str]) -> str:
    """Return a notebook with these code cells."""
    made = [
        {"cell_type": "code", "source": source, "metadata": {}, "outputs": []} for source in sources
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@dataclass(frozen=True)
class Case:
    """A submission: its cells, or what else to put at its path, and what it loses.

    `says` maps a task, or "" for the whole, to words that its feedback must hold.
    """

    sources: list[str] | None = None
    make: Callable[[Path], object] | None = None
    lost: tuple[str, ...] = ()
    status: str = "graded"
    says: dict[str, str] = field(default_factory=dict)
    suffix: str = ".ipynb"

    @property
    def points(self) -> dict[str, int]:
        """The points of each task."""
        unread = self.status == "unreadable"
        return {key: 0 if unread or key in self.lost else most for key, most in FULL.items()}

    def write(self, path: Path) -> None:
        """Put the submission at `path`."""
        if self.make:
            self.make(path)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(notebook(self.sources or []), encoding="utf-8")


def unreadable(make: Callable[[Path], object], says: str, suffix: str = ".ipynb") -> Case:
    """A submission that cannot be read."""
    return Case(make=make, status="unreadable", says={"": says}, suffix=suffix)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, HUGE)


TV = "down, across = images.diff(dim=2), images.diff(dim=3)\n    right = "
TV += "down.square().mean() + across.square().mean()"
MAGICS = "%matplotlib inline\n!pip list\nimport os\nos.getcwd?"
EQUAL = """
class Equal(float):
    def __eq__(self, other): return True
    def __getattr__(self, name): return lambda *a, **k: self
    __hash__ = None
def {name}(*a): return Equal()
"""
PATCHES = """
import torch, sltools.checking.task as task, sltools.checking.judging as judging, sltools.metrics
for owner, name in [(torch, "allclose"), (torch, "equal"), (task, "close"), (judging, "judge")]:
    setattr(owner, name, lambda *a, **k: True)
task.compare = sltools.metrics.mse = lambda *a, **k: None
"""
FORGERY = """
import os, socket, struct
from sltools.grading import wire
def total_variation(images):
    open("scores.csv", "w").write("forged,17")
    for number in range(3, 64):
        try:
            socket.socket(fileno=os.dup(number)).sendall(wire.pack({"right": True, "points": 2}))
        except OSError:
            pass
    return 0.0
"""
FORKS = """
import os
def total_variation(images):
    while True:
        try:
            os.fork()
        except OSError:
            pass
"""
HOG = """
import torch
def total_variation(images):
    kept = []
    while True:
        kept.append(torch.empty(2**28))
"""
RUNAWAY = f"""
import ctypes, os, signal, subprocess
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # do not die with the parent
for number in set(signal.valid_signals()) - {{signal.SIGKILL, signal.SIGSTOP}}:
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "{MARKER}"])
    os._exit(0)
subprocess.Popen(["sleep", "{MARKER}"], start_new_session=True)
"""
FLOOD = """
import sys
for _ in range(500):
    print("x" * 1_000_000)
    print("x" * 1_000_000, file=sys.stderr)
"""
SPY = f"""
import importlib, os, socket, sys
from pathlib import Path
def found():
    import sltools
    yield from Path(sltools.__file__).parent.rglob("topics/*.py")
    yield from Path(sltools.__file__).parent.rglob("_material/*")
    for place in @PLACES@:
        yield from Path(place).parent.glob("*")
    for name in ("inversion", "labels"):
        try:
            yield importlib.import_module("sltools.exercises.topics." + name)
        except ImportError:
            pass
    for pid in Path("/proc").glob("[0-9]*"):
        if pid.name not in ("1", str(os.getpid())):
            yield pid
    try:
        yield socket.create_connection(("127.0.0.1", @PORT@), 1)
    except OSError:
        pass
    for place in [*@PLACES@, str(Path.home() / "x"), str(Path(sltools.__file__).parent / "x")]:
        try:
            os.symlink(place, "link")
            open("link", "w").write("@TOKEN@")
        except OSError:
            pass
        try:
            os.unlink("link")
            os.makedirs(os.path.dirname(place), exist_ok=True)
            open(place, "w").write("@TOKEN@")
        except OSError:
            continue
        yield place if not place.startswith("/submission") else None
def total_variation(images):
    {TV}
    seen = [str(one) for one in found() if one]
    if not seen:
        raise RuntimeError("nothing to see")
    return right
"""
LOOP = "while True: pass"


def cases(outside: list[str], port: int) -> dict[str, Case]:
    """Return all submissions by name.

    One tries to read and write at the places `outside`, and to connect to a local `port`.
    """
    tv = f"def total_variation(images):\n    {TV}\n"
    spy = SPY.replace("@PLACES@", repr(outside)).replace("@PORT@", str(port))
    spy = spy.replace("@TOKEN@", "written by a submission")
    flawed = """
def score_clone(clone, front, rest, images, labels):
    says = rest(front(images)).argmax(1)
    accuracy = (says == labels).double().mean().item()
    return accuracy, (rest(clone(images)).argmax(1) == labels).double().mean().item()
"""
    halved: dict[str, str | None] = dict.fromkeys(list(FULL)[2:])
    script = "def total_variation(images):\n    raise ValueError('<script>alert(1)</script>')"
    return {
        "good": Case(cells("solutions")),
        "good in a folder/04": Case(  # under another name, and without the cell of imports
            solved(
                {
                    "tv": f"{tv.replace('total_variation', 'my_tv')}    return right\n\n\n"
                    'check("04.tv", my_tv)'
                }
            )[1:]
        ),
        "other words": Case(
            solved(
                {
                    "tv": "total_variation = lambda x: sum(x.double().diff(dim=d).pow(2).mean() "
                    "for d in (-1, -2))",
                    "fair_score": "import numpy as np\ndef fair_score(inputs, truth):\n"
                    "    x = (inputs - truth).double().numpy()\n"
                    "    return float(np.median(np.median((x ** 2).mean((2, 3, 4)), axis=1)))",
                    "negative": "def negative_client(weight, bias):\n"
                    "    return [weight.neg(), bias + weight.flatten(1).sum(1)]",
                }
            )
        ),
        "magics": Case(solved({"tv": f"%%time\n{tv}    return right"}, first=MAGICS)),
        "untouched": Case(cells("exercises"), lost=tuple(FULL), says={"tv": "total_variation"}),
        "half": Case(
            solved(halved),
            lost=tuple(halved),
            says={"step": "does not define `unsplit_step`"},
        ),
        "absolute": Case(
            solved(
                {
                    "tv": "total_variation = lambda x: sum(x.diff(dim=d).abs().mean() for d in "
                    "(2, 3))"
                }
            ),
            lost=("tv",),
            says={"tv": "absolute differences"},
        ),
        "flaw kept": Case(
            solved({"clone_score": flawed}),
            lost=("clone_score",),
            says={"clone_score": "the pair of accuracy"},
        ),
        "strange types": Case(
            solved(
                {
                    "tv": "def total_variation(images): return '0.5'",
                    "feature_loss": "def feature_loss(guess, smashed): return 10**30",
                    "negative": "negative_client = 7",
                    "fair_score": "def fair_score(x, t): return x.to(torch.complex64)",
                }
            ),
            lost=("tv", "feature_loss", "negative", "fair_score"),
            says={"tv": "not a str", "negative": "a function is asked for"},
        ),
        "renamed": Case(
            solved({"tv": f"def total_variance(images):\n    {TV}\n    return right"}),
            lost=("tv",),
            says={"tv": "renamed to `total_variance`"},
        ),
        "syntax error": Case(
            solved({"tv": "def total_variation(images)\n    return 0"}),
            lost=("tv",),
            says={"": "SyntaxError", "tv": "should define `total_variation`, failed:"},
        ),
        "merged": Case(
            [*solved({"tv": "def total_variation(x): return 0"}), f"{tv}    return right"],
            says={"": "`total_variation` is defined in code cells"},
        ),
        "conflict": Case(
            solved({"step": "<<<<<<< HEAD\ndef unsplit_step(): pass\n=======\n>>>>>>> mine"}),
            lost=("step",),
            says={"step": "should define `unsplit_step`, failed:"},
        ),
        "a report": unreadable(lambda p: p.write_bytes(b"%PDF"), "not a notebook", ".pdf"),
        "broken": unreadable(lambda p: p.write_text('{"cells": [<<<<'), "not a notebook"),
        "deep": unreadable(lambda p: p.write_text("[" * 100_000), "not a notebook"),
        "huge": unreadable(_sparse, "200 MiB"),
        "empty": unreadable(Path.mkdir, "no notebook in the folder", ""),
        "a link": unreadable(
            lambda p: p.symlink_to(ROOT / "solutions" / NAME), "not an ordinary file"
        ),
        "forged": Case(solved({"tv": FORGERY}), lost=("tv",)),
        "equal": Case(
            solved(
                {
                    "tv": EQUAL.format(name="total_variation"),
                    "fair_score": EQUAL.format(name="fair_score"),
                }
            ),
            lost=("tv", "fair_score"),
            says={"tv": "Equal"},
        ),
        "patches": Case(
            solved({"tv": "def total_variation(images): return 0."}, first=PATCHES), lost=("tv",)
        ),
        "exits": Case(
            solved(
                {"step": "import os\ndef unsplit_step(*a): os._exit(0)"}, "import os; os._exit(0)"
            ),
            lost=("step",),
            says={"step": "ended the process", "": "cell 1: It ended the process"},
        ),
        "forks": Case(solved({"tv": FORKS}), lost=("tv",)),
        "hog": Case(solved({"tv": HOG}), lost=("tv",), says={"tv": "RuntimeError was raised"}),
        "loops": Case(
            solved({"fair_score": f"def fair_score(x, t):\n    {LOOP}"}, first=LOOP),
            lost=("fair_score",),
            says={"fair_score": "computing time", "": "cell 1: It took more than"},
        ),
        "flood": Case(solved(first=FLOOD)),
        "runaway": Case(solved(first=RUNAWAY)),
        "spy": Case(solved({"tv": spy}), lost=("tv",), says={"tv": "nothing to see"}),
        "=cmd|' C calc'!A0 <script>": Case(
            solved({"tv": script}), lost=("tv",), says={"tv": "<script>alert(1)</script>"}
        ),
    }


def write(folder: Path, named: dict[str, Case], order: list[str]) -> dict[str, str]:
    """Write submissions that are found in this order; return their names by the case's."""
    names = {}
    for place, name in enumerate(order):
        # The one that begins like a formula must go on doing so.
        found = name if name.startswith("=") else f"{place:02} {name}"
        path = folder / f"{found}{named[name].suffix}"
        named[name].write(path)
        names[name] = path.relative_to(folder).as_posix()
    return names
