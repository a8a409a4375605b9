"""The folder of an audit: what is done is kept there, and the same command goes on with it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sltools import storage
from sltools.audit.findings import Finding, Guesses, Scores, Share
from sltools.audit.measures import Cut, Defended, Wire
from sltools.audit.report import FACTS, PAGE, Report
from sltools.audit.running import Work
from sltools.audit.system import Kept
from sltools.errors import SltoolsError

WORK, IMAGES = "work.json", "reconstructions.safetensors"
VICTIM, BEGUN = "victim.safetensors", "victim-begun.safetensors"


class Folder:
    """Where an audit is kept: its report, its work, and the network if it was trained here.

    `key` tells this audit from any other; a folder that holds another is refused.
    """

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path, self._key = path, key

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the folder; if anything fails before there is a report, leave nothing in it."""
        _check_ours(self.path)
        try:
            with storage.exclusive_lock(self.path):
                self._check_key()
                yield
        except OSError as error:
            raise SltoolsError(
                f"{self.path} cannot be written: {error}. What is there is whole; put that right, "
                "and the same command goes on"
            ) from None
        finally:
            _leave_nothing(self.path)

    def work(self) -> Work:
        """What was done before, if anything was."""
        if not (self.path / WORK).exists():
            return Work()
        try:
            kept = json.loads((self.path / WORK).read_text(encoding="utf-8"))
            images = load_file(self.path / IMAGES) if (self.path / IMAGES).exists() else {}
            return _unpack(kept, images)
        except (OSError, ValueError, TypeError, LookupError, AttributeError,
                SafetensorError) as error:  # fmt: skip
            raise SltoolsError(
                f"{self.path / WORK} is damaged ({error!r}): name another folder, or delete it"
            ) from None

    def victim(self) -> Kept | None:
        """The network that was trained here, if it was, or as far as the time went."""
        path = self.path / (VICTIM if (self.path / VICTIM).exists() else BEGUN)
        try:
            return Kept(load_file(path), path.name == VICTIM) if path.exists() else None
        except (OSError, SafetensorError) as error:
            raise SltoolsError(f"{path} is damaged ({error}): name another folder") from None

    def keep_victim(self, victim: Kept) -> None:
        """Keep the network that was trained here, after what it belongs to."""
        self._keep_work(Work())
        place = self.path / (VICTIM if victim.is_taught else BEGUN)
        storage.write_tensors(place, victim.weights)
        if victim.is_taught:
            (self.path / BEGUN).unlink(missing_ok=True)

    def keep(self, work: Work, report: Report, *, again: bool) -> None:
        """Write the report, and what is needed to go on, unless all is to be done `again`."""
        if work.images and not again:
            storage.write_tensors(self.path / IMAGES, work.images)
        self._keep_work(Work() if again else work)
        report.write(self.path)

    def _keep_work(self, work: Work) -> None:
        packed = {name: value for name, value in asdict(work).items() if name != "images"}
        text = json.dumps({"key": self._key, "work": packed}, indent=1)
        storage.write_atomic(self.path / WORK, text + "\n")

    def _check_key(self) -> None:
        try:
            text = (self.path / WORK).read_text(encoding="utf-8")
            found = json.loads(text)["key"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            raise SltoolsError(f"{self.path / WORK} is damaged: name another folder") from None
        if found != json.loads(json.dumps(self._key)):
            raise SltoolsError(
                f"{self.path} holds an audit of something else, or with another seed or number of "
                "targets: name another folder"
            )


def _check_ours(path: Path) -> None:
    """Raise SltoolsError for a folder that holds anything but an audit."""
    if path.is_file():
        raise SltoolsError(f"{path} is a file: name a folder")
    entries = list(path.iterdir()) if path.is_dir() else []
    names = {entry.name for entry in entries if not storage.is_temporary(entry)}
    others = names - {WORK, IMAGES, VICTIM, BEGUN, PAGE, FACTS, storage.LOCK}
    if others or (names - {storage.LOCK} and WORK not in names):
        raise SltoolsError(
            f"{path} is not empty and holds no audit; name a new folder, nothing is overwritten"
        )


def _leave_nothing(path: Path) -> None:
    with suppress(OSError):
        if {entry.name for entry in path.iterdir()} <= {storage.LOCK}:
            (path / storage.LOCK).unlink(missing_ok=True)
            path.rmdir()


def _unpack(kept: dict[str, Any], images: dict[str, Tensor]) -> Work:
    work = kept["work"]
    return Work(
        {name: _finding(facts) for name, facts in work["findings"].items()},
        images,
        _guesses(work["guesses"]),
        None if work["wire"] is None else Wire(**work["wire"]),
        None if work["cuts"] is None else [Cut(**cut) for cut in work["cuts"]],
        None if work["defenses"] is None else [Defended(**_shares(d)) for d in work["defenses"]],
        whole=work["whole"],
    )


def _finding(facts: dict[str, Any]) -> Finding:
    runs = [Scores(**_shares(run)) for run in facts["runs"]]
    return Finding(**facts | {"runs": runs})


def _guesses(facts: dict[str, Any]) -> Guesses:
    rivals = {
        name: tuple(None if share is None else Share(*share) for share in pair)
        for name, pair in (facts["rivals"] or {}).items()
    }
    return Guesses(**_shares(facts) | {"rivals": rivals or None})


def _shares(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts in which two numbers are a share again."""
    return {
        key: Share(*value) if isinstance(value, list) else value for key, value in facts.items()
    }
