"""A user's files: code that builds networks, images or rows, labels, weights, activations.

Nothing is unpickled. Python files are the user's own code, and they are run.
"""

import gzip
import importlib.util
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sltools import data
from sltools.audit.form import Builder
from sltools.errors import DataError, ModelError
from sltools.view import View

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
IMAGE_KEYS, LABEL_KEYS = ("images", "x", "inputs", "data"), ("labels", "y", "targets")
SMASHED_KEYS = ("smashed", "activations", "z", "features")
TABLES = (".csv", ".txt")
READABLE = ".npy, .npz, .safetensors, IDX, .csv, or a folder of PNG or JPEG"


BuilderOrNone = TypeVar("BuilderOrNone", bound=Builder | None)


class Samples(NamedTuple):
    """Images (N, C, H, W) or rows (N, D) as floats, and labels (N,), int64, if the file has any.

    Whole numbers from 0 to 255 are divided by 255.
    """

    values: Tensor
    labels: Tensor | None = None


def builder(place: str) -> Builder:
    """Load FUNCTION of "FILE.py:FUNCTION"; raise ModelError if there is none.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sltools.audit.sources import builder
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "net.py"
    ...     _ = file.write_text("from torch import nn\\ndef client(): return nn.Linear(3, 2)")
    ...     builder(f"{file}:client")()
    Linear(in_features=3, out_features=2, bias=True)
    """
    file, colon, name = place.rpartition(":")
    path = Path(file).expanduser()
    if not colon or path.suffix != ".py" or not name.isidentifier():
        raise ModelError(f"a network is named as FILE.py:FUNCTION, not {place!r}")
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    module = _run(path)
    function = getattr(module, name, None)
    if not callable(function):
        there = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise ModelError(f"{path} has no function {name!r}; it has {', '.join(there) or 'none'}")
    return function


