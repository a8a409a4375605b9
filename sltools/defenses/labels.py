"""Defences of the labels a vanilla client sends."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from sltools.defenses.outgoing import Outgoing
from sltools.errors import DefenseError
from sltools.validation import defense_check


class RandomisedResponse(Outgoing):
    """Sends the true label with probability e^ε / (e^ε + K - 1), else one of the K - 1 others.

    Each answer is ε-locally differentially private; n answers about one sample are n·ε. A client
    that wants to be private once answers once, before it starts, and trains on the answers:
    `Split(images, response("labels", labels))`. (Warner, JASA 1965, for two answers; here K are
    `classes`.) Raises DefenseError unless `epsilon` is above 0 and `classes` at least 2.

    >>> import torch
    >>> from sltools.defenses import RandomisedResponse
    >>> response = RandomisedResponse(epsilon=1.0, classes=10)
    >>> truth = torch.full((10_000,), 3)
    >>> answers = response("labels", truth)
    >>> share = (answers == truth).double().mean().item()
    >>> f"true with probability {response.truth:.2f}, in {share:.2f} of the answers"
    'true with probability 0.23, in 0.23 of the answers'
    """

    kind: ClassVar[str] = "labels"
    promises = "epsilon-local differential privacy of each label, for one answer"
    leaves = "the images; and the label itself, by majority, if the same sample is answered anew"

    def __init__(self, epsilon: float, classes: int, seed: int = 0) -> None:
        super().__init__(seed)
        self.epsilon = defense_check.positive("epsilon", epsilon)
        self.classes = defense_check.integer("classes", classes, 2)

    @property
    def truth(self) -> float:
        """The probability of the true label."""
        return 1 / (1 + (self.classes - 1) * math.exp(-self.epsilon))

    def change(self, tensor: Tensor) -> Tensor:
        """Return the labels `tensor` (B,), some of them replaced.

        Raises DefenseError unless they are whole numbers from 0 to `classes` - 1: a label that no
        lie can name would be known for the truth.
        """
        if tensor.is_floating_point() or ((tensor < 0) | (tensor >= self.classes)).any():
            raise DefenseError(
                f"labels must be whole numbers from 0 to {self.classes - 1}, not {tensor.dtype} "
                f"from {tensor.min().item():g} to {tensor.max().item():g}: say how many classes "
                "there are"
            )
        lie = torch.rand(tensor.shape, generator=self._generator) >= self.truth
        shift = torch.randint(1, self.classes, tensor.shape, generator=self._generator)
        return torch.where(
            lie.to(tensor.device), (tensor + shift.to(tensor)) % self.classes, tensor
        )
