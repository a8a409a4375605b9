"""The floor of the throughput benchmark, by hand, for ten MNIST images at pool1."""

from functools import cache
from typing import Any

import pytest
import torch

from benchmarks import throughput
from sltools import data, models
from sltools.attacks import UnSplit
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View


def _view() -> View:
    front, images = models.cut(models.mnist_net(), "pool1")[0], data.load("digits").test.images[:10]
    with torch.no_grad():
        message = Message(0, 0, "smashed", front(images), "inference")
    return View("server", [message], Architecture.of(front, images.shape[1:]))


def test_operations_are_those_of_three_convolutions() -> None:
    forward = 24 * 24 * 8 * 25 * 2  # and the gradients of inputs and weights take as many each
    assert throughput._operations(_view()) == 10 * 3 * forward


def test_bytes_are_those_of_activations_and_adam() -> None:
    activations = 2 * 8 * 24 * 24 + 8 * 12 * 12
    layers = 4 * activations + 2 * 784 + 8 * 12 * 12  # and what was sent is read
    assert throughput._bytes(_view()) == 4 * (10 * layers + 7 * (10 * 784 + 208))


def test_the_table_shows_what_was_timed() -> None:
    row = {
        "targets": 1000, "steps_per_second": 2.5, "images_per_second": 2500.0, "times_floor": 17.66,
        "binds": "bytes",
    }  # fmt: skip
    assert throughput.table([row]).splitlines()[-1] == "| 1,000 | 2.5 | 2,500 | 17.7 | bytes |"


def test_a_compiled_objective_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for a compiler; its machine code takes minutes and is compared in the benchmark."""
    compile_, traced = torch.compile, []

    def trace(function: Any, mode: Any) -> Any:
        traced.append(mode)
        return compile_(function, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", trace)
    fresh = cache(throughput._compiled_losses.__wrapped__)
    monkeypatch.setattr(throughput, "_compiled_losses", fresh)
    (_, plain), (_, same) = (
        throughput._more_steps(kind, _view(), 5) for kind in (UnSplit, throughput._Compiled)
    )
    assert traced == [None], "compiled once"
    assert torch.allclose(plain, same, atol=1e-4) and plain.std() > 0