def _run(path: Path) -> Any:
    """Run a Python file as a module of its own, beside which its imports are found."""
    spec = importlib.util.spec_from_file_location(f"audited_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        raise ModelError(f"{path} cannot be run: {type(error).__name__}: {error}") from None
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def checked_samples(values: Any, labels: Any, what: str) -> Samples | None:
    """Samples of tensors that a user hands over; raise DataError unless they are as there."""
    if values is None:
        return None
    if not isinstance(values, Tensor) or values.ndim not in (2, 4) or not values.numel():
        kind = tuple(values.shape) if hasattr(values, "shape") else type(values).__name__
        raise DataError(f"{what} must be a tensor (N, C, H, W), or of rows (N, D), not {kind}")
    if not values.is_floating_point() or not values.isfinite().all():
        raise DataError(
            f"{what} must be finite floats, as the network takes them, not {values.dtype} from "
            f"{values.min()} to {values.max()}: of 8-bit pixels give images / 255"
        )
    if labels is not None:
        whole = isinstance(labels, Tensor) and labels.ndim == 1
        if not whole or labels.is_floating_point() or labels.numel() == 0 or labels.min() < 0:
            kind = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            least = f", the least of them {labels.min()}" if whole and labels.numel() else ""
            raise DataError(
                f"the labels of {what} must be a tensor (N,) of whole numbers from 0, not "
                f"{getattr(labels, 'dtype', '')} {kind}{least}"
            )
        labels = labels.long()
    return Samples(values.detach().float(), labels)


def checked_builder(builder: BuilderOrNone, what: str) -> BuilderOrNone:
    """What builds a network, if there is one; raise ModelError for the network itself."""
    if builder is not None and (isinstance(builder, nn.Module) or not callable(builder)):
        raise ModelError(
            f"{what} must be the class, or a function, that builds a fresh network, not "
            f"a {type(builder).__name__}: the weights of a trained one are given as `weights`"
        )
    return builder


def checked_weights(weights: Any) -> dict[str, Tensor] | None:
    """Weights by name; raise DataError unless they are as there."""
    if weights is None:
        return None
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise DataError(
            "weights must be tensors by name, such as network.state_dict() or what "
            f"safetensors.torch.load_file reads, not a {type(weights).__name__}"
        )
    return dict(weights)


def checked_view(view: View | None) -> View | None:
    """A saved view; raise DataError unless its activations are finite."""
    if view is not None and not view.fresh().smashed.isfinite().all():
        raise DataError("the activations of the view contain NaN or infinite values")
    return view


def checked_activations(smashed: Any) -> Tensor | None:
    """Activations (N, ...) of a user; raise DataError unless they are finite floats."""
    if smashed is None:
        return None
    if not isinstance(smashed, Tensor) or smashed.ndim < 2 or not smashed.numel():
        raise DataError("smashed must be a tensor of activations (N, ...)")
    if not smashed.is_floating_point() or not smashed.isfinite().all():
        raise DataError("smashed must be finite floats")
    return smashed.detach().float()


def read_samples(path: str | Path) -> Samples:
    """Read images or rows, with their labels if the file or the folders tell them.

    A folder has pictures, or a folder of them for each class. Raises DataError for anything that
    cannot be read, mixed sizes, NaN, and whole numbers other than 0 to 255.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from sltools.audit.sources import read_samples
    >>> with TemporaryDirectory() as folder:
    ...     np.save(Path(folder) / "scans.npy", np.full((2, 8, 8), 255, np.uint8))
    ...     read_samples(Path(folder) / "scans.npy").values.shape
    torch.Size([2, 1, 8, 8])
    """
    path = _existing(path)
    if path.is_dir():
        return _read_pictures(path)
    arrays = _arrays(path)
    labels = _pick(arrays, LABEL_KEYS)
    values = _pick(arrays, IMAGE_KEYS, only=labels is None)
    if values is None:
        raise DataError(
            f"{path} holds {', '.join(arrays)}; its images are called one of "
            f"{', '.join(IMAGE_KEYS)}"
        )
    return Samples(_as_samples(values, path), None if labels is None else _as_labels(labels, path))


def read_labels(path: str | Path) -> Tensor:
    """Read labels (N,), int64, counted from 0: arrays, IDX, or a table of one column.

    Raises DataError if there are none.
    """
    path = _existing(path)
    if path.is_dir():
        raise DataError(
            f"{path} is a folder: give a file with a label for each sample, or leave the labels "
            "out, if the samples are pictures in folders named by their classes"
        )
    found = _pick(_arrays(path), (*LABEL_KEYS, *IMAGE_KEYS), only=True)
    if found is None:
        raise DataError(f"{path} holds several arrays; its labels are called one of {LABEL_KEYS}")
    return _as_labels(found, path)


def read_smashed(path: str | Path) -> Tensor:
    """Read activations (N, ...), float32; raise DataError if they are none or not finite."""
    path = _existing(path)
    found = _pick(_arrays(path), SMASHED_KEYS, only=True)
    if found is None or found.ndim < 2 or found.dtype.kind != "f" or 0 in found.shape:
        what = "several arrays" if found is None else f"{found.dtype} of shape {found.shape}"
        raise DataError(
            f"{path} holds {what}; activations are floats (N, ...), called one of "
            f"{', '.join(SMASHED_KEYS)} if there are other arrays"
        )
    smashed = torch.from_numpy(np.ascontiguousarray(found, np.float32))
    if not smashed.isfinite().all():
        raise DataError(f"the activations of {path} contain NaN or infinite values")
    return smashed


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a safetensors file by name; raise DataError if it is none."""
    path = _existing(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} is no safetensors file ({error}): write one with "
            "safetensors.torch.save_file(network.state_dict(), ...); pickled files are never opened"
        ) from None


def load_weights(network: nn.Module, weights: dict[str, Tensor], who: str) -> None:
    """Put `weights` into `network`; raise ModelError, about `who`, unless they fit exactly."""
    own = network.state_dict()
    missing = [name for name in own if name not in weights]
    wrong = [
        f"{name} is {tuple(weights[name].shape)} and not {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if missing or wrong:
        lacking = f"{len(missing)} are missing ({', '.join(missing[:3])})" if missing else wrong[0]
        there = ", ".join(list(weights)[:3])
        raise ModelError(f"the weights do not fit {who}: {lacking}; there are {there}, ...")
    network.load_state_dict({name: weights[name] for name in own})


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist")
    return path


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, by name; the only one of a file without names is called ""."""
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file")
    if path.suffix in TABLES:
        return {"": _table(path)}
    with _explained(path):
        if path.suffix == ".npy":
            return {"": np.load(path, allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        if path.suffix == ".safetensors":
            return {name: value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
                    for name, value in load_file(path).items()}  # fmt: skip
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        if content[:2] == b"\0\0":
            return {"": data.idx_array(content)}
    raise DataError(f"{path} is of no kind that is read here: give {READABLE}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read, it is damaged or holds pickled objects, which are never "
            f"opened: {error}"
        ) from None


def _table(path: Path) -> np.ndarray:
    """Numbers (N, D): a line for each row, commas between columns, perhaps names in the first."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        named = bool(lines) and not any(map(_is_number, lines[0].split(",")))
        if not "".join(lines[named:]).strip():
            raise ValueError("it has no rows")
        return np.loadtxt(lines[named:], delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is no table of numbers, with commas between columns and at most one line of "
            f"names above: {error}"
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _pick(
    arrays: dict[str, np.ndarray], names: tuple[str, ...], only: bool = False
) -> np.ndarray | None:
    """The array with one of `names`; if there is none, the `only` one there is."""
    for name in names:
        if name in arrays:
            return arrays[name]
    return next(iter(arrays.values())) if only and len(arrays) == 1 else None


def _as_samples(values: np.ndarray, path: Path) -> Tensor:
    """Values as floats: images (N, C, H, W), whichever axis the channels were on, or rows."""
    given = values.dtype
    if given.kind in "iu" and values.size and values.min() >= 0 and values.max() <= 255:
        values = values.astype(np.float32) / 255
    if values.dtype.kind != "f" or values.ndim not in (2, 3, 4) or 0 in values.shape:
        raise DataError(
            f"{path} holds {given} of shape {values.shape}; samples are floats, or whole "
            "numbers from 0 to 255, of images (N, C, H, W), (N, H, W, C) or (N, H, W), or of rows "
            "(N, D)"
        )
    found = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    if not found.isfinite().all():
        raise DataError(f"{path} contains NaN or infinite values")
    if found.ndim == 3:
        return found[:, None]
    if found.ndim == 4 and found.shape[1] not in (1, 3) and found.shape[3] in (1, 3):
        return found.permute(0, 3, 1, 2).contiguous()
    return found


def _as_labels(values: np.ndarray, path: Path) -> Tensor:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    whole = values.dtype.kind in "iu" or (values.dtype.kind == "f" and (values % 1 == 0).all())
    if not whole or values.ndim != 1 or values.size == 0 or values.min() < 0:
        numbers = values.dtype.kind in "iuf" and values.size
        least = f", the least of them {values.min():g}" if numbers else ""
        raise DataError(
            f"the labels of {path} must be whole numbers from 0, one for each sample, not "
            f"{values.dtype} of shape {values.shape}{least}"
        )
    return torch.from_numpy(values.astype(np.int64))


def _read_pictures(folder: Path) -> Samples:
    """Read all pictures of a folder, or of its folders, which then name the classes."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and _pictures(path))
    flat = _pictures(folder)
    if classes and not flat:
        files = [(file, label) for label, path in enumerate(classes) for file in _pictures(path)]
    else:
        files = [(file, -1) for file in flat]
    if not files:
        raise DataError(f"{folder} holds no PNG or JPEG, nor folders of them for each class")
    images = [_read_picture(file) for file, _ in files]
    shapes = {image.shape: file for image, (file, _) in zip(images, files, strict=True)}
    if len(shapes) > 1:
        (one, first), (other, second), *_ = shapes.items()
        raise DataError(
            f"{first.name} is {_size(one)} and {second.name} is {_size(other)}: all pictures must "
            "be of one size and kind"
        )
    labels = torch.tensor([label for _, label in files])
    values = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return Samples(values.contiguous(), labels if classes and not flat else None)


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def _read_picture(file: Path) -> np.ndarray:
    """Bytes (H, W, 1) of a grey picture, (H, W, 3) of any other; transparency is left out."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"mode {image.mode}, of more than 8 bits: give an array instead")
            grey = image.mode in ("1", "L", "LA")
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{file} cannot be read as a picture: {error}") from None
    return pixels[..., None] if grey else pixels


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} in {'grey' if shape[2] == 1 else 'colour'}"
