"""Labelled images to split-learn from: four known data sets, or your own tensors.

Whatever the source, images are (N, C, H, W) float32 in [0, 1] and labels (N,) int64.
Files are parsed byte by byte and never unpickled: a bad file can fail, but not run code.
"""

import gzip
import math
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sltools.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W), float32 in [0, 1], and their labels (N,), int64, on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | slice | Tensor) -> "Split":
        """Select images; a single one stays a batch, of shape (1, C, H, W)."""
        shape = self.images.shape[1:]
        return Split(self.images[index].reshape(-1, *shape), self.labels[index].reshape(-1))

    def __repr__(self) -> str:
        return f"Split({len(self)} images of shape {tuple(self.images.shape[1:])})"

    def first_per_class(self, k: int = 1) -> "Split":
        """Return the first `k` images of class 0, then of class 1, up to the largest label here.

        Raises DataError if a class has fewer than `k` images.
        """
        _require(k >= 1, f"first_per_class needs k of at least 1, not {k}.")
        _require(len(self) > 0, "An empty split has no first image of a class.")
        chosen = []
        for label in range(int(self.labels.max()) + 1):
            members = (self.labels == label).nonzero()[:k, 0]
            found = f"Class {label} has {len(members)} of the {k} images asked for in this split"
            _require(len(members) == k, f"{found} of {len(self)}: lower k, or take a larger split.")
            chosen.append(members)
        return self[torch.cat(chosen)]

    def to(self, device: str | torch.device) -> "Split":
        """Return the same images and labels on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split, and the name of each class in the order of the labels."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]


def load(name: str) -> Dataset:
    """Return a data set of NAMES: "digits", "mnist", "fashion_mnist" or "cifar10".

    The digits ship with scikit-learn. The files of the others are taken from the folder
    `$SLTOOLS_DATA_DIR/<name>/` if they are there (official names, raw or .gz; for CIFAR-10 the
    binary format, any number of batches), else downloaded once into the user's cache and
    checked against their SHA-256. Images are 1x28x28, for cifar10 3x32x32.

    Raises DataError if the name is unknown, or the files are incomplete, damaged or out of reach.
    """
    _require(name in NAMES, f"There is no data set {name!r}: choose one of {', '.join(NAMES)}.")
    if name == "digits":
        return _digits()
    source = _SOURCES[name]
    files = _own_files(name) or _downloaded_files(name)
    train, test = ([files[file] for file in half] for half in (source.train, source.test))
    return Dataset(name, source.parse(*train), source.parse(*test), source.classes)


def available() -> dict[str, str]:
    """Tell for each of NAMES where `load` would find it. Nothing is downloaded or read."""
    return {"digits": "inside scikit-learn"} | {name: _place(name) for name in _SOURCES}


def from_tensors(
    name: str,
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Make a data set of your own images (N, C, H, W), in [0, 1], and integer labels (N,).

    Classes are named by their numbers unless `classes` gives a name for each.
    Raises DataError if a tensor has another shape, type or range.
    """
    train = _checked("training", train_images, train_labels)
    test = _checked("test", test_images, test_labels)
    same = train.images.shape[1:] == test.images.shape[1:]
    _require(same, f"Training and test images must have one shape, not {train} and {test}.")
    top = int(max(train.labels.max(), test.labels.max()))
    names = tuple(map(str, range(top + 1))) if classes is None else tuple(classes)
    _require(top < len(names), f"Label {top} has no name: only {len(names)} classes were given.")
    return Dataset(name, train, test, names)


def _checked(split: str, images: Tensor, labels: Tensor) -> Split:
    """Make a Split of tensors that nobody has looked at yet."""
    tensors = isinstance(images, Tensor) and isinstance(labels, Tensor)
    _require(tensors, f"The {split} images and labels must be tensors: use torch.as_tensor.")
    shape = tuple(images.shape)
    filled = len(shape) == 4 and 0 not in shape
    _require(filled, f"The {split} images must have shape (N, C, H, W), not {shape}.")
    kind = f"{images.dtype}: divide 8-bit pixels by 255"
    _require(images.is_floating_point(), f"The {split} images must be floats, not {kind}.")
    low, high = (bound.item() for bound in images.aminmax())  # both NaN if any pixel is
    _require(not math.isnan(low), f"The {split} images contain NaN: use pixels in [0, 1].")
    extent = f"but range from {low:.4g} to {high:.4g}: rescale them"
    _require(0 <= low and high <= 1, f"The {split} images must be in [0, 1], {extent}.")
    integers = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    kind = f"{labels.dtype} of shape {tuple(labels.shape)}"
    whole = labels.dtype in integers and tuple(labels.shape) == shape[:1]
    _require(whole, f"The {split} labels must be {shape[0]} integers, one per image, not {kind}.")
    _require(labels.min() >= 0, f"The {split} labels must count from 0, but one is {labels.min()}.")
    return Split(images.detach().float(), labels.to(images.device, torch.int64))


