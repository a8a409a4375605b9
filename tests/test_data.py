import gzip
import hashlib
import io
import os
import socket
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pooch
import pytest
import requests
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sltools import data
from sltools.data import Split
from sltools.errors import DataError, SltoolsError

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail any attempt to leave this machine the way a missing network does."""

    def refuse(*_args, **_kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give every test an empty user cache and no data folder."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda _project: folder)
    monkeypatch.delenv("SLTOOLS_DATA_DIR", raising=False)
    return folder


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty $SLTOOLS_DATA_DIR."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("SLTOOLS_DATA_DIR", str(folder))
    return folder


def idx(array):
    """Encode an array of bytes as IDX, with struct rather than the arithmetic under test."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def idx_content(seed=0, train=12, test=10):
    """Random images and labels 0, 1, ..., 9, 0, ... in the four files of MNIST."""
    rng = np.random.default_rng(seed)
    arrays = [
        array
        for count in (train, test)
        for array in (rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10)
    ]
    return dict(zip(IDX_NAMES, map(idx, arrays), strict=True))


def records(count, seed=0):
    """Random CIFAR-10 records labelled 0, 1, ..., 9, 0, ..."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3072))
    return np.hstack([np.arange(count)[:, None] % 10, pixels]).astype(np.uint8)


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def one_sentence(error):
    """Return a DataError's message after checking that it is short and hides the inside."""
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 600
    assert error.value.__cause__ is None and (
        error.value.__context__ is None or error.value.__suppress_context__
    )
    return message


# Split and Dataset


def small_split():
    images = torch.arange(6.0).reshape(6, 1, 1, 1) / 10
    return Split(images, torch.tensor([1, 0, 2, 1, 0, 2]))


def test_a_split_is_selected_by_number_slice_and_tensor():
    split = small_split()
    assert len(split) == 6
    assert split[3].images.shape == (1, 1, 1, 1) and split[3].labels.tolist() == [1]
    assert split[-1].labels.tolist() == [2]
    assert split[1:3].labels.tolist() == [0, 2]
    assert split[torch.tensor([5, 0])].images.flatten().tolist() == pytest.approx([0.5, 0.0])
    assert split[split.labels == 0].images.flatten().tolist() == pytest.approx([0.1, 0.4])
    assert len(split[:0]) == 0 and split[:0].images.shape == (0, 1, 1, 1)
    assert [one.labels.item() for one in split] == split.labels.tolist()
    with pytest.raises(IndexError):
        split[6]


def test_a_slice_shares_memory():
    split = small_split()
    assert split[2:].images.data_ptr() == split.images[2:].data_ptr()


def test_first_per_class_keeps_class_order_then_file_order():
    chosen = small_split().first_per_class()
    assert chosen.labels.tolist() == [0, 1, 2]
    assert chosen.images.flatten().tolist() == pytest.approx([0.1, 0.0, 0.2])
    two = small_split().first_per_class(k=2)
    assert two.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert two.images.flatten().tolist() == pytest.approx([0.1, 0.4, 0.0, 0.3, 0.2, 0.5])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 3))
def test_first_per_class_agrees_with_counting_by_hand(labels, k):
    split = Split(torch.arange(float(len(labels))).reshape(-1, 1, 1, 1), torch.tensor(labels))
    places = [[at for at, seen in enumerate(labels) if seen == c] for c in range(max(labels) + 1)]
    if min(map(len, places)) < k:
        with pytest.raises(DataError, match=r"Class \d has \d of the \d images asked for"):
            split.first_per_class(k)
    else:
        expected = [at for place in places for at in place[:k]]
        assert split.first_per_class(k).images.flatten().tolist() == expected


