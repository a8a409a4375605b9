import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sltools import storage
from sltools.errors import SltoolsError

few = settings(deadline=None, max_examples=40)
TENSORS = {"a/0": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}
FACTS = {"party": "server", "steps": [1, 2], "nothing": None, "name": "Küpçü"}
kinds = st.sampled_from(["float32", "float64", "int64", "uint8", "bool"])


@pytest.fixture
def saved(tmp_path):
    return storage.write(tmp_path / "saved", TENSORS, FACTS)


@few
@given(
    tensors=st.dictionaries(
        st.text("abc/._0", min_size=1).filter(lambda name: name != "__metadata__"),
        kinds.flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, min_side=0))),
        max_size=3,
    ),
    facts=st.dictionaries(
        st.text(), st.none() | st.integers() | st.text() | st.lists(st.floats(0))
    ),
)
def test_what_is_read_is_what_was_written(tmp_path_factory, tensors, facts):
    tensors = {name: torch.from_numpy(value) for name, value in tensors.items()}
    folder = storage.write(tmp_path_factory.mktemp("any") / "folder", tensors, facts)
    again, read_facts = storage.read(folder)
    assert read_facts == facts
    assert set(again) == set(tensors)
    for name, value in tensors.items():
        assert (again[name].dtype, again[name].shape) == (value.dtype, value.shape)
        same = again[name].numpy().tobytes() == value.contiguous().numpy().tobytes()
        assert same, name


def test_views_of_a_larger_tensor_are_written_alone(tmp_path):
    big = torch.arange(100_000.0)
    folder = storage.write(tmp_path / "x", {"part": big[3:6], "across": big.reshape(2, -1).T}, {})
    tensors, _ = storage.read(folder)
    assert torch.equal(tensors["part"], big[3:6])
    assert torch.equal(tensors["across"], big.reshape(2, -1).T)
    folder = storage.write(tmp_path / "y", {"part": big[3:6].requires_grad_()}, {})
    assert (folder / "tensors.safetensors").stat().st_size < 1000


def test_a_folder_holds_safetensors_and_json(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["facts.json", "tensors.safetensors"]
    assert json.loads((saved / "facts.json").read_text(encoding="utf-8")) == FACTS


# --- Writing ------------------------------------------------------------------------------------


def test_nothing_is_overwritten(saved, tmp_path):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(SltoolsError, match="saved is not empty; name a new folder"):
        storage.write(saved, {"a/0": torch.zeros(1)}, {})
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / ".notes").write_text("mine")
    with pytest.raises(SltoolsError, match="is not empty"):
        storage.write(theirs, TENSORS, FACTS)
    assert [path.name for path in theirs.iterdir()] == [".notes"]


def test_folders_are_made_and_empty_ones_used(tmp_path):
    deep = storage.write(tmp_path / "a" / "b" / "c", TENSORS, FACTS)
    assert deep == tmp_path / "a" / "b" / "c"
    (tmp_path / "empty").mkdir()
    storage.write(str(tmp_path / "empty"), TENSORS, FACTS)
    assert storage.read(str(tmp_path / "empty"))[1] == FACTS


def test_a_folder_is_tried_before_the_work_and_left_empty(tmp_path):
    folder = storage.new_folder(str(tmp_path / "a" / "result"))
    assert folder == tmp_path / "a" / "result"
    assert not any(folder.iterdir())
    storage.write(folder, TENSORS, FACTS)
    with pytest.raises(SltoolsError, match="is not empty"):
        storage.new_folder(folder)


def test_tensors_are_picked_by_the_beginning_of_their_names():
    tensors = {"net/a/b": torch.ones(1), "net2/a": torch.zeros(1), "x/net/c": torch.zeros(1)}
    assert storage.with_prefix("net/", tensors) == {"a/b": tensors["net/a/b"]}


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SltoolsError, match="cannot write to .*file.* you may write to"):
            storage.write(folder, TENSORS, FACTS)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(SltoolsError, match="cannot write to .*inside.* you may write to"):
            storage.write(tmp_path / "inside", TENSORS, FACTS)
    finally:
        tmp_path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize(
    "function", ["save_file", "Path.write_bytes", "Path.replace", "Path.mkdir", "Path.touch"]
)
def test_a_refused_write_is_one_clear_error(tmp_path, monkeypatch, function):
    """The same as for a read-only folder, which a test run by root cannot make."""

    def refuse(*anything, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(f"sltools.storage.{function}", refuse)
    with pytest.raises(SltoolsError, match=r"cannot write to .*Permission denied.*Name a folder"):
        storage.write(tmp_path / "inside", TENSORS, FACTS)


def test_facts_that_cannot_be_written_leave_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        storage.write(tmp_path / "half", TENSORS, {"fact": object()})
    assert not any((tmp_path / "half").iterdir())


@pytest.mark.parametrize("room", [0, 100, 10_000])
def test_a_full_disk_is_one_clear_error_and_leaves_an_empty_folder(tmp_path, full_disk, room):
    with full_disk(room), pytest.raises(SltoolsError, match="cannot write to .*half"):
        storage.write(tmp_path / "half", {"a": torch.zeros(5000)}, FACTS, {"x.png": b"x" * 200})
    assert not any((tmp_path / "half").iterdir())
    storage.write(tmp_path / "half", TENSORS, FACTS)
    assert storage.read(tmp_path / "half")[1] == FACTS


def test_a_file_stays_as_it_was_if_another_cannot_take_its_place(tmp_path, full_disk):
    path = tmp_path / "kept.txt"
    storage.write_atomic(path, "what was there\r\n")
    with full_disk(50), pytest.raises(OSError):
        storage.write_atomic(path, "x" * 51)
    with pytest.raises(KeyboardInterrupt), storage.atomic_path(path) as part:
        part.write_text("half of i")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"what was there\r\n"
    assert list(tmp_path.iterdir()) == [path]
    storage.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


KILLED = """
import os, pathlib, sys
import torch
from sltools import storage
folder = pathlib.Path(sys.argv[1])
storage.write_atomic(folder / "kept.txt", "whole")
write = pathlib.Path.write_bytes
def die(path, content):
    write(path, content[: len(content) // 2])
    os._exit(9)
pathlib.Path.write_bytes = die
if sys.argv[2] == "file":
    storage.write_atomic(folder / "kept.txt", "another")
storage.write(folder / "result", {"a": torch.zeros(3)}, {"b": 1})
"""


@pytest.mark.parametrize("place", ["file", "folder"])
def test_what_is_killed_while_it_writes_leaves_what_was_there(tmp_path, place):
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), place], check=False)
    assert run.returncode == 9
    assert (tmp_path / "kept.txt").read_text() == "whole"
    left = tmp_path / "result" if place == "folder" else tmp_path
    [part] = filter(storage.is_temporary, left.iterdir())
    assert part.read_bytes()
    storage.write(tmp_path / "result", TENSORS, FACTS)  # the same place can be used again
    assert storage.read(tmp_path / "result")[1] == FACTS


