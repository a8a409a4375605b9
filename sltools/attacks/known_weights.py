"""Inversion with the client's weights granted: the known-weights bound."""

from dataclasses import dataclass
from typing import Any

import torch

from sltools import devices
from sltools.attacks.ensemble import Ensemble
from sltools.attacks.inversion import InputSearch, input_shape
from sltools.attacks.pixels import POOR_FIT, InputRange, warn_of_range
from sltools.attacks.result import InversionResult
from sltools.view import View, fresh


@dataclass(frozen=True)
class KnownWeightsInversion(InputSearch):
    """Search the inputs under the client's true network, which the view must grant.

    (He et al., ACSAC 2019, the white-box attack; the search is that of `InputSearch`.) What it
    cannot recover even with many steps, these priors cannot recover from these layers; a better
    prior may. True weights leave little to the priors, so they are weak. Needs the grant
    "client_model"; raises NotObservable without it, and AttackError as UnSplit does.

    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import KnownWeightsInversion
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, digits.train, epochs=1)
    >>> secret = digits.test.images[:2]
    >>> result = KnownWeightsInversion(steps=100)(session.observe(secret, grants=["client_model"]))
    >>> result.knowledge
    ('client architecture', 'client model (granted)', 'smashed')
    >>> mean_image = digits.train.images.mean(0).expand_as(secret)
    >>> bool((metrics.mse(result.inputs, secret) < 0.1 * metrics.mse(mean_image, secret)).all())
    True
    """

    tv: float = 0.01
    l1: float = 0.0
    input_lr: float = 0.1

    def __call__(self, view: View, *, input_range: Any = (0.0, 1.0)) -> InversionResult:
        """Attack what `view` shows. Ctrl-C returns the partial result, marked `interrupted`.

        `input_range` says what the client's network is given for black and for white. It warns if
        inputs outside, which `bounded` forbids, would explain the smashed data far better.
        """
        view = fresh(view)
        device = devices.find(self.device or view.smashed.device)
        client = view.client_model.to(device, torch.float32)
        shape = input_shape(view)
        span = InputRange(input_range, shape[0])
        [result] = self.search(view, Ensemble([client], span))
        poor = result.feature_loss > POOR_FIT or not self.scaled
        if poor and self.bounded and not result.interrupted:
            smashed = view.smashed.to(result.inputs.device)
            warn_of_range(client, smashed, shape, span, result.feature_loss if self.scaled else 0.0)
        return result
