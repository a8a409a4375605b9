"""The salt of a course: all that is secret in grading is made of it, and it is in no output."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from sltools import lessons
from sltools.errors import ExerciseError

BYTES = 32


def read(path: Path) -> bytes:
    """Read a salt; raise ExerciseError if there is none or it is too short to be secret."""
    try:
        salt = path.expanduser().read_bytes()
    except OSError as error:
        raise ExerciseError(
            f"the salt {path} cannot be read ({error.strerror}); make one with "
            f"`sltools assignment new --salt {path}`, and keep it"
        ) from None
    if len(salt) < BYTES:
        raise ExerciseError(f"{path} is no salt: it has {len(salt)} bytes, not {BYTES} or more")
    return salt


def make(path: Path) -> bytes:
    """Write a new salt, for its owner's eyes only; raise ExerciseError if that is no place for it.

    It must not lie where the course is: there it would be published with it.
    """
    path = path.expanduser().absolute()
    if path.resolve().is_relative_to(lessons.course().parent.resolve()):
        raise ExerciseError(f"{path} lies in the course and would be published; keep it elsewhere")
    salt = secrets.token_bytes(BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(salt)
        except OSError:
            path.unlink()
            raise
    except OSError as error:
        raise ExerciseError(f"cannot write the salt {path}: {error.strerror}") from None
    return salt


def derive(salt: bytes, purpose: str) -> bytes:
    """Return 32 bytes for `purpose`; different purposes, and salts, give unrelated ones."""
    return hmac.digest(salt, purpose.encode(), hashlib.sha256)


def seed(salt: bytes, purpose: str) -> int:
    """Return a seed of 62 bits for `purpose`."""
    return int.from_bytes(derive(salt, purpose)[:8], "big") >> 2


def seeds_of(salt: bytes, key: str, work: str) -> Iterator[int]:
    """Yield the hidden seeds of the data of a task, without end.

    `work` tells what is judged: who hands in something else after the first feedback meets other
    data, so nothing that came home from these helps.
    """
    for trial in count():
        yield seed(salt, f"seed/{key}/{work}/{trial}")
