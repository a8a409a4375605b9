"""What was handed in, found and read. Nothing in here runs a submission."""

import hashlib
import json
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

from sltools.errors import ExerciseError

MAX_BYTES = 20 * 2**20  # bytes of a notebook
MAX_CELLS = 10_000  # that are run
MAX_ARCHIVE = 5 * MAX_BYTES  # bytes of all notebooks in one
ARCHIVES = (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz")  # that are not opened


@dataclass(frozen=True)
class Submission:
    """A file or folder that was handed in.

    `name` is its path in the folder of submissions. `cells` are the sources of its code cells.
    `problem` says why it is no work that can be read, `doubt` why a person must look at it: it may
    be right, and it cannot be run as it is. `changed` is when its file was, in seconds.
    """

    name: str
    cells: tuple[str, ...] = ()
    problem: str = ""
    doubt: str = ""
    changed: float = 0.0

    @property
    def digest(self) -> str:
        """A hash of the cells, whatever else the notebook holds."""
        text = json.dumps(self.cells)
        return hashlib.sha256(text.encode()).hexdigest()


def discover(folder: Path) -> list[Submission]:
    """Read all submissions in `folder`: notebooks, folders of them, and zip archives of either.

    Whatever stands there is one, except hidden files; in folders and archives each notebook is,
    however deep. Links are not followed. Raises ExerciseError if there are none.
    """
    check_folder(folder)
    found = []
    for path in _entries(folder):
        if path.is_dir() and not path.is_symlink():
            found += _read_folder(path)
        else:
            found += _read(path, path.name)
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
        files = sorted(_files(folder))
    except OSError as error:
        return [Submission(folder.name, problem=f"The folder cannot be read: {error.strerror}.")]
    work = [path for path in files if path.suffix.lower() in (".ipynb", ".zip", *ARCHIVES)]
    if not work:
        return [Submission(folder.name, problem="There is no notebook in the folder.")]
    names = [path.relative_to(folder.parent).as_posix() for path in work]
    return [made for path, name in zip(work, names, strict=True) for made in _read(path, name)]


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, links among them; raise OSError if one cannot be listed."""
    for path in _entries(folder):
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _read(path: Path, name: str) -> list[Submission]:
    """Read a notebook, or all those in an archive."""
    suffix = path.suffix.lower()
    if suffix in ARCHIVES:
        return [Submission(name, doubt=f"archives of the kind {suffix} are not opened here")]
    if suffix not in (".ipynb", ".zip"):
        problem = "This is not a notebook: its name does not end in .ipynb."
        return [Submission(name, problem=problem)]
    try:
        content, changed = _content(path), path.lstat().st_mtime
    except ValueError as error:
        return [Submission(name, problem=str(error))]
    read = _unpacked(content, name) if suffix == ".zip" else [_notebook(content, name)]
    return [replace(one, changed=changed) for one in read]


def _unpacked(content: bytes, name: str) -> list[Submission]:
    """Read the notebooks in a zip archive."""
    found: list[Submission] = []
    left = MAX_ARCHIVE
    try:
        with ZipFile(BytesIO(content)) as archive:
            for member in filter(_is_notebook, archive.infolist()):
                with archive.open(member) as file:
                    unpacked = file.read(left + 1)
                left -= len(unpacked)
                if left < 0:
                    raise BadZipFile(f"it holds more than {MAX_ARCHIVE // 2**20} MiB")
                found.append(_notebook(unpacked, f"{name}/{member.filename}"))
    # What zipfile raises for passwords, unknown methods and damage.
    except (BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, zlib.error) as error:
        return [Submission(name, doubt=f"the archive cannot be opened: {error}")]
    return found or [Submission(name, doubt="there is no notebook in the archive")]


def _is_notebook(member: ZipInfo) -> bool:
    parts = member.filename.split("/")
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return parts[-1].lower().endswith(".ipynb") and not hidden


def _notebook(content: bytes, name: str) -> Submission:
    try:
        cells = parse(content)
    except ValueError as error:
        return Submission(name, problem=str(error))
    many = f"it has {len(cells):,} code cells, and {MAX_CELLS:,} at most are run"
    return Submission(name, cells, doubt=many if len(cells) > MAX_CELLS else "")


def _content(path: Path) -> bytes:
    """Read an ordinary file; raise ValueError, in words for the learner, if it is none."""
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
    """Return the sources of the code cells; raise ValueError if it is no notebook.

    JSON may come as UTF-8, 16 or 32; cells stand in worksheets before nbformat 4.
    """
    try:
        notebook = json.loads(content)
        sheets = notebook.get("worksheets", [notebook])
        cells = [cell for sheet in sheets for cell in sheet["cells"]]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        return tuple("".join(cell["source" if "source" in cell else "input"]) for cell in code)
    except (LookupError, TypeError, AttributeError, RecursionError, ValueError):
        raise ValueError(
            "This is not a notebook, or a damaged one: it cannot be read. Save it anew in Jupyter, "
            "see that it opens there, and hand it in again."
        ) from None