@pytest.mark.parametrize(
    ("split", "k", "message"),
    [
        (small_split(), 3, r"Class 0 has 2 of the 3 images asked for in this split of 6"),
        (small_split()[2:4], 1, r"Class 0 has 0 of the 1"),
        (small_split(), 0, r"at least 1, not 0"),
        (small_split()[:0], 1, r"empty split"),
    ],
)
def test_first_per_class_refuses_what_it_cannot_give(split, k, message):
    with pytest.raises(DataError, match=message) as error:
        split.first_per_class(k)
    one_sentence(error)


def test_to_moves_images_and_labels():
    moved = small_split().to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"


def test_records_are_frozen_and_print_briefly():
    dataset = data.load("digits")
    with pytest.raises(AttributeError):
        dataset.train = dataset.test
    with pytest.raises(AttributeError):
        dataset.train.images = None
    assert "Split(1437 images of shape (1, 28, 28))" in repr(dataset)
    assert len(repr(dataset)) < 300
    assert (dataset.train == dataset.test) is False  # by identity: tensors have no one answer


# Digits


def test_digits():
    digits = data.load("digits")
    assert (digits.name, digits.classes) == ("digits", tuple("0123456789"))
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    for split in (digits.train, digits.test):
        assert split.images.shape[1:] == (1, 28, 28) and split.images.dtype == torch.float32
        assert split.labels.dtype == torch.int64
        assert split.images.min() >= 0 and split.images.max() <= 1
        share = split.labels.bincount() / len(split)
        assert share.min() > 0.095 and share.max() < 0.105  # stratified
    assert digits.test.first_per_class().labels.tolist() == list(range(10))


def test_digits_are_split_the_same_way_every_time_and_leave_random_states_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = data.load("digits"), data.load("digits")
    assert torch.equal(first.test.images, second.test.images)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    # Pinned: recorded results would silently change if a new scikit-learn split differently.
    assert first.test.labels[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


def test_every_digit_is_in_one_split_and_comes_from_8x8_pixels():
    digits = data.load("digits")
    images = torch.cat([digits.train.images, digits.test.images]).flatten(1)
    assert len({image.numpy().tobytes() for image in images}) == 1797
    # The resizing is linear, so the images span at most 64 of their 784 dimensions.
    assert torch.linalg.matrix_rank(images[:200].double(), rtol=1e-5) <= 64
    # Without aligned corners, the outer rows lie beyond the centre of the first true pixel.
    rows = images.unflatten(1, (28, 28))
    assert torch.allclose(rows[:, [0, 26]], rows[:, [1, 27]])
    assert not torch.allclose(rows[:, 1], rows[:, 2])


# Your own tensors


def tensors(**changes):
    """Arguments of from_tensors that are right but for `changes`."""
    right = {
        "train_images": torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)),
        "train_labels": torch.tensor([0, 1, 2, 0]),
        "test_images": torch.full((2, 3, 5, 6), 0.5),
        "test_labels": torch.tensor([2, 1]),
    }
    return {"name": "mine"} | right | changes


def test_from_tensors():
    mine = data.from_tensors(**tensors())
    assert (mine.name, mine.classes) == ("mine", ("0", "1", "2"))
    assert torch.equal(mine.train.images, tensors()["train_images"])
    assert mine.test.labels.tolist() == [2, 1]
    named = data.from_tensors(**tensors(classes=["a", "b", "c", "d"]))
    assert named.classes == ("a", "b", "c", "d")


