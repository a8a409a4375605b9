"""What all tests share: where to skip, and a small course to work on."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import logical_cuda
import pytest
import torch

from tools import notebooks

LESSON = """\
# ---
# jupyter:
#   sltools:
#     minutes: 5
# ---

# %% [markdown]
# # A little lesson

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist
budget: str = "quick"  # one of: tiny, quick, full (hours)
seed: int = 0  # the seed of everything
noise: float = 0.5  # standard deviation
verbose: bool = False

# %%
import os, pathlib, sys
print(dataset, budget, seed + 1, noise, verbose)

# %%
pathlib.Path("written.txt").write_text(f"{sys.executable} {os.environ['SLTOOLS_STATIC']}")
if seed == 7:
    raise RuntimeError("seven is too much")
if seed == 8:
    import time
    time.sleep(60)

# %%
print("the end")
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bare", type=Path, help="virtual environment with `pip install .` alone")


@pytest.fixture(scope="session")
def bare(pytestconfig: pytest.Config) -> Path:
    """The folder of commands of an environment with the package and its dependencies alone."""
    if (folder := pytestconfig.getoption("--bare")) is None:
        pytest.skip("needs an environment with nothing but `pip install .`: run make proofs")
    return Path(folder).absolute() / "bin"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Those that take long begin first, so that no worker waits for the other's last one.
    items.sort(key=lambda item: "slow" not in item.keywords)


def pytest_runtest_setup() -> None:
    torch.manual_seed(0)  # networks that a test makes are the same in every run


@pytest.fixture(autouse=True)
def cuda(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests for a GPU run on a logical device where there is none."""
    with ExitStack() as stack:
        if "gpu" in request.keywords and not torch.cuda.is_available():
            stack.enter_context(logical_cuda.device())
        yield


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """`with full_disk(100)`: there is room for 100 bytes in any file that this process writes."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def room(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return room


@pytest.fixture(scope="session")
def _built_course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material") / "course"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "03_little.py").write_text(LESSON, encoding="utf-8")
    (folder / "src" / "04_next.py").write_text("# %% [markdown]\n# # Next", encoding="utf-8")
    assert notebooks.main(["--folder", str(folder)]) == 0
    (folder / "written.txt").unlink()
    return folder


@pytest.fixture
def little_course(_built_course: Path, tmp_path: Path) -> Path:
    """A course folder of two lessons, 03_little and 04_next, to change at will."""
    return Path(shutil.copytree(_built_course, tmp_path / "material" / "course"))
