"""A learner's own copy of the course, in which nothing edited is ever overwritten."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sltools import storage
from sltools.errors import LessonError
from sltools.lessons import catalog

MANIFEST = ".sltools-course.json"
_SHIPPED = ("course", "exercises")  # the folders a learner gets a copy of
_PRIVATE = {"src", "__pycache__", ".ipynb_checkpoints"}


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
    root = catalog.material()
    folder = destination.expanduser().absolute()
    shipped = (root / "course").resolve()
    if folder.resolve() == root.resolve() or folder.resolve().is_relative_to(shipped):
        raise LessonError(f"{folder} is the course itself; name another folder for your copy")
    report: dict[str, list[str]] = {"added": [], "updated": [], "kept": [], "beside": []}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = _read_manifest(folder)
        for source in _shipped(root, (*_SHIPPED, "solutions") if solutions else _SHIPPED):
            outcome, name = _update_file(
                source, source.relative_to(root).as_posix(), folder, manifest
            )
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


def _update_file(
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
    outcome, placed = _update_file(source, _new_release_name(name), folder, manifest, newer=True)
    if outcome != "kept":
        manifest[name] = release  # this release has been offered, and is not offered again
    return outcome, placed


def _new_release_name(name: str) -> str:
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
    storage.write_atomic(target, content)