def _require(condition: bool | Tensor, message: str) -> None:
    if not condition:
        raise DataError(message)


def _digits() -> Dataset:
    """Return the 1,797 UCI digits, resized to 28x28 so that the MNIST network runs on them.

    Bilinear resizing adds pixels but no detail: a digit still has only its 64 true unknowns,
    which makes it an easier target than an MNIST image. The split is stratified and fixed.
    """
    from sklearn.datasets import load_digits  # slow to import, and only needed here
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = torch.from_numpy(digits.images / 16).float().unsqueeze(1)
    images = interpolate(pixels, size=(28, 28), mode="bilinear", align_corners=False).clamp(0, 1)
    everything = Split(images, torch.from_numpy(digits.target).long())
    train, test = (
        everything[torch.from_numpy(indices)]
        for indices in train_test_split(
            np.arange(len(everything)), test_size=0.2, stratify=digits.target, random_state=0
        )
    )
    return Dataset("digits", train, test, tuple("0123456789"))


# From bytes to images


class _File(NamedTuple):
    """What a file holds, decompressed, and where it lay, which error messages name."""

    origin: str
    content: bytes


def _parse_idx(images: list[_File], labels: list[_File]) -> Split:
    """Parse the format of MNIST: one IDX file of images and one of labels."""
    pixels, numbers = _idx_array(images[0], axes=3), _idx_array(labels[0], axes=1)
    size = "x".join(map(str, pixels.shape[1:]))
    _require(size == "28x28", f"{images[0].origin} holds {size} images: expected 28x28.")
    counts = f"{len(pixels)} images but {labels[0].origin} {len(numbers)} labels"
    _require(len(pixels) == len(numbers), f"{images[0].origin} holds {counts}: get both again.")
    return _split([pixels[:, None]], [numbers], labels)


def _idx_array(file: _File, axes: int) -> np.ndarray:
    """Parse IDX: 0, 0, 8 for bytes, the number of axes; each axis as big-endian uint32; data."""
    kinds = {bytes((0, 0, 8, 1)): "labels", bytes((0, 0, 8, 3)): "images"}
    magic, expected = file.content[:4], bytes((0, 0, 8, axes))
    found = kinds.get(magic, f"the magic number 0x{magic.hex()}")
    wanted = f"{kinds[expected]} in IDX format, magic number 0x{expected.hex()}: get it again"
    wanted += ", or swap images and labels back" if magic in kinds else ""
    _require(magic == expected, f"{file.origin} starts with {found}, not {wanted}.")
    start = 4 + 4 * axes
    shape = [int.from_bytes(file.content[at : at + 4], "big") for at in range(4, start, 4)]
    size, length = start + math.prod(shape), len(file.content)
    whole = length == size > start
    _require(whole, f"{file.origin} is damaged: it has {length} bytes, its header says {size}.")
    return np.frombuffer(file.content, np.uint8, offset=start).reshape(shape)


def _parse_cifar(batches: list[_File]) -> Split:
    """Parse CIFAR-10 records: one byte of label, then 3x32x32 bytes of red, green and blue."""
    for file in batches:
        length = len(file.content)
        _require(
            length > 0 and length % 3073 == 0,
            f"{file.origin} is truncated or not CIFAR-10 in binary format: "
            f"its {length} bytes are not a multiple of 3073.",
        )
    records = [np.frombuffer(file.content, np.uint8).reshape(-1, 3073) for file in batches]
    images = [record[:, 1:].reshape(-1, 3, 32, 32) for record in records]
    return _split(images, [record[:, 0] for record in records], batches)


def _split(images: list[np.ndarray], labels: list[np.ndarray], files: list[_File]) -> Split:
    """Join the bytes of several files, checking the labels; float32 is the only copy made."""
    for file, part in zip(files, labels, strict=True):
        _require(part.max() <= 9, f"{file.origin} has a label {part.max()}: expected 0 to 9.")
    pixels = torch.from_numpy(np.concatenate(images, dtype=np.float32)).div_(255)
    return Split(pixels, torch.from_numpy(np.concatenate(labels, dtype=np.int64)))


# From names to bytes

_Files = dict[str, list[_File]]  # by the names of the official release, see _Source


@dataclass(frozen=True)
class _Source:
    """How a data set is published: its files (* stands for a number) and their downloads."""

    classes: tuple[str, ...]
    parse: Callable[..., Split]
    train: tuple[str, ...]
    test: tuple[str, ...]
    mirrors: tuple[str, ...]
    sha256: dict[str, str]
    megabytes: int


_NUMERALS = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
_CLOTHES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
_OBJECTS = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"


