"""What a budget buys: epochs and images of a victim, steps and priors of an attack."""

from typing import Any

from sltools.attacks import UnSplit
from sltools.errors import SltoolsError

BUDGETS = ("tiny", "quick", "full", "published")
PRIORS: dict[str, dict[str, Any]] = {  # photographs have no black background
    "cifar10": {"l1": 0.0, "tv_end": 0.05, "photographs": True}
}
FULL_PRIORS = {"mnist": {"tv_end": 0.05}}  # strokes are sharp, which takes time to find
STEPS = {"tiny": 100, "quick": 1000, "full": 4000}  # of an inversion
_TRAINING: dict[
    str, dict[str, tuple[int, int | None]]
] = {  # epochs, and how many training images they use (None: all)
    "digits": {"tiny": (4, None), "quick": (25, None), "full": (60, None)},
    "mnist": {"tiny": (1, 3000), "quick": (1, None), "full": (10, None)},
    "fashion_mnist": {"tiny": (1, 3000), "quick": (1, None), "full": (10, None)},
    "cifar10": {"tiny": (1, 300), "quick": (1, 3000), "full": (10, None)},
}


def check_budget(budget: str) -> None:
    """Raise SltoolsError unless there is such a `budget`."""
    if budget not in BUDGETS:
        raise SltoolsError(f"no budget is called {budget!r}; there are {', '.join(BUDGETS)}")


def training(dataset: str, budget: str) -> tuple[int, int | None]:
    """How a victim is trained: epochs, and on how many training images (None: all).

    >>> from sltools import experiments
    >>> experiments.training("digits", "tiny"), experiments.training("mnist", "tiny")
    ((4, None), (1, 3000))
    """
    plans = _TRAINING.get(dataset, _TRAINING["digits"])
    return plans["full" if budget == "published" else budget]


def priors(dataset: str, budget: str) -> dict[str, Any]:
    """What UnSplit assumes of the images of `dataset` beyond its defaults.

    For MNIST this was chosen on victims and images that no recorded result has.

    >>> from sltools import experiments
    >>> experiments.priors("digits", "quick"), experiments.priors("mnist", "full")
    ({}, {'tv_end': 0.05})
    """
    full = FULL_PRIORS.get(dataset, {}) if budget == "full" else {}
    return PRIORS.get(dataset, {}) | full


def unsplit(dataset: str, budget: str) -> UnSplit:
    """UnSplit as `budget` allows and as it suits the images of `dataset`.

    Raises SltoolsError for an unknown budget.

    >>> from sltools import experiments
    >>> experiments.unsplit("digits", "tiny").steps
    100
    >>> experiments.unsplit("cifar10", "full").photographs
    True
    """
    check_budget(budget)
    if budget == "published":
        return UnSplit.published()
    return UnSplit(steps=STEPS[budget], **priors(dataset, budget))