def test_from_tensors_accepts_other_number_types_and_detaches():
    mine = data.from_tensors(
        **tensors(
            train_images=torch.rand(4, 3, 5, 6, dtype=torch.float64, requires_grad=True),
            train_labels=torch.tensor([0, 1, 2, 0], dtype=torch.uint8),
        )
    )
    assert mine.train.images.dtype == torch.float32 and not mine.train.images.requires_grad
    assert mine.train.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((4, 3, 5, 6))}, "training images and labels must be tensors"),
        ({"test_labels": [2, 1]}, "test images and labels must be tensors"),
        ({"train_images": torch.zeros(4, 5, 6)}, r"shape \(N, C, H, W\), not \(4, 5, 6\)"),
        ({"test_images": torch.zeros(0, 3, 5, 6)}, r"not \(0, 3, 5, 6\)"),
        ({"test_images": torch.zeros(2, 3, 5, 0)}, r"not \(2, 3, 5, 0\)"),
        ({"test_images": torch.zeros(2, 1, 5, 6)}, r"one shape, not .*\(3, 5, 6\).*\(1, 5, 6\)"),
        ({"test_images": torch.zeros(2, 3, 5, 6, dtype=torch.uint8)}, "floats, not torch.uint8"),
        ({"test_images": torch.full((2, 3, 5, 6), torch.nan)}, "test images contain NaN"),
        ({"test_images": torch.full((2, 3, 5, 6), torch.inf)}, "range from inf to inf"),
        ({"test_images": torch.full((2, 3, 5, 6), 1.01)}, "range from 1.01 to 1.01"),
        ({"train_images": torch.full((4, 3, 5, 6), -0.5)}, "range from -0.5"),
        ({"train_labels": torch.tensor([0, 1, 2])}, r"must be 4 integers.*shape \(3,\)"),
        ({"train_labels": torch.zeros(4, 1).long()}, r"shape \(4, 1\)"),
        ({"train_labels": torch.zeros(4)}, "not torch.float32"),
        ({"train_labels": torch.zeros(4).bool()}, "not torch.bool"),
        ({"test_labels": torch.tensor([0, -1])}, "test labels must count from 0, but one is -1"),
        ({"classes": ("a", "b")}, "Label 2 has no name: only 2 classes"),
    ],
)
def test_from_tensors_says_what_is_wrong(changes, message):
    with pytest.raises(DataError, match=message) as error:
        data.from_tensors(**tensors(**changes))
    one_sentence(error)


def test_one_nan_among_good_pixels_is_found():
    images = torch.rand(4, 3, 5, 6)
    images[2, 1, 3, 4] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        data.from_tensors(**tensors(train_images=images))


# Files of the user


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read_raw_and_compressed(root, name, suffix):
    content = idx_content()
    write(root / name, {file + suffix: content[file] for file in IDX_NAMES})
    dataset = data.load(name)
    assert (len(dataset.train), len(dataset.test), len(dataset.classes)) == (12, 10, 10)
    assert dataset.train.images.shape == (12, 1, 28, 28)
    assert dataset.train.images.dtype == torch.float32
    pixels = torch.tensor(list(content[TRAIN_IMAGES][16:])).reshape(12, 1, 28, 28)
    assert torch.equal(dataset.train.images, pixels.float() / 255)
    assert dataset.train.labels.tolist() == [*range(10), 0, 1]
    assert dataset.test.first_per_class().labels.tolist() == list(range(10))


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            hnp.arrays(np.uint8, (n, 28, 28)),
            hnp.arrays(np.uint8, n, elements=st.integers(0, 9)),
        )
    )
)
def test_idx_round_trip(pair):
    images, labels = pair
    split = data._parse_idx(data._File("images", idx(images)), data._File("labels", idx(labels)))
    assert ((split.images * 255).round().numpy()[:, 0] == images).all()
    assert split.labels.tolist() == labels.tolist()


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)))
def test_idx_arrays_keep_shape_and_order(array):
    assert (data._idx_array(data._File("file", idx(array)), "images") == array).all()


