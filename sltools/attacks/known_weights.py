"""Inversion with the client's weights granted: the ceiling that UnSplit is measured against."""

from dataclasses import dataclass

import torch

from sltools import devices
from sltools.attacks.ensemble import Ensemble
from sltools.attacks.inversion import InputSearch, InversionResult
from sltools.view import View, fresh


@dataclass(frozen=True)
class KnownWeightsInversion(InputSearch):
    """Search the inputs under the client's true network, which the view must grant.

    What it cannot recover even with many steps, these priors cannot recover from these layers; a
    better prior may. True weights leave little to the priors, so they are weak. Needs the grant
    "client_model"; raises NotObservable without it.
    """

    tv: float = 0.01
    l1: float = 0.0
    input_lr: float = 0.1

    def __call__(self, view: View) -> InversionResult:
        """Attack what `view` shows. Ctrl-C returns the partial result, marked `interrupted`."""
        view = fresh(view)
        device = devices.find(self.device or view.smashed.device)
        client = view.client_model.to(device, torch.float32)
        return self.search(view, Ensemble([client]))[0]
