"""What a lesson is, which there are, and where they lie."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sltools.errors import LessonError, ModelError

PACKAGE = Path(__file__).resolve().parents[1]
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
}


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
    return material() / "course"


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
        return _lesson_at(path, folder)
    known = lessons(folder)
    for lesson in known:
        if wanted == lesson.name or (wanted.isdecimal() and int(wanted) == lesson.number):
            return lesson
    for lesson in appendix(folder):
        if wanted == lesson.name:
            return lesson
    raise LessonError(f"there is no lesson {key!r}; {_known_lessons(folder)}")


def _lesson_at(path: Path, folder: Path | None) -> Lesson:
    """Read the lesson in the file at `path`; raise LessonError if there is none."""
    if path.is_dir():
        raise LessonError(f"{path} is a folder; name a notebook in it")
    if not path.exists():
        raise LessonError(
            f"there is no file {path}. A lesson of the course is asked for by its number or name "
            f"alone, without folder and ending; {_known_lessons(folder)}"
        )
    if path.suffix != ".ipynb" or not re.match("[0-9]{2}_", path.name):
        raise LessonError(
            f"{path} is no lesson: one is a notebook called by two digits and a name, such as "
            "04_mine.ipynb"
        )
    return read(path)


def _known_lessons(folder: Path | None) -> str:
    found = f"the lessons are: {_names(lessons(folder))}"
    deeper = appendix(folder)
    return f"{found}; in the appendix: {_names(deeper)}" if deeper else found


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


def material() -> Path:
    """Return the folder of course, exercises and solutions: the wheel's, or the checkout."""
    for root in (PACKAGE / "_material", PACKAGE.parent):
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


def _read_bool(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise ValueError(text) from None