@given(st.binary(max_size=64), st.sampled_from(["images", "labels"]))
def test_arbitrary_bytes_never_fail_in_another_way(content, kind):
    for start in (b"", b"\0\0\x08\3", b"\0\0\x08\1"):
        file = data._File("file", start + content)
        try:
            array = data._idx_array(file, kind)
        except DataError:
            continue
        assert idx(array) == file.content


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_cifar_batches_are_joined_in_numeric_order(root, suffix):
    batches = {f"data_batch_{number}.bin{suffix}": records(4, number) for number in (10, 9, 1)}
    write(
        root / "cifar10",
        {name: batch.tobytes() for name, batch in batches.items()}
        | {f"test_batch.bin{suffix}": records(10).tobytes(), "data_batch_1 copy.bin": b"no"},
    )
    cifar = data.load("cifar10")
    assert cifar.train.images.shape == (12, 3, 32, 32) and len(cifar.test) == 10
    assert cifar.classes[0] == "airplane" and cifar.classes[9] == "truck"
    expected = np.concatenate([records(4, number) for number in (1, 9, 10)])
    assert cifar.train.labels.tolist() == expected[:, 0].tolist()
    pixels = torch.from_numpy(expected[:, 1:]).reshape(12, 3, 32, 32)
    assert torch.equal(cifar.train.images, pixels.float() / 255)


def test_red_comes_first_in_cifar(root):
    record = bytes([3]) + bytes([255]) * 1024 + bytes([51]) * 1024 + bytes(1024)
    write(root / "cifar10", {"data_batch_1.bin": record, "test_batch.bin": record})
    colours = data.load("cifar10").train.images.amax(dim=(2, 3))
    assert colours.tolist() == [pytest.approx([1.0, 0.2, 0.0])]


def test_a_raw_file_is_preferred_to_its_compressed_twin(root):
    content = idx_content()
    folder = write(root / "mnist", content)
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(b"half a download")
    assert len(data.load("mnist").train) == 12


def test_the_folder_may_start_with_a_tilde(root, monkeypatch):
    write(root / "mnist", idx_content())
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.setenv("USERPROFILE", str(root.parent))
    monkeypatch.setenv("SLTOOLS_DATA_DIR", os.path.join("~", root.name))
    assert len(data.load("mnist").train) == 12


def test_an_unknown_name_gets_the_known_ones():
    with pytest.raises(SltoolsError, match="'minst'.*digits, mnist, fashion_mnist, cifar10") as e:
        data.load("minst")
    one_sentence(e)
    assert data.NAMES == ("digits", "mnist", "fashion_mnist", "cifar10")