def _idx_source(classes: str, megabytes: int, mirrors: tuple[str, ...], *sha256: str) -> _Source:
    train = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    test = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    hashes = {f"{file}.gz": known for file, known in zip(train + test, sha256, strict=True)}
    names = tuple(classes.split(", "))
    return _Source(names, _parse_idx, train, test, mirrors, hashes, megabytes)


_SOURCES = {
    "mnist": _idx_source(
        _NUMERALS,
        12,
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "fashion_mnist": _idx_source(
        _CLOTHES,
        31,
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    "cifar10": _Source(
        tuple(_OBJECTS.split(", ")),
        _parse_cifar,
        train=("data_batch_*.bin",),
        test=("test_batch.bin",),
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        sha256={
            "cifar-10-binary.tar.gz": (
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
            )
        },
        megabytes=170,
    ),
}
NAMES = ("digits", *_SOURCES)


def _place(name: str) -> str:
    """Tell where the files of a data set are, or why there are none."""
    try:
        if own := _own_paths(name):
            return str(own[_SOURCES[name].train[0]][0].parent)
        cache = _cache(name)
    except DataError as error:
        return f"not usable: {error}"
    if all((cache / file).is_file() for file in _SOURCES[name].sha256):
        return str(cache)
    return f"not found: would be downloaded ({_SOURCES[name].megabytes} MB)"


def _own_files(name: str) -> _Files:
    """Read the user's files of a data set; empty if there are none."""
    own = _own_paths(name)
    return {file: [_File(str(path), _read(path)) for path in own[file]] for file in own}


def _own_paths(name: str) -> dict[str, list[Path]]:
    """Find the user's files of a data set: all kinds of them, or none at all."""
    root = os.environ.get("SLTOOLS_DATA_DIR")
    if not root:
        return {}
    folder = Path(root).expanduser() / name
    _require(
        folder.parent.is_dir(),
        f"SLTOOLS_DATA_DIR is set to {root}, which is not a folder: correct or unset it.",
    )
    wanted = _SOURCES[name].train + _SOURCES[name].test
    own = {file: paths for file in wanted if (paths := _paths(folder, file))}
    missing = ", ".join(file for file in wanted if file not in own)
    _require(
        not (own and missing),
        f"{folder} lacks {missing} (raw or .gz): add what is missing, or remove the folder.",
    )
    return own


def _paths(folder: Path, file: str) -> list[Path]:
    """Find `file` in a folder, in the order of its number; the raw file goes before its .gz."""
    pattern = re.escape(file).replace(r"\*", "[0-9]+")
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        raw_name = path.name.removesuffix(".gz")
        if re.fullmatch(pattern, raw_name):
            found.setdefault(raw_name, path)
    return [found[raw_name] for raw_name in sorted(found, key=lambda each: (len(each), each))]


def _read(path: Path) -> bytes:
    """Return what a file holds, decompressed if its name ends in .gz."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): get it again.") from None


def _downloaded_files(name: str) -> _Files:
    """Read the published files of a data set, downloading those that are not in the cache."""
    paths = [_download(name, file) for file in _SOURCES[name].sha256]
    if name == "cifar10":
        return _untar(paths[0])
    return {path.stem: [_File(str(path), _read(path))] for path in paths}


def _untar(archive: Path) -> _Files:
    """Read the batches of CIFAR-10 out of its archive; nothing is written to disk."""
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
    files = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            folder, _, file = member.name.rpartition("/")
            content = tar.extractfile(member)
    return {"data_batch_*.bin": [files[file] for file in batches], "test_batch.bin": []}


def _download(name: str, file: str) -> Path:
    """Return a published file in the user's cache, trying each mirror unless it is there."""
    cache, source = _cache(name), _SOURCES[name]
    import pooch
    import requests  # comes with pooch

    advice = (
        f"put {', '.join(source.train + source.test)} (raw or .gz) into a folder {name} "
        "and set SLTOOLS_DATA_DIR to the folder around it."
    )
    failures = []
    for mirror in source.mirrors:
        try:
            known = source.sha256[file]
            return Path(pooch.retrieve(mirror + file, known, file, cache, progressbar=True))
        except requests.RequestException as error:
            failures.append(f"{mirror}: {type(error).__name__}")
        except ValueError:
            failures.append(f"{mirror}: wrong SHA-256, deleted")
        except OSError as error:
            reason = error.strerror or "permission denied"
            raise DataError(f"Cannot write to {cache} ({reason}): free it, or {advice}") from None
    reasons = "; ".join(failures)
    raise DataError(f"Could not download {file} ({reasons}): try again later, or {advice}")


def _cache(name: str) -> Path:
    """Return the folder for the downloads of a data set, which may not exist yet."""
    try:
        import pooch
    except ModuleNotFoundError:
        raise DataError(f"To download {name}, install pooch (pip install pooch).") from None
    return Path(pooch.os_cache("sltools")) / name
