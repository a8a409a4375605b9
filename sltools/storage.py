"""Files that are whole or not there, and folders of tensors and facts.

What is kept is written beside its place and moved there in one step: a full disk, or an end in the
middle of it, leaves what was there before. Folders hold safetensors beside JSON, so that opening
one runs no code.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sltools.errors import SltoolsError

TENSORS, FACTS = "tensors.safetensors", "facts.json"
LOCK = ".lock"  # held while somebody works in a folder; the system lets go of it


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file to, which takes the place of `path` in one step.

    If it cannot be written, or anything else is raised, `path` stays as it was. A link goes on to
    point where it did, and the mode of a file that is replaced is kept.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sltools import storage
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "notes.txt"
    ...     storage.write_atomic(path, "whole")
    ...     try:
    ...         with storage.atomic_path(path) as part:
    ...             part.write_text("half of i")
    ...             raise OSError("no space left")
    ...     except OSError:
    ...         path.read_text()
    9
    'whole'
    """
    path = path.resolve()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with suppress(FileNotFoundError):  # there may be none before
            part.chmod(path.stat().st_mode)
        part.replace(path)
    except BaseException:
        with suppress(OSError):  # what went wrong first is told
            part.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` in one step; text is in UTF-8, its ends of lines as they are."""
    with atomic_path(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` in one step; a new file is for its owner alone to read."""
    with atomic_path(path) as part:
        part.touch(mode=0o600)  # before there is anything in it
        part.write_bytes(text.encode())


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write `tensors` to `path` as safetensors, in one step; raise OSError if it cannot be."""
    with atomic_path(path) as part:
        _save(tensors, part)


def is_temporary(path: Path) -> bool:
    """Say whether `path` was left by a program that was killed while it wrote there."""
    return path.name.startswith(".") and path.suffix == ".part"


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Make `folder`, and keep others out who would write the same files there at the same time.

    Raises SltoolsError if somebody is at work there, or if the folder cannot be used.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise SltoolsError(
            f"another run is at work in {folder}: wait for its end, or name another folder"
        ) from None
    except OSError as error:
        raise SltoolsError(f"{folder} cannot be used: {error}; name another folder") from None
    try:
        yield
    finally:
        lock.release()


def new_file(folder: Path, name: str) -> Path:
    """Make an empty file in `folder` under `name`, numbered if there is one; return its path.

    Raises SltoolsError if it cannot be made.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sltools import storage
    >>> with TemporaryDirectory() as folder:
    ...     [storage.new_file(Path(folder), "found.png").name for _ in range(3)]
    ['found.png', 'found-2.png', 'found-3.png']
    """
    wanted = folder / name
    path, number = wanted, 1
    while True:
        try:
            path.touch(exist_ok=False)
            return path
        except FileExistsError:
            number += 1
            path = wanted.with_stem(f"{wanted.stem}-{number}")
        except OSError as error:
            raise _unwritable(folder, error) from None


def writable_folder(folder: str | Path) -> Path:
    """Make `folder` if need be; raise SltoolsError unless files can be written there."""
    folder = Path(folder).expanduser()
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def new_folder(folder: str | Path) -> Path:
    """Make `folder`; raise SltoolsError if it holds anything or cannot be written."""
    folder = writable_folder(folder)
    if not all(is_temporary(path) for path in folder.iterdir()):
        raise SltoolsError(f"{folder} is not empty; name a new folder, nothing is overwritten")
    return folder


def write(
    folder: str | Path,
    tensors: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write `tensors`, JSON-able `facts` and other `files` into a new or empty `folder`.

    Returns its path. Raises SltoolsError rather than overwrite anything, and if the folder cannot
    be written: then nothing is left in it.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> from sltools import storage
    >>> with TemporaryDirectory() as folder:
    ...     kept = storage.write(Path(folder) / "new", {"a": torch.arange(3)}, {"seed": 0})
    ...     storage.read(kept)
    ({'a': tensor([0, 1, 2])}, {'seed': 0})
    """
    folder = new_folder(folder)
    texts = {FACTS: json.dumps(facts, indent=1).encode(), **(files or {})}
    try:
        with ExitStack() as stack:  # all are written before the first takes its place, FACTS last
            stack.callback(_clear_if_incomplete, folder)
            parts = {
                name: stack.enter_context(atomic_path(folder / name)) for name in [*texts, TENSORS]
            }
            for name, content in texts.items():
                parts[name].write_bytes(content)
            _save(tensors, parts[TENSORS])
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def _clear_if_incomplete(folder: Path) -> None:
    """Remove what took its place already, if not all did: FACTS is the last."""
    if not (folder / FACTS).exists():
        for path in folder.iterdir():
            path.unlink()


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(_unshared(tensors), path)
    except SafetensorError as error:  # it hides an OSError
        raise OSError(str(error)) from None


def _unshared(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as a file takes them: on the CPU, in order, no two of them in the same memory."""
    found: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in taken else tensor
        taken.add(place)
    return found


def _unwritable(folder: Path, error: Exception) -> SltoolsError:
    return SltoolsError(f"cannot write to {folder}: {error}. Name a folder you may write to.")


def read(folder: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `write` wrote; raise SltoolsError if it is missing or damaged."""
    folder = Path(folder).expanduser()
    if folder.is_file():
        raise SltoolsError(f"{folder} is a file; name the folder that was written by `save`")
    try:
        tensors = load_file(folder / TENSORS)
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SltoolsError(_missing(folder)) from None
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise SltoolsError(f"{folder} cannot be read, it is damaged or not ours: {error}") from None
    return tensors, facts


def _missing(folder: Path) -> str:
    """Say what `read` did not find."""
    if not folder.exists():
        return f"{folder} does not exist; was it saved here?"
    lacking = " and ".join(name for name in (TENSORS, FACTS) if not (folder / name).exists())
    return f"{folder} holds no {lacking}; name the folder that was written by `save`"


def with_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pick the tensors whose names begin with `prefix`, and drop it from the names."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