WRONG_IDX = {
    "truncated file": ({TRAIN_IMAGES: idx_content()[TRAIN_IMAGES][:-1]}, "truncated .9423 bytes"),
    "truncated header": ({TRAIN_IMAGES: idx_content()[TRAIN_IMAGES][:10]}, "truncated"),
    "empty file": ({TRAIN_LABELS: b""}, "unknown data, not IDX labels"),
    "no images": ({TEST_IMAGES: idx(np.zeros((0, 28, 28)))}, "empty"),
    "too long": ({TEST_LABELS: idx_content()[TEST_LABELS] + b"1"}, "too long"),
    "wrong magic": ({TRAIN_IMAGES: b"\x89PNG" + bytes(9)}, "magic number is 0x89504e47"),
    "floats": ({TRAIN_IMAGES: b"\0\0\x0d\3" + bytes(99)}, "unknown data, not IDX images"),
    "swapped": (
        {TRAIN_IMAGES: idx_content()[TRAIN_LABELS], TRAIN_LABELS: idx_content()[TRAIN_IMAGES]},
        "holds labels, not IDX images .*swap",
    ),
    "counts differ": (
        {TEST_LABELS: idx_content()[TRAIN_LABELS]},
        "has 10 images but .*t10k-labels.* has 12 labels",
    ),
    "wrong size": ({TEST_IMAGES: idx(np.zeros((10, 32, 32)))}, "32x32 pixels: expected 28x28"),
    "label above 9": ({TEST_LABELS: idx(np.arange(10) + 1)}, "label 10: expected 0 to 9"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_IDX.values(), ids=WRONG_IDX)
def test_a_wrong_idx_file_is_named(root, changes, message):
    folder = write(root / "mnist", idx_content() | changes)
    with pytest.raises(DataError, match=message) as error:
        data.load("mnist")
    assert str(folder / next(iter(changes))) in one_sentence(error)


GZIPPED = gzip.compress(idx_content()[TRAIN_IMAGES])
WRONG_GZIP = {
    "truncated": GZIPPED[:-20],
    "truncated header": GZIPPED[:5],
    "corrupt": GZIPPED[:2000] + bytes(300) + GZIPPED[2300:],
    "invalid block": GZIPPED[:10] + b"\xff" * 100,
    "wrong checksum": GZIPPED[:-8] + bytes(8),
    "not gzip": idx_content()[TRAIN_IMAGES],
    "garbage behind": GZIPPED + b"garbage",
}


@pytest.mark.parametrize("content", WRONG_GZIP.values(), ids=WRONG_GZIP)
def test_a_bad_gzip_file_is_named(root, content):
    folder = write(root / "mnist", idx_content())
    (folder / TRAIN_IMAGES).unlink()
    path = folder / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read \(.+\): get it again") as error:
        data.load("mnist")
    assert str(path) in one_sentence(error)


def test_a_folder_in_the_place_of_a_file_is_named(root):
    folder = write(root / "mnist", idx_content())
    (folder / TEST_LABELS).unlink()
    (folder / TEST_LABELS).mkdir()
    with pytest.raises(DataError, match="cannot be read") as error:
        data.load("mnist")
    one_sentence(error)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (records(2).tobytes()[:-1], "6145 bytes are not a multiple of 3073"),
        (b"", "0 bytes are not"),
        (b"\x0a" + bytes(3072), "label 10: expected 0 to 9"),
    ],
)
def test_a_wrong_cifar_file_is_named(root, batch, message):
    good = records(2).tobytes()
    files = {"data_batch_1.bin": good, "data_batch_2.bin": batch, "test_batch.bin": good}
    folder = write(root / "cifar10", files)
    with pytest.raises(DataError, match=message) as error:
        data.load("cifar10")
    assert str(folder / "data_batch_2.bin") in one_sentence(error)


@pytest.mark.parametrize(
    ("name", "files", "missing"),
    [
        ("mnist", [TRAIN_IMAGES, TEST_LABELS], f"{TRAIN_LABELS}, {TEST_IMAGES}"),
        ("cifar10", ["data_batch_1.bin"], "test_batch.bin"),
        ("cifar10", ["test_batch.bin"], "data_batch_*.bin"),
    ],
)
def test_an_incomplete_folder_is_not_completed_by_a_download(root, name, files, missing):
    folder = write(root / name, dict.fromkeys(files, b""))
    with pytest.raises(DataError) as error:
        data.load(name)
    assert f"{folder} lacks {missing} (raw or .gz)" in one_sentence(error)
    assert data.available()[name].startswith("not usable: ")


def test_a_data_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("SLTOOLS_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="SLTOOLS_DATA_DIR=.*nowhere is not a folder") as error:
        data.load("mnist")
    one_sentence(error)
    assert "is not a folder" in data.available()["mnist"]
    assert len(data.load("digits").test) == 360


# What torchvision and the publishers leave, and what is nearly right


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "MNIST/raw"),
        ("mnist", "mnist/MNIST/raw"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("fashion_mnist", "fashion_mnist/FashionMNIST/raw"),
    ],
)
def test_what_torchvision_leaves_is_read(root, name, folder):
    content = idx_content()
    twice = content | {f"{file}.gz": part for file, part in content.items()}  # as it does
    write(root / folder, twice)
    assert data.load(name).train.labels.tolist() == [*range(10), 0, 1]
    assert data.available()[name] == str(root / folder)
    other = {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}[name]
    assert data.available()[other].startswith("not found")


def test_a_folder_of_torchvision_must_be_complete(root):
    content = idx_content()
    del content[TEST_LABELS]
    write(root / "MNIST" / "raw", content)
    with pytest.raises(DataError, match=f"raw lacks {TEST_LABELS}") as error:
        data.load("mnist")
    one_sentence(error)


