"""Folders of tensors and facts: safetensors beside JSON, so that opening one runs no code."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sltools.errors import SltoolsError


def new_folder(folder: str | Path) -> Path:
    """Make `folder`; raise SltoolsError if it holds anything or cannot be made."""
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SltoolsError(f"{folder} is not empty; name a new folder, nothing is overwritten")
        (folder / ".probe").touch()
        (folder / ".probe").unlink()
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def write(folder: str | Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> Path:
    """Write `tensors` and JSON-able `facts` into a new or empty `folder` and return its path.

    Raises SltoolsError rather than overwrite anything, and if the folder cannot be written.
    """
    folder = new_folder(folder)
    try:
        contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps(facts, indent=1)
        save_file(contents, folder / "tensors.safetensors")
        (folder / "facts.json").write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise _unwritable(folder, error) from None
    return folder


def _unwritable(folder: Path, error: Exception) -> SltoolsError:
    return SltoolsError(f"cannot write to {folder}: {error}. Name a folder you may write to.")


def read(folder: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `write` wrote; raise SltoolsError if it is missing or damaged."""
    folder = Path(folder).expanduser()
    try:
        tensors = load_file(folder / "tensors.safetensors")
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SltoolsError(
            f"{error.filename or folder} does not exist; was it saved here?"
        ) from None
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise SltoolsError(f"{folder} cannot be read, it is damaged or not ours: {error}") from None
    return tensors, facts


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pick the tensors whose names begin with `prefix`, and drop it from the names."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