def test_tensors_of_one_memory_can_be_written_together(tmp_path):
    whole = torch.arange(6.0)
    tensors = {"a": whole, "b": whole.view(2, 3), "c": whole}
    again, _ = storage.read(storage.write(tmp_path / "x", tensors, {}))
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_a_home_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.write("~/x", TENSORS, FACTS) == tmp_path / "x"
    assert storage.writable_folder("~/y") == tmp_path / "y"


# --- Reading ------------------------------------------------------------------------------------


def test_a_missing_folder_or_file_is_named(saved):
    with pytest.raises(SltoolsError, match=r"nowhere.* does not exist; was it saved here\?"):
        storage.read(saved / "nowhere")
    (saved / "facts.json").unlink()
    with pytest.raises(SltoolsError, match=r"saved holds no facts\.json; name the folder"):
        storage.read(saved)
    with pytest.raises(SltoolsError, match=r"holds no tensors\.safetensors and facts\.json; name"):
        storage.read(saved.parent)


def test_tensors_take_their_place_in_one_step(tmp_path, full_disk):
    storage.write_tensors(tmp_path / "some", TENSORS)
    before = (tmp_path / "some").read_bytes()
    with full_disk(100), pytest.raises(OSError):
        storage.write_tensors(tmp_path / "some", {"a": torch.zeros(5000)})
    assert (tmp_path / "some").read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_what_is_private_is_for_its_owner_unless_he_opened_it(tmp_path):
    page = tmp_path / "page"
    storage.write_private(page, "mine")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    page.chmod(0o644)
    storage.write_private(page, "ours")
    assert (page.read_text(), stat.S_IMODE(page.stat().st_mode)) == ("ours", 0o644)


@pytest.mark.parametrize("name", ["tensors.safetensors", "facts.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"\x00" * 64])
def test_damaged_files_are_one_clear_error(saved, name, content):
    (saved / name).write_bytes(content)
    with pytest.raises(SltoolsError, match="saved cannot be read, it is damaged or not ours"):
        storage.read(saved)


def test_a_shortened_file_is_one_clear_error(saved):
    content = (saved / "tensors.safetensors").read_bytes()
    for length in range(len(content)):
        (saved / "tensors.safetensors").write_bytes(content[:length])
        with pytest.raises(SltoolsError, match="damaged"):
            storage.read(saved)


def test_a_folder_in_place_of_a_file_is_one_clear_error(saved):
    (saved / "facts.json").unlink()
    (saved / "facts.json").mkdir()
    with pytest.raises(SltoolsError, match="cannot be read"):
        storage.read(saved)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["tensors.safetensors", "facts.json"])
def test_a_pickle_is_refused_and_not_run(saved, tmp_path, name):
    explosion = tmp_path / "exploded"
    torch.save({"a": Bomb(explosion)}, tmp_path / "archive")
    bombs = [pickle.dumps(Bomb(explosion)), pickle.dumps(Bomb(explosion), protocol=0)]
    for bomb in [*bombs, (tmp_path / "archive").read_bytes()]:
        (saved / name).write_bytes(bomb)
        with pytest.raises(SltoolsError, match="cannot be read, it is damaged or not ours"):
            storage.read(saved)
    assert not explosion.exists()
    pickle.loads(bombs[0]).close()
    assert explosion.exists()  # the bomb is live


def test_a_link_goes_on_to_point_and_a_private_file_stays_private(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("a")
    real.chmod(0o600)
    link.symlink_to(real)
    storage.write_atomic(link, "b")
    assert link.is_symlink() and real.read_text() == "b"
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_did_not_become_whole_is_left_empty(tmp_path, monkeypatch):
    replace = Path.replace

    def full(self, target):
        if Path(target).name == "facts.json":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SltoolsError, match="No space left"):
        storage.write(tmp_path / "new", {"a": torch.zeros(1)}, {})
    assert list((tmp_path / "new").iterdir()) == []


def test_two_runs_do_not_share_a_folder(tmp_path):
    with (
        storage.exclusive_lock(tmp_path),
        pytest.raises(SltoolsError, match="at work in"),
        storage.exclusive_lock(tmp_path),
    ):
        pass


def test_a_file_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("there")
    with pytest.raises(SltoolsError, match="is a file; name the folder"):
        storage.read(tmp_path / "file")