@pytest.mark.parametrize("inside", ["", "cifar10"])
def test_cifar_as_published_is_read(root, monkeypatch, inside):
    folder = root / inside / "cifar-10-batches-bin"
    members = {Path(name).name: content for name, content in cifar_members().items()}
    write(folder, members | {"batches.meta.txt": b"airplane", "readme.html": b""})
    unpacked = data.load("cifar10")
    assert (len(unpacked.train), len(unpacked.test)) == (50, 10)
    assert data.available()["cifar10"] == str(folder)
    folder.rename(root / "elsewhere")
    archive = cifar_archive(cifar_members())
    publish(monkeypatch, "cifar10", archive)
    path = root / inside / "cifar-10-binary.tar.gz"
    path.write_bytes(archive[path.name])
    assert torch.equal(data.load("cifar10").train.images, unpacked.train.images)
    assert data.available()["cifar10"] == str(path)


def test_an_archive_that_is_not_the_published_one_is_named(root):
    path = root / "cifar-10-binary.tar.gz"
    path.write_bytes(cifar_archive(cifar_members())[path.name][:-100])
    with pytest.raises(DataError, match="is damaged or not the published archive") as error:
        data.load("cifar10")
    assert str(path) in one_sentence(error)


NEARLY_RIGHT = {
    "dots": ("mnist", "mnist", ["train-images.idx3-ubyte", "t10k-labels.idx1-ubyte"], TRAIN_IMAGES),
    "dots, of torchvision": ("mnist", "MNIST/raw", ["train-images.idx3-ubyte"], TRAIN_IMAGES),
    "beside the folder": ("fashion_mnist", "", [TRAIN_IMAGES], "fashion_mnist"),
    "other capitals": ("mnist", "Mnist", [TRAIN_IMAGES], TRAIN_IMAGES),
    "of keras": ("mnist", "", ["mnist.npz"], TRAIN_IMAGES),
    "as torchvision left it once": ("mnist", "MNIST/processed", ["training.pt"], TRAIN_IMAGES),
    "pickled": ("cifar10", "cifar-10-batches-py", ["data_batch_1", "test_batch"], "pickled"),
    "pickled, inside": ("cifar10", "cifar10", ["data_batch_1", "test_batch"], "pickled"),
    "pickled archive": ("cifar10", "", ["cifar-10-python.tar.gz"], "pickled"),
    "pickled folder": ("cifar10", "cifar10/cifar-10-batches-py", ["data_batch_1"], "pickled"),
    "unzipped archive": ("cifar10", "", ["cifar-10-binary.tar"], "cifar-10-binary.tar.gz"),
    "batches beside": ("cifar10", "", ["data_batch_1.bin", "test_batch.bin"], "data_batch_*.bin"),
}


@pytest.mark.parametrize("case", NEARLY_RIGHT)
def test_what_is_nearly_right_is_named_and_no_download_begins(root, web, case):
    name, folder, files, wanted = NEARLY_RIGHT[case]
    name, folder, files, wanted = NEARLY_RIGHT[case]
    write(root / folder, dict.fromkeys(files, b"unread"))
    with pytest.raises(DataError, match="holds .*; expected are .*download") as error:
        data.load(name)
    message = one_sentence(error)
    found = (
        files[0] if (root / folder).name.lower() == "raw" or not folder else Path(folder).parts[0]
    )
    assert found in message and wanted in message and str(root / name) in message
    assert data.available()[name].startswith("not usable: ")
    assert web.asked == []


def test_other_data_and_an_empty_folder_do_not_stand_in_the_way_of_a_download(root):
    for folder in ("mnist", "cifar-100-python", "imagenet", "raw", "train_images"):
        (root / folder).mkdir()
    write(root, {"README.md": b"", ".DS_Store": b"", "emnist-letters.npz": b""})
    write(root / "mnist", {".DS_Store": b""})
    assert [text[:9] for text in data.available().values()][1:] == ["not found"] * 3


