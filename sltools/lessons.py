"""The lessons: find them, run one without a browser, copy them for a learner, open them in Lab."""

import ast
import hashlib
import io
import json
import math
import os
import re
import time
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sltools import storage
from sltools.errors import LessonError, ModelError, SltoolsError

LONGEST_TIMEOUT = 1e6  # seconds, eleven days: what waits for a kernel takes no more
CELL_TIMEOUT = 3600.0  # seconds; a headless run always has a limit, for a widget can hang for ever
START = "course/00_start_here.ipynb"

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = ("course", "exercises")  # the folders a learner gets a copy of
_PRIVATE = {"src", "__pycache__", ".ipynb_checkpoints"}
MANIFEST = ".sltools-course.json"
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
}


# ---- what a lesson is ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line of a lesson's parameters cell: `name: type = default  # help`.

    A help text with `one of: a, b, c` limits the values to these; the list ends at the end of the
    line, a semicolon or a bracket.
    """

    name: str
    type: str
    default: Any
    help: str = ""
    choices: tuple[Any, ...] = ()

    def parse(self, text: str) -> Any:
        """Turn what a user typed into a value; raise LessonError if it is not an allowed one."""
        readers: dict[str, Callable[[str], Any]]
        readers = {"str": str, "int": int, "float": float, "bool": _read_bool}
        try:
            return self.check(readers[self.type](text.strip()))
        except ValueError:
            raise self._refusal(text) from None

    def check(self, value: Any) -> Any:
        """Return `value`; raise LessonError if its type is wrong or it is not among the choices."""
        right_type = isinstance(value, _TYPES[self.type])
        if self.type != "bool" and isinstance(value, bool):  # bool is an int to Python
            right_type = False
        if not right_type or (self.choices and value not in self.choices):
            raise self._refusal(value)
        return value

    def _refusal(self, value: object) -> LessonError:
        expected = self.type
        if self.choices:
            expected = f"one of {', '.join(map(str, self.choices))}"
        return LessonError(f"parameter {self.name}: {value!r} is not allowed, give {expected}")


@dataclass(frozen=True)
class Lesson:
    """A notebook of the course. `minutes` is a learner's time; `parameters` can be set in `run`.

    `seconds` is what it took to run on a machine whose `calibration` (see `sltools.doctor`) was
    that many seconds.
    """

    number: int
    name: str
    path: Path
    title: str
    minutes: int
    parameters: tuple[Parameter, ...]
    seconds: float = 0.0
    calibration: float = 0.0

    def parameter(self, name: str) -> Parameter:
        """Return the parameter `name`; raise LessonError, with the known ones, if there is none."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        known = ", ".join(p.name for p in self.parameters) or "none"
        raise LessonError(f"{self.name} has no parameter {name!r}; it has: {known}")

    def parse(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Turn typed-in settings, such as {"seed": "3"}, into values for `run`."""
        return {name: self.parameter(name).parse(text) for name, text in texts.items()}

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings of a run: `values`, and the defaults of the others.

        Raises LessonError for a value that is not allowed, and a cut that the network has not.
        """
        found = {parameter.name: parameter.default for parameter in self.parameters}
        found |= {name: self.parameter(name).check(value) for name, value in values.items()}
        if {"dataset", "cut"} <= found.keys():
            _check_cut(found["dataset"], found["cut"])
        return found


def course() -> Path:
    """Return the folder of the lessons: inside an installed wheel, else beside `sltools`."""
    return _material() / "course"


def lessons(folder: Path | None = None) -> list[Lesson]:
    """List the lessons in `folder`, by default the course's own, in their order."""
    return [read(path) for path in sorted((folder or course()).glob("[0-9][0-9]_*.ipynb"))]


def appendix(folder: Path | None = None) -> list[Lesson]:
    """List the notebooks that go deeper, each numbered as the lesson that it belongs to."""
    return lessons((folder or course()) / "appendix")


def find(key: str, folder: Path | None = None) -> Lesson:
    """Return the lesson called `key`: its number ("4", "04"), its name, or the path of a notebook.

    What has a folder before it or ends in .ipynb is a path, and means the file there and no other:
    a learner's edited copy bears the name of a lesson of the course. Raises LessonError, naming the
    known lessons, if there is no such lesson, and for a path without a lesson.
    """
    wanted = key.strip()
    path = Path(wanted).expanduser()
    if path.suffix == ".ipynb" or path.name != wanted:
        return _at(path, folder)
    known = lessons(folder)
    for lesson in known:
        if wanted == lesson.name or (wanted.isdecimal() and int(wanted) == lesson.number):
            return lesson
    for lesson in appendix(folder):
        if wanted == lesson.name:
            return lesson
    raise LessonError(f"there is no lesson {key!r}; the lessons are: {_names(known)}")


def _at(path: Path, folder: Path | None) -> Lesson:
    """Read the lesson in the file at `path`; raise LessonError if there is none."""
    if not path.is_file():
        raise LessonError(
            f"there is no file {path}. A lesson of the course is asked for by its number or name "
            f"alone, without folder and ending: {_names(lessons(folder))}"
        )
    if path.suffix != ".ipynb" or not re.match("[0-9]{2}_", path.name):
        raise LessonError(
            f"{path} is no lesson: one is a notebook called by two digits and a name, such as "
            "04_mine.ipynb"
        )
    return read(path)


def _names(known: Sequence[Lesson]) -> str:
    return ", ".join(lesson.name for lesson in known) or "none"


def read(path: Path) -> Lesson:
    """Read a lesson's facts from its notebook; raise LessonError if that is damaged."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        facts = notebook["metadata"].get("sltools", {})
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        return Lesson(
            number=int(path.name[:2]),
            name=path.stem,
            path=path,
            title=facts.get("title", path.stem),
            minutes=facts.get("minutes", 0),
            parameters=tuple(p for cell in cells if _tagged(cell) for p in _parameters(cell)),
            seconds=facts.get("seconds", 0.0),
            calibration=facts.get("calibration", 0.0),
        )
    except (OSError, LookupError, TypeError, ValueError, SyntaxError) as error:
        raise LessonError(
            f"{path} is not a lesson that can be read ({error}); copy it again from the course"
        ) from None


def _material() -> Path:
    for root in (_PACKAGE / "_material", _PACKAGE.parent):
        if (root / "course").is_dir():
            return root
    raise LessonError("sltools was installed without its lessons; install it again from its wheel")


def _tagged(cell: Mapping[str, Any]) -> bool:
    return "parameters" in cell["metadata"].get("tags", [])


def _parameters(cell: Mapping[str, Any]) -> Iterator[Parameter]:
    source = "".join(cell["source"])
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for line in ast.parse(source).body:
        if not isinstance(line, ast.AnnAssign) or line.value is None:
            raise ValueError(f"line {line.lineno} of its parameters is not `name: type = default`")
        kind = ast.unparse(line.annotation)
        if kind not in _TYPES:
            raise ValueError(f"a parameter has type {kind}, known are {', '.join(_TYPES)}")
        text = comments.get(line.lineno, "")
        plain = Parameter(ast.unparse(line.target), kind, ast.literal_eval(line.value), text)
        listed = re.search(r"one of:\s*([^;()]+)", text)
        choices = [plain.parse(choice) for choice in listed[1].split(",")] if listed else []
        yield Parameter(plain.name, plain.type, plain.default, plain.help, tuple(choices))


def _check_cut(dataset: str, stage: str) -> None:
    from sltools import data, models

    try:
        models.cut(models.for_images(data.SHAPES[dataset]), stage)
    except ModelError as error:
        raise LessonError(f"parameter cut, with {dataset}: {error}") from None


def _check_device(name: str) -> None:
    from sltools import devices

    try:
        devices.find(name)
    except SltoolsError as error:
        raise LessonError(f"parameter device: {error}") from None


def _read_bool(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise ValueError(text) from None


# ---- running one without a browser ---------------------------------------------------------------


def run(
    lesson: Lesson,
    parameters: Mapping[str, Any] | None = None,
    output: Path | None = None,
    timeout: float = CELL_TIMEOUT,
    progress: bool = False,
) -> Path:
    """Run `lesson` with other parameters and return the executed notebook, a new file.

    `output` is that file or the folder it goes to, by default the current one; the kernel works in
    that folder. `timeout` is in seconds and holds for each cell. Raises LessonError if a parameter
    or the timeout is refused, the output would overwrite a file or cannot be written, or the lesson
    fails; the notebook is then kept as far as it got.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    check_timeout(timeout)
    values = dict(parameters or {})
    _check_device(lesson.settings(values).get("device", "cpu"))  # before the output is there
    output = _reserve(output or Path.cwd(), lesson)
    _write_whole(output)
    try:
        papermill.execute_notebook(
            _literal(lesson.path),
            _literal(output),
            values,
            kernel_name="python3",
            progress_bar=progress,
            execution_timeout=math.ceil(timeout),  # papermill takes whole seconds
            kernel_manager_class=headless_kernel(),
            resources={"metadata": {"path": str(output.parent)}},
            store_widget_state=False,
        )
    except papermill.PapermillExecutionError as error:
        reason = f"in cell [{error.exec_count}] with {error.ename}: {_first_line(error.evalue)}"
    except CellTimeoutError:
        reason = f"in cell [{_last_run(output)}], which took longer than {timeout:g} s"
    except DeadKernelError:
        reason = f"in cell [{_last_run(output)}], where its process died (out of memory?)"
    except OSError as error:  # a full disk, a kernel that does not start
        if output.stat().st_size == 0:
            output.unlink()
        raise LessonError(
            f"lesson {lesson.name} stopped: {error}; what was written of it before is in {output}"
        ) from None
    else:
        return output
    raise LessonError(f"lesson {lesson.name} stopped {reason}; see what it did so far in {output}")


def check_timeout(seconds: float) -> None:
    """Raise LessonError unless a cell can be given so many `seconds`."""
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise LessonError(
            f"the timeout of a cell is above 0 and at most {LONGEST_TIMEOUT:,.0f} seconds, not "
            f"{seconds}"
        )


def _write_whole(output: Path) -> None:
    """Let papermill write `output` in one step: a full disk then leaves its last state."""
    from papermill.iorw import LocalHandler, papermill_io

    class Whole(LocalHandler):
        def write(self, buf: str, path: str) -> None:
            storage.replace(Path(path), buf)

    papermill_io.register(str(output), Whole())


def headless_kernel() -> type:
    """Return a kernel manager class for runs that nobody watches.

    Its kernel is this very interpreter with this very sltools, whatever kernels are installed, and
    draws static pictures in place of widgets and progress bars.
    """
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    path = [str(_PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"SLTOOLS_STATIC": "1", "PYTHONPATH": os.pathsep.join(path), **_threads()}
    # Quiet: else every kernel prints a warning about local, unencrypted sockets, and one that is
    # stopped at work the traceback of an answer that nobody waits for. Its cells still tell theirs.
    launch = get_kernel_dict(extra_arguments=["--log-level=CRITICAL"])

    class HeadlessKernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, env=settings, **launch)

    return HeadlessKernel


def _threads() -> dict[str, str]:
    """Return the number of threads of a lesson: one, unless the user's OMP_NUM_THREADS says more.

    The networks are too small to gain from more, the numbers are then the same on any number of
    cores, and a second program on a busy machine slows the lesson down by two and not by twenty.
    """
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def _reserve(output: Path, lesson: Lesson) -> Path:
    """Create the file a run will fill, so that nobody's file is overwritten even by a race."""
    output = output.expanduser().absolute()
    if output.is_dir():
        output /= f"run-{lesson.name}-{time.strftime('%Y%m%d-%H%M%S')}.ipynb"
    if output.suffix != ".ipynb":
        raise LessonError(f"the output {output} must be an existing folder or a name in .ipynb")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch(exist_ok=False)
    except OSError as error:
        if output.exists():
            raise LessonError(f"{output} exists and stays as it is; give another name") from None
        raise LessonError(f"cannot write {output} ({error.strerror}); give another place") from None
    return output


def _literal(path: Path) -> str:
    """Escape the braces that papermill would otherwise fill with parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no message"


def _last_run(executed: Path) -> int:
    """Count the code cells that papermill began, which is the number of the one it stopped in.

    By their time of start: it marks those that it never came to as completed.
    """
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    started = [bool(cell["metadata"]["papermill"].get("start_time")) for cell in cells]
    return sum(s for s, cell in zip(started, cells, strict=True) if cell["cell_type"] == "code")


# ---- a learner's own copy ------------------------------------------------------------------------


@dataclass(frozen=True)
class CopyReport:
    """What `copy_course` did in `folder`; the files are named relative to it.

    `kept` are files that the learner edited and that were left alone; `beside` are newer releases
    of such files, placed under the name NAME.new.ipynb.
    """

    folder: Path
    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.folder}: {len(self.added)} files new, {len(self.updated)} updated"]
        if self.kept:
            lines.append(f"kept as you saved them: {', '.join(self.kept)}")
        if self.beside:
            lines.append(f"newer release beside your edited file: {', '.join(self.beside)}")
        return "\n".join(lines)


def copy_course(destination: Path, solutions: bool = False) -> CopyReport:
    """Copy the course into `destination`, or bring an earlier copy there up to date.

    Lessons and exercises, and the `solutions` if asked for. An edited file is never overwritten.
    What was copied is remembered by its hash in a manifest, so that an untouched file can be told
    from an edited one. Raises LessonError if `destination` cannot be written.
    """
    root = _material()
    folder = destination.expanduser().absolute()
    shipped = (root / "course").resolve()
    if folder.resolve() == root.resolve() or folder.resolve().is_relative_to(shipped):
        raise LessonError(f"{folder} is the course itself; name another folder for your copy")
    report: dict[str, list[str]] = {"added": [], "updated": [], "kept": [], "beside": []}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = _read_manifest(folder)
        for source in _shipped(root, (*_SHIPPED, "solutions") if solutions else _SHIPPED):
            outcome, name = _bring(source, source.relative_to(root).as_posix(), folder, manifest)
            if outcome:
                report[outcome].append(name)
        _write(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    except OSError as error:
        raise LessonError(
            f"cannot copy the course to {folder} ({error.strerror}: {error.filename}); "
            "name a folder you may write to"
        ) from None
    return CopyReport(folder, **{outcome: tuple(names) for outcome, names in report.items()})


def _shipped(root: Path, parts: Sequence[str]) -> Iterator[Path]:
    for part in parts:
        for path in sorted((root / part).rglob("*")):
            names = path.relative_to(root).parts
            if path.is_file() and not _PRIVATE & set(names) and not path.name.startswith("."):
                yield path


def _bring(
    source: Path, name: str, folder: Path, manifest: dict[str, str], newer: bool = False
) -> tuple[str, str]:
    """Bring one file up to date and return what became of it: (field of CopyReport or "", name)."""
    content = source.read_bytes()
    release, earlier = _hash(content), manifest.get(name)
    target = folder / name
    current = _hash(target.read_bytes()) if target.exists() else None
    if current in (None, earlier, release):
        manifest[name] = release
        if current == release:
            return "", name
        _write(target, content)
        return ("beside" if newer else "updated" if current else "added"), name
    if newer or earlier == release:
        return "kept", name
    outcome, placed = _bring(source, _name_beside(name), folder, manifest, newer=True)
    if outcome != "kept":
        manifest[name] = release  # this release has been offered, and is not offered again
    return outcome, placed


def _name_beside(name: str) -> str:
    path = Path(name)
    return path.with_name(f"{path.stem}.new{path.suffix}").as_posix()


def _read_manifest(folder: Path) -> dict[str, str]:
    """Return the hash of each file as shipped; if unreadable, every file counts as edited."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(target: Path, content: bytes) -> None:
    """Write to a folder that need not be there; half a file would look like an edited one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    storage.replace(target, content)


# ---- JupyterLab ----------------------------------------------------------------------------------


def open_lab(folder: Path, arguments: Sequence[str] = ()) -> None:
    """Start JupyterLab on a learner's copy, in this process, and return when it is stopped.

    `arguments` go to JupyterLab as they are, for example "--no-browser" or "--port=8899".
    """
    from jupyterlab.labapp import LabApp

    os.environ.update(_lab_environment())
    LabApp.launch_instance([*_lab_options(folder), *arguments])


def _lab_options(folder: Path) -> list[str]:
    options = [f"--ServerApp.root_dir={folder.resolve()}"]
    if (folder / START).exists():
        options.append(f"--LabApp.default_url=/lab/tree/{START}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # Windows has no root, and no geteuid
        options.append("--allow-root")
    return options


def _lab_environment() -> dict[str, str]:
    """Return defaults that the user's own settings still override: no news pop-up, one thread."""
    path = [os.environ.get("JUPYTER_CONFIG_PATH"), str(_PACKAGE / "jupyter")]
    return {
        "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, path)),
        # This environment's python3 kernel comes before one that the user installed elsewhere.
        "JUPYTER_PREFER_ENV_PATH": "1",
        **_threads(),
    }
