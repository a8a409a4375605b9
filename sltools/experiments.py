"""Experiments of standard size: what the command line and the lessons run.

A budget says how much to spend: "tiny" for tests, "quick" for a lesson on a laptop, "full" for the
paper's scale. Nothing here is known to the library below it.
"""

from collections.abc import Sequence

from sltools import data, models, protocol
from sltools.errors import SltoolsError

BUDGETS = ("tiny", "quick", "full")
STEPS = {"tiny": 100, "quick": 2000, "full": 6000}  # of an inversion
_TRAINING = {  # epochs, and how many training images they use (None: all)
    "digits": {"tiny": (4, None), "quick": (25, None), "full": (60, None)},
    "mnist": {"tiny": (1, 3000), "quick": (1, None), "full": (10, None)},
    "fashion_mnist": {"tiny": (1, 3000), "quick": (1, None), "full": (10, None)},
    "cifar10": {"tiny": (1, 300), "quick": (1, 3000), "full": (10, None)},
}


def train_victim(
    dataset: data.Dataset,
    at: str | Sequence[str] = "pool1",
    *,
    budget: str = "quick",
    seed: int = 0,
    device: str = "cpu",
    record: bool = False,
) -> protocol.Session:
    """Train the paper's network on `dataset`, cut after `at`, and return the session.

    One stage gives vanilla split learning, two give label-private. The paper trains for 10 epochs:
    that is `budget="full"` for its data sets. Raises SltoolsError for an unknown budget or cut.
    """
    check_budget(budget)
    epochs, count = _TRAINING.get(dataset.name, _TRAINING["digits"])[budget]
    parts = models.cut(models.for_images(dataset.train.images.shape, seed), at)
    split = dataset.train if count is None else dataset.train[:count]
    options = {"epochs": epochs, "seed": seed, "device": device, "record": record}
    if len(parts) == 2:
        return protocol.train(*parts, split, **options)
    front, middle, head = parts
    client, server = protocol.Client(front, head), protocol.Server(middle, label_private=True)
    return protocol.train(client, server, split, **options)


def check_budget(budget: str) -> None:
    """Raise SltoolsError unless `budget` is one of BUDGETS."""
    if budget not in BUDGETS:
        raise SltoolsError(f"no budget is called {budget!r}; there are {', '.join(BUDGETS)}")