# Downloads


class Web:
    """Answers requests with what `pages` holds: bytes, an HTTP status, or nothing."""

    def __init__(self):
        self.pages = {}
        self.asked = []

    def send(self, request):
        self.asked.append(request.url)
        page = self.pages.get(request.url)
        if page is None:
            raise requests.ConnectionError("no network")
        response = requests.Response()
        response.request, response.url = request, request.url
        response.status_code = page if isinstance(page, int) else 200
        response.raw = io.BytesIO(b"" if isinstance(page, int) else page)
        return response


@pytest.fixture
def web(monkeypatch):
    web = Web()
    monkeypatch.setattr(
        requests.adapters.HTTPAdapter, "send", lambda _, request, **kwargs: web.send(request)
    )
    return web


def publish(monkeypatch, name, files):
    """Let `files` be what the publisher of a data set is known to publish."""
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    source = data._SOURCES[name]._replace(downloads=sums)
    monkeypatch.setitem(data._SOURCES, name, source)
    return source.mirrors


def idx_archives():
    return {f"{file}.gz": gzip.compress(content) for file, content in idx_content().items()}


def cifar_archive(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {"cifar-10-binary.tar.gz": buffer.getvalue()}


def test_files_are_downloaded_once_and_then_taken_from_the_cache(web, cache, monkeypatch):
    archives = idx_archives()
    mirror, *_ = publish(monkeypatch, "mnist", archives)
    web.pages = {mirror + file: content for file, content in archives.items()}
    assert data.available()["mnist"] == "not found: would be downloaded (12 MB)"
    assert web.asked == [] and not cache.exists()
    assert data.load("mnist").train.labels.tolist() == [*range(10), 0, 1]
    assert web.asked == list(web.pages)
    web.pages.clear()
    assert len(data.load("mnist").test) == 10
    assert len(web.asked) == 4
    assert data.available()["mnist"] == str(cache / "mnist")


@pytest.mark.parametrize("answer", [None, 503, b"<html>log in to the wireless network</html>"])
def test_a_second_mirror_is_tried(web, monkeypatch, answer):
    archives = idx_archives()
    first, second = publish(monkeypatch, "fashion_mnist", archives)
    web.pages = {first + file: answer for file in archives}
    web.pages |= {second + file: content for file, content in archives.items()}
    assert len(data.load("fashion_mnist").train) == 12
    assert len(web.asked) == 8


def test_a_damaged_file_in_the_cache_is_downloaded_again(web, cache, monkeypatch):
    archives = idx_archives()
    mirror, *_ = publish(monkeypatch, "mnist", archives)
    web.pages = {mirror + file: content for file, content in archives.items()}
    write(cache / "mnist", {TRAIN_IMAGES: b""})
    (cache / "mnist" / f"{TRAIN_IMAGES}.gz").write_bytes(b"half a download")
    assert len(data.load("mnist").train) == 12


def test_a_download_with_the_wrong_hash_is_refused_and_deleted(web, cache):
    for mirror in data._SOURCES["mnist"].mirrors:
        web.pages[f"{mirror}{TRAIN_IMAGES}.gz"] = b"something else"
    with pytest.raises(DataError, match="wrong SHA-256, deleted") as error:
        data.load("mnist")
    assert "SLTOOLS_DATA_DIR" in one_sentence(error)
    assert len(web.asked) == 2
    assert list((cache / "mnist").iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_without_a_network_the_error_says_what_to_put_where(name):
    with pytest.raises(DataError, match="Could not download .*ConnectionError") as error:
        data.load(name)
    message = one_sentence(error)
    source = data._SOURCES[name]
    assert "SLTOOLS_DATA_DIR" in message and f"folder called {name} " in message
    assert all(text in message for text in (*source.files, *source.mirrors))


def test_a_cache_that_cannot_be_written(web, cache):
    cache.write_text("a file where the folder should be")  # a mode would not stop root
    with pytest.raises(DataError, match=r"Cannot write to .* \((?!permission).+\)") as error:
        data.load("mnist")
    assert str(cache / "mnist") in one_sentence(error)
    assert web.asked == []


def test_a_cache_without_permission(monkeypatch, cache):
    def forbid(*_args, **_kwargs):
        raise PermissionError(f"[Errno 13] '{cache}'")  # as pooch words it, with no strerror

    monkeypatch.setattr(os, "makedirs", forbid)
    with pytest.raises(DataError, match=r"Cannot write to .* \(permission denied\)") as error:
        data.load("mnist")
    one_sentence(error)


def cifar_members():
    """The official archive's names, in its order, which is not numeric."""
    order = ["data_batch_1", "data_batch_3", "data_batch_4", "test_batch"]
    order += ["data_batch_5", "data_batch_2"]
    return {
        f"cifar-10-batches-bin/{name}.bin": records(10, seed).tobytes()
        for seed, name in enumerate(order)
    }


def test_cifar_is_read_from_its_archive_without_unpacking(web, cache, monkeypatch):
    surprises = {"../evil.bin": b"1", "cifar-10-batches-bin/data_batch_6.bin": b"2"}
    archive = cifar_archive(cifar_members() | surprises)
    (mirror,) = publish(monkeypatch, "cifar10", archive)
    web.pages = {mirror + file: content for file, content in archive.items()}
    cifar = data.load("cifar10")
    assert (len(cifar.train), len(cifar.test)) == (50, 10)
    expected = [cifar_members()[f"cifar-10-batches-bin/data_batch_{n}.bin"] for n in range(1, 6)]
    pixels = np.frombuffer(b"".join(expected), np.uint8).reshape(50, 3073)[:, 1:]
    assert ((cifar.train.images * 255).round().flatten(1).numpy() == pixels).all()
    files = [path.name for path in cache.rglob("*") if path.is_file()]
    assert files == ["cifar-10-binary.tar.gz"]
    assert [path.name for path in cache.parent.iterdir()] == ["cache"]


def test_without_pooch_the_error_says_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match="pip install pooch") as error:
        data.load("cifar10")
    one_sentence(error)
    assert "pip install pooch" in data.available()["cifar10"]


# What is there


def test_available_names_the_places(root):
    write(root / "cifar10", {"data_batch_3.bin.gz": b"", "test_batch.bin": b""})
    assert data.available() == {
        "digits": "inside scikit-learn",
        "mnist": "not found: would be downloaded (12 MB)",
        "fashion_mnist": "not found: would be downloaded (31 MB)",
        "cifar10": str(root / "cifar10"),
    }


def test_the_published_hashes_are_sha256_of_the_official_names():
    for name in ("mnist", "fashion_mnist"):
        assert list(data._SOURCES[name].downloads) == [f"{file}.gz" for file in IDX_NAMES]
    sums = [each for source in data._SOURCES.values() for each in source.downloads.values()]
    assert len(set(sums)) == 9 and all(len(bytes.fromhex(each)) == 32 for each in sums)


def test_nothing_is_unpickled():
    source = Path(data.__file__).read_text(encoding="utf-8")
    assert "import pickle" not in source and "torch.load" not in source and "np.load" not in source


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_split_refuses_images_that_are_not_finite(wrong: float) -> None:
    images = torch.rand(4, 1, 8, 8)
    images[2, 0, 3, 3] = wrong
    with pytest.raises(DataError, match="images of a split hold NaN or infinite values: use pix"):
        data.Split(images, torch.zeros(4, dtype=torch.long))
    assert len(data.Split(images[:2], torch.zeros(2, dtype=torch.long))) == 2
    assert len(data.Split(images[:0], torch.zeros(0, dtype=torch.long))) == 0
