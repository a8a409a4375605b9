"""Labelled images to split-learn from: four known data sets, or your own tensors.

Whatever the source, images are (N, C, H, W) float32 in [0, 1] and labels (N,) int64.
Files are parsed byte by byte and never unpickled: a bad file can fail, but not run code.
"""

import gzip
import hashlib
import math
import os
import re
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sltools import seeds
from sltools.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W), float32 in [0, 1], and their labels (N,), int64, on one device.

    Raises DataError for anything but tensors of one length, and for images that hold NaN or
    infinite values; `from_tensors` looks closer.

    >>> from sltools import data
    >>> split = data.load("digits").train
    >>> split
    Split(1437 images of shape (1, 28, 28))
    >>> split[:3].images.dtype, split[:3].labels
    (torch.float32, tensor([3, 9, 1]))
    >>> split[0]
    Split(1 images of shape (1, 28, 28))
    >>> split.first_per_class(2).labels.tolist()
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        for what in (self.images, self.labels):
            _require(
                isinstance(what, Tensor) and what.ndim > 0,
                f"A split is made of a tensor of images and one of labels, not {_kind(what)}: use "
                "torch.as_tensor.",
            )
        counts = f"{len(self.images)} images and {len(self.labels)} labels"
        same = len(self.images) == len(self.labels)
        _require(same, f"A split has a label for each image, not {counts}.")
        if self.images.is_floating_point() and self.images.numel() and not self.images.is_meta:
            low, high = (bound.item() for bound in self.images.detach().aminmax())
            _require(
                math.isfinite(low) and math.isfinite(high),
                "The images of a split hold NaN or infinite values: use pixels in [0, 1].",
            )

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
        _require(len(self) > 0, "An empty split has no first image of any class.")
        chosen = []
        for label in range(int(self.labels.max()) + 1):
            members = (self.labels == label).nonzero()[:k, 0]
            _require(
                len(members) == k,
                f"Class {label} has {len(members)} of the {k} images asked for in this split "
                f"of {len(self)}: ask for fewer, or take a larger split.",
            )
            chosen.append(members)
        return self[torch.cat(chosen)]

    def to(self, device: str | torch.device) -> "Split":
        """Return the same images and labels on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split, and the name of each class in the order of the labels.

    >>> from sltools import data
    >>> digits = data.load("digits")
    >>> digits.name, len(digits.train), len(digits.test)
    ('digits', 1437, 360)
    >>> digits.classes[int(digits.test.labels[0])]
    '7'
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]


Kind = TypeVar("Kind", Split, Dataset)


def expect(kind: type[Kind], value: Any) -> Kind:
    """Return `value`; raise DataError, which says what to do, unless it is a `kind`.

    >>> from sltools import data
    >>> digits = data.load("digits")
    >>> data.expect(data.Split, digits.test) is digits.test
    True
    >>> data.expect(data.Split, digits)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    sltools.errors.DataError: Expected a Split of sltools.data, not ...Dataset: take its .train ...
    """
    if isinstance(value, kind):
        return value
    advice = "from_tensors(...) makes a data set of your tensors, with the splits .train and .test"
    if isinstance(value, Dataset):
        advice = "take its .train or its .test"
    raise DataError(f"Expected a {kind.__name__} of sltools.data, not {_kind(value)}: {advice}.")


def _kind(value: Any) -> str:
    """Name the kind of a value that is no good."""
    kind = type(value)
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.") + shape


def load(name: str) -> Dataset:
    """Return a data set of NAMES: "digits", "mnist", "fashion_mnist" or "cifar10".

    The digits ship with scikit-learn: 1,797 images of 8x8 pixels, resized to 28x28 so that the
    MNIST network runs on them. Resizing adds pixels but no detail: a digit still has only its
    64 true unknowns, an easier target than an MNIST image.

    The files of the others are taken from `$SLTOOLS_DATA_DIR/<name>/` if they are there (official
    names, raw or .gz; for CIFAR-10 the binary format, any number of batches), or from where
    torchvision (`MNIST/raw/`, `FashionMNIST/raw/`) and the publishers (`cifar-10-batches-bin/`, or
    the archive itself) leave them, there or in `$SLTOOLS_DATA_DIR`. If nothing of the kind is
    there they are downloaded once into the user's cache and checked against their SHA-256.

    Images are 1x28x28, those of cifar10 3x32x32.
    Raises DataError if the name is unknown, the files are incomplete, damaged or out of reach, or
    others are there in their place, such as pickled batches.

    >>> from sltools import data
    >>> digits = data.load("digits")
    >>> digits.train, digits.test
    (Split(1437 images of shape (1, 28, 28)), Split(360 images of shape (1, 28, 28)))
    """
    _require(name in NAMES, f"There is no data set {name!r}: choose one of {', '.join(NAMES)}.")
    if name == "digits":
        return _digits()
    files = _files(name)
    if name == "cifar10":
        train, test = (_parse_cifar(files[kind]) for kind in _CIFAR_FILES)
    else:
        images, labels, test_images, test_labels = (files[kind][0] for kind in _IDX_FILES)
        train, test = _parse_idx(images, labels), _parse_idx(test_images, test_labels)
    return Dataset(name, train, test, tuple(_SOURCES[name].classes.split(", ")))


def available() -> dict[str, str]:
    """Tell for each of NAMES where `load` would find it. Nothing is downloaded or read.

    >>> from sltools import data
    >>> places = data.available()
    >>> list(places)
    ['digits', 'mnist', 'fashion_mnist', 'cifar10']
    >>> places["digits"]
    'inside scikit-learn'
    """
    return {"digits": "inside scikit-learn"} | {name: _describe_location(name) for name in _SOURCES}


def parts(split: Split, count: int, by: str = "even", seed: int = 0) -> list[Split]:
    """Divide a split among `count` clients, so that each image goes to one of them.

    `by="even"` deals the images out in random order, from the stream (`seed`, "parts");
    `by="class"` gives a client the classes c with c mod `count` equal to its place, in the order of
    the split: no two clients share a class. Raises DataError if a part would be empty.

    >>> from sltools import data
    >>> digits = data.load("digits").train
    >>> data.parts(digits, 2)
    [Split(719 images of shape (1, 28, 28)), Split(718 images of shape (1, 28, 28))]
    >>> [sorted(set(part.labels.tolist())) for part in data.parts(digits, 3, by="class")]
    [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    """
    _require(by in ("even", "class"), f"Parts are made by 'even' or by 'class', not {by!r}.")
    if by == "class":
        owners = split.labels.cpu() % max(count, 1)
    else:
        places = torch.randperm(len(split), generator=seeds.generator(seed, "parts"))
        owners = places % max(count, 1)
    rows = [(owners == part).nonzero()[:, 0] for part in range(count)]
    _require(
        count >= 1 and all(len(own) for own in rows),
        f"{len(split)} images by {by} cannot be divided among {count} clients: each needs one.",
    )
    return [split[own] for own in rows]


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

    >>> import torch
    >>> from sltools import data
    >>> images, labels = torch.rand(10, 3, 16, 16), torch.arange(10) % 2
    >>> scans = data.from_tensors(
    ...     "scans", images[:8], labels[:8], images[8:], labels[8:], classes=["healthy", "ill"]
    ... )
    >>> scans.train, scans.classes
    (Split(8 images of shape (3, 16, 16)), ('healthy', 'ill'))
    """
    train = _make_split("training", train_images, train_labels)
    test = _make_split("test", test_images, test_labels)
    same = train.images.shape[1:] == test.images.shape[1:]
    _require(same, f"Training and test images must have one shape, not {train} and {test}.")
    top = int(max(train.labels.max(), test.labels.max()))
    names = tuple(map(str, range(top + 1))) if classes is None else tuple(classes)
    _require(top < len(names), f"Label {top} has no name: only {len(names)} classes were given.")
    return Dataset(name, train, test, names)


def _make_split(split: str, images: Tensor, labels: Tensor) -> Split:
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
    span = f"but range from {low:.4g} to {high:.4g}: rescale them"
    _require(low >= 0 and high <= 1, f"The {split} images must be in [0, 1], {span}.")
    integers = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    whole = labels.dtype in integers and tuple(labels.shape) == shape[:1]
    kind = f"{labels.dtype} of shape {tuple(labels.shape)}"
    _require(whole, f"The {split} labels must be {shape[0]} integers, one per image, not {kind}.")
    _require(labels.min() >= 0, f"The {split} labels must count from 0, but one is {labels.min()}.")
    return Split(images.detach().float(), labels.to(images.device, torch.int64))


def _require(condition: bool | Tensor, message: str) -> None:
    if not condition:
        raise DataError(message)


def _digits() -> Dataset:
    """Resize the UCI digits and split them 80/20, stratified, the same way every time."""
    from sklearn.datasets import load_digits  # slow to import, and only needed here
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = torch.from_numpy(digits.images / 16).float().unsqueeze(1)
    images = interpolate(pixels, size=(28, 28), mode="bilinear", align_corners=False).clamp(0, 1)
    everything = Split(images, torch.from_numpy(digits.target).long())
    halves = train_test_split(
        np.arange(len(everything)), test_size=0.2, stratify=digits.target, random_state=0
    )
    train, test = (everything[torch.from_numpy(indices)] for indices in halves)
    return Dataset("digits", train, test, tuple("0123456789"))


# From bytes to images


IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


class _File(NamedTuple):
    """What a file holds, decompressed, and where it lies, which error messages name."""

    origin: str
    content: bytes


def _parse_idx(images: _File, labels: _File) -> Split:
    """Parse the format of MNIST: one IDX file of images and one of labels."""
    pixels, numbers = _idx_array(images, "images"), _idx_array(labels, "labels")
    size = "x".join(map(str, pixels.shape[1:]))
    _require(size == "28x28", f"{images.origin} holds images of {size} pixels: expected 28x28.")
    counts = f"{len(pixels)} images but {labels.origin} has {len(numbers)} labels"
    _require(len(pixels) == len(numbers), f"{images.origin} has {counts}: get both again.")
    return _split([pixels[:, None]], [numbers], [labels])


def _idx_array(file: _File, kind: str) -> np.ndarray:
    """Parse an IDX file of bytes, of images (N, H, W) or of labels (N,)."""
    magic = file.content[:4]
    found = {b"\0\0\x08\1": "labels", b"\0\0\x08\3": "images"}.get(magic, "unknown data")
    advice = "get it again" if found == "unknown data" else "swap the two files back"
    number = f"its magic number is 0x{magic.hex()}"
    _require(found == kind, f"{file.origin} holds {found}, not IDX {kind} ({number}): {advice}.")
    try:
        return idx_array(file.content)
    except ValueError as fault:
        raise DataError(f"{file.origin} is {fault}: get it again.") from None


def idx_array(content: bytes) -> np.ndarray:
    """The array in a file of MNIST's format, IDX; raise ValueError for what is damaged.

    It has the bytes 0, 0, a key of IDX_TYPES, the number of axes; each axis as big-endian uint32;
    then the numbers, big-endian too.

    >>> from sltools import data
    >>> data.idx_array(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9]))
    array([[7, 8, 9]], dtype=uint8)
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise ValueError("no IDX")
    kind, start = np.dtype(IDX_TYPES[content[2]]), 4 + 4 * content[3]
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    size, promised = len(content), start + math.prod(shape) * kind.itemsize
    if not size == promised > start:
        fault = "truncated" if size < promised else "empty or too long"
        raise ValueError(f"{fault} ({size} bytes where its header promises {promised})")
    return np.frombuffer(content, kind, offset=start).reshape(shape)


def _parse_cifar(files: list[_File]) -> Split:
    """Parse CIFAR-10 records: one byte of label, then 3x32x32 bytes of red, green and blue."""
    for file in files:
        size = len(file.content)
        fault = f"truncated or not binary CIFAR-10: {size} bytes are not a multiple of 3073"
        _require(size > 0 and size % 3073 == 0, f"{file.origin} is {fault}.")
    records = [np.frombuffer(file.content, np.uint8).reshape(-1, 3073) for file in files]
    images = [record[:, 1:].reshape(-1, 3, 32, 32) for record in records]
    return _split(images, [record[:, 0] for record in records], files)


def _split(images: list[np.ndarray], labels: list[np.ndarray], files: list[_File]) -> Split:
    """Join the bytes of several files, checking the labels; float32 is the only copy made."""
    for file, part in zip(files, labels, strict=True):
        _require(part.max() <= 9, f"{file.origin} has a label {part.max()}: expected 0 to 9.")
    pixels = torch.from_numpy(np.concatenate(images, dtype=np.float32)).div_(255)
    return Split(pixels, torch.from_numpy(np.concatenate(labels, dtype=np.int64)))


# From names to bytes


class _Source(NamedTuple):
    """How a data set is published: its files, and each download with its SHA-256.

    `left` is what torchvision or the publisher leave in a folder of data: a folder of these files
    or the archive of them. `lookalikes` is a pattern of names that are nearly right.
    """

    classes: str
    files: tuple[str, ...]
    left: tuple[str, ...]
    lookalikes: str
    mirrors: tuple[str, ...]
    downloads: dict[str, str]
    megabytes: int


def _sha256(sums: str) -> dict[str, str]:
    """Read lines of `sha256sum` into {file: sum}."""
    return {file: known for known, file in (line.split() for line in sums.strip().splitlines())}


_IDX_FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
_CIFAR_FILES = ("data_batch_*.bin", "test_batch.bin")  # * stands for a number
_ARCHIVE = "cifar-10-binary.tar.gz"
_UNPACKED = "cifar-10-batches-bin"  # the folder inside it
_IDX_LOOKALIKES = r"(train|t10k)[\W_]?(images|labels).*idx.*"
_PICKLED = r"cifar-10-(batches-py|python.*)|(data_batch_\d+|test_batch)(\.gz)?|.*\.(pkl|pt)\b.*"
_SOURCES = {
    "mnist": _Source(
        "0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        _IDX_FILES,
        ("MNIST/raw",),
        r"mnist(\W.*)?|" + _IDX_LOOKALIKES,
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        _sha256("""
        440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 train-images-idx3-ubyte.gz
        3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c train-labels-idx1-ubyte.gz
        8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 t10k-images-idx3-ubyte.gz
        f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 t10k-labels-idx1-ubyte.gz
        """),
        megabytes=12,
    ),
    "fashion_mnist": _Source(
        "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot",
        _IDX_FILES,
        ("FashionMNIST/raw",),
        r"fashion.?mnist(\W.*)?|" + _IDX_LOOKALIKES,
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        _sha256("""
        3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84 train-images-idx3-ubyte.gz
        a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845 train-labels-idx1-ubyte.gz
        346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073 t10k-images-idx3-ubyte.gz
        67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5 t10k-labels-idx1-ubyte.gz
        """),
        megabytes=31,
    ),
    "cifar10": _Source(
        "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck",
        _CIFAR_FILES,
        (_UNPACKED, _ARCHIVE),
        r"cifar.?10(\W.*)?|(data_batch_|test_batch).*",
        ("https://www.cs.toronto.edu/~kriz/",),
        _sha256("""
        c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd cifar-10-binary.tar.gz
        """),
        megabytes=170,
    ),
}
NAMES = ("digits", *_SOURCES)
SHAPES = {name: (3, 32, 32) if name == "cifar10" else (1, 28, 28) for name in NAMES}  # of an image


def _files(name: str) -> dict[str, list[_File]]:
    """Read the user's files of a data set, else the published ones, by `_Source.files`."""
    source = _SOURCES[name]
    place = _find_local(name)
    if place is None:
        paths = [_download(name, file) for file in source.downloads]
        return _untar(*paths) if name == "cifar10" else {path.stem: [_read(path)] for path in paths}
    if place.is_file():
        return _untar(_check_archive(place, source.downloads[place.name]))
    return {file: [_read(path) for path in _find_numbered(place, file)] for file in source.files}


def _describe_location(name: str) -> str:
    """Tell where the files of a data set are, or why there are none."""
    source = _SOURCES[name]
    try:
        if own := _find_local(name):
            return str(own)
        cache = _cache(name)
    except DataError as error:
        return f"not usable: {error}"
    if all((cache / file).is_file() for file in source.downloads):
        return str(cache)
    return f"not found: would be downloaded ({source.megabytes} MB)"


def _find_local(name: str) -> Path | None:
    """Find the user's files of a data set: their folder, or their archive; None if there are none.

    Raises DataError if they are incomplete, or only nearly what they should be.
    """
    root = os.environ.get("SLTOOLS_DATA_DIR")
    if not root:
        return None
    base, source = Path(root).expanduser(), _SOURCES[name]
    advice = "correct or unset this variable"
    _require(base.is_dir(), f"SLTOOLS_DATA_DIR={root} is not a folder: {advice}.")
    places = [base / name]
    places += [folder / left for folder in (base / name, base) for left in source.left]
    for place in places:
        archive = place.is_file() and place.name in source.downloads
        if archive or _complete(place, source.files):
            return place
    for folder, pattern in [*((place, ".*") for place in places), (base, source.lookalikes)]:
        if found := _list_names(folder, pattern, exclude=name):
            raise _lookalike_error(name, base, folder, found)
    return None


def _complete(folder: Path, files: tuple[str, ...]) -> bool:
    """Say whether all of `files` are in `folder`, or none; raise DataError if some are."""
    missing = [file for file in files if not _find_numbered(folder, file)]
    found = f"{folder} lacks {', '.join(missing)} (raw or .gz) and holds {_list_names(folder)}"
    advice = "add what is missing, or remove the folder to use a download"
    _require(len(missing) in (0, len(files)), f"{found}: {advice}.")
    return not missing


def _lookalike_error(name: str, base: Path, folder: Path, found: str) -> DataError:
    """Say that a `folder` holds what is no data set: no download may begin beside it unasked."""
    source = _SOURCES[name]
    expected = f"{', '.join(source.files)} (raw or .gz) in {base / name}"
    other = f"{' or '.join(source.left)} in {base}"
    pickled = (
        " (pickled, and never read: that can run code)" if _list_names(folder, _PICKLED) else ""
    )
    return DataError(
        f"{folder} holds {found}{pickled}; expected are {expected}, or {other}: rename or replace "
        "what is there, or move it away to use a download."
    )


def _list_names(folder: Path, pattern: str = ".*", exclude: str = "") -> str:
    """Name some of what is in `folder`, as far as it has names of that pattern."""
    names = sorted(path.name for path in folder.glob("[!.]*") if path.name != exclude)
    found = [name for name in names if re.fullmatch(pattern, name, re.IGNORECASE)]
    return ", ".join(found[:4]) + (", ..." if found[4:] else "")


def _find_numbered(folder: Path, file: str) -> list[Path]:
    """Find a file, in the order of the number at its *; the raw file is preferred to its .gz."""
    pattern = re.escape(file).replace(r"\*", "[0-9]+")
    backwards = sorted(folder.glob("*"), reverse=True)  # x.gz, then x, which takes its place
    found = {path.name.removesuffix(".gz"): path for path in backwards}
    names = [name for name in found if re.fullmatch(pattern, name)]
    return [found[name] for name in sorted(names, key=lambda name: (len(name), name))]


def _read(path: Path) -> _File:
    """Read a file, decompressing it if its name ends in .gz."""
    try:
        content = path.read_bytes()
        return _File(str(path), gzip.decompress(content) if path.suffix == ".gz" else content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): get it again.") from None


def _check_archive(archive: Path, known: str) -> Path:
    """Return the user's own `archive`; raise DataError if it is not the published one."""
    try:
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{archive} cannot be read ({error}): get it again.") from None
    fault = f"is damaged or not the published archive (SHA-256 {found[:8]}..., not {known[:8]}...)"
    _require(found == known, f"{archive} {fault}: get it again, or unpack it.")
    return archive


def _untar(archive: Path) -> dict[str, list[_File]]:
    """Read the CIFAR-10 batches inside their archive, by exact name; nothing is unpacked."""
    batches = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    wanted = [f"cifar-10-batches-bin/{batch}" for batch in batches]
    files = {}
    with tarfile.open(archive) as tar:
        for member in tar:  # in the archive's order, because going back in a .gz is slow
            if member.name in wanted and member.isfile() and (stream := tar.extractfile(member)):
                files[member.name] = _File(f"{archive}/{member.name}", stream.read())
    *train, test = (files[name] for name in wanted)
    return dict(zip(_CIFAR_FILES, (train, [test]), strict=True))


def _download(name: str, file: str) -> Path:
    """Return a published file from the user's cache, or else from the first mirror that works."""
    cache, source = _cache(name), _SOURCES[name]
    import pooch
    import requests  # comes with pooch

    advice = (
        f"or put {', '.join(source.files)} (raw or .gz) into a folder called {name} "
        "and set SLTOOLS_DATA_DIR to the folder around it."
    )
    failures = []
    for mirror in source.mirrors:
        try:
            known = source.downloads[file]
            return Path(pooch.retrieve(mirror + file, known, file, cache, progressbar=True))
        except requests.RequestException as error:
            failures.append(f"{mirror}: {type(error).__name__}")
        except ValueError:
            failures.append(f"{mirror}: wrong SHA-256, deleted")
        except OSError as error:
            reason = error.strerror or "permission denied"
            raise DataError(
                f"Cannot write to {cache} ({reason}): make it writable, {advice}"
            ) from None
    reasons = "; ".join(failures)
    raise DataError(f"Could not download {file} ({reasons}): check the network, {advice}")


def _cache(name: str) -> Path:
    """Return the folder for the downloads of a data set, which need not exist yet."""
    try:
        import pooch
    except ModuleNotFoundError:
        raise DataError(f"To download {name}, install pooch (pip install pooch).") from None
    return Path(pooch.os_cache("sltools")) / name
