"""What was handed in, found and read. Nothing in here runs a submission."""

import hashlib
import json
import stat
from dataclasses import dataclass
from pathlib import Path

from sltools.errors import ExerciseError

MAX_BYTES = 20 * 2**20  # bytes of a notebook
MAX_CELLS = 1000


@dataclass(frozen=True)
class Submission:
    """A file or folder that was handed in; `problem` says why it cannot be run, if it cannot.

    `name` is its path in the folder of submissions. `cells` are the sources of its code cells,
    `digest` tells its content.
    """

    name: str
    cells: tuple[str, ...] = ()
    digest: str = ""
    problem: str = ""


def discover(folder: Path) -> list[Submission]:
    """Read all submissions in `folder`: files, and folders with notebooks of one learner each.

    Whatever stands there is one, except hidden files. Links are not followed. Raises ExerciseError
    if there are none.
    """
    check_folder(folder)
    found = []
    for path in _entries(folder):
        if path.is_dir() and not path.is_symlink():
            found += _read_folder(path)
        else:
            found.append(_read(path, path.name))
    if not found:
        raise ExerciseError(
            f"{folder} holds no submissions; put notebooks or folders of them there"
        )
    return found


def check_folder(folder: Path) -> None:
    """Raise ExerciseError unless `folder` is one."""
    if not folder.is_dir():
        raise ExerciseError(f"{folder} is no folder; name the folder that holds the submissions")


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read_folder(folder: Path) -> list[Submission]:
    try:
        notebooks = [path for path in _entries(folder) if path.suffix == ".ipynb"]
    except OSError as error:
        return [Submission(folder.name, problem=f"The folder cannot be read: {error.strerror}.")]
    if not notebooks:
        return [Submission(folder.name, problem="There is no notebook in the folder.")]
    return [_read(path, f"{folder.name}/{path.name}") for path in notebooks]


def _read(path: Path, name: str) -> Submission:
    try:
        content = _content(path)
        digest = hashlib.sha256(content).hexdigest()
        cells = parse(content)
    except ValueError as error:
        return Submission(name, problem=str(error))
    return Submission(name, cells, digest)


def _content(path: Path) -> bytes:
    """Read an ordinary file; raise ValueError, in words for the learner, if it is none."""
    if path.suffix != ".ipynb":
        raise ValueError("This is not a notebook: its name does not end in .ipynb.")
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("This is not an ordinary file; is it a link?")
        if facts.st_size > MAX_BYTES:
            raise ValueError(
                f"The file has {facts.st_size / 2**20:.0f} MiB, at most {MAX_BYTES / 2**20:.0f} "
                "are read: clear the outputs and hand it in again."
            )
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"The file cannot be read: {error.strerror}.") from None


def parse(content: bytes) -> tuple[str, ...]:
    """Return the sources of the code cells; raise ValueError if it is no notebook."""
    try:
        notebook = json.loads(content.decode("utf-8-sig"))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        return tuple("".join(cell["source"]) for cell in code[:MAX_CELLS])
    except (LookupError, TypeError, AttributeError, RecursionError, ValueError):
        raise ValueError(
            "This is not a notebook, or a damaged one: it cannot be read. Save it anew in Jupyter, "
            "see that it opens there, and hand it in again."
        ) from None
