"""Claims show their sizes and fail where they do not hold; guesses are compared, never judged."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sltools.claims import Claims, compare


@pytest.mark.parametrize(
    ("sizes", "relation", "bound", "shown"),
    [
        (0.123, "<", 0.5, "0.12 < 0.5"),
        (torch.tensor([3, 4]), ">", 2, "3 and 4 > 2"),
        ([1, 2], "<", [2, 3.5], "1 and 2 < 2 and 3.5"),
        (np.linspace(0, 1, 6), "<=", 1.0, "0 to 1 <= 1"),
        (1437, "==", 1437, "1437 == 1437"),
    ],
)
def test_a_claim_shows_its_sizes(
    sizes: Any, relation: str, bound: Any, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Claims(as_shown=True)("so it is", sizes, relation, bound)
    assert capsys.readouterr().out == f"so it is: {shown}, holds\n"


@given(st.lists(st.floats(-10, 10), min_size=1), st.floats(-10, 10))
def test_a_claim_holds_for_every_size_or_not_at_all(sizes: list[float], bound: float) -> None:
    try:
        Claims(as_shown=True)("all are below", sizes, "<", bound)
    except AssertionError:
        assert max(sizes) >= bound
    else:
        assert max(sizes) < bound


@pytest.mark.parametrize("sizes", [2.0, [0.0, 2.0], float("nan"), []])
def test_what_does_not_hold_is_said_and_fails_as_shown(
    sizes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Claims(as_shown=False)("all are below", sizes, "<", 1)
    assert capsys.readouterr().out.endswith("does not hold\n")
    with pytest.raises(AssertionError, match="all are below"):
        Claims(as_shown=True)("all are below", sizes, "<", 1)


def test_nothing_holds_beside_no_bound() -> None:
    with pytest.raises(AssertionError, match="all are below"):
        Claims(as_shown=True)("all are below", 5, "<", [])


def test_a_guess_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    compare(None, 0.5, "a share")
    compare("many", 3, "images")
    assert capsys.readouterr().out.splitlines() == [
        "a share: 0.5; your guess: none; put one in its cell and run both again",
        "images: 3; your guess: many",
    ]
