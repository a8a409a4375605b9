"""A server that trains an attack beside its honest work."""

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn

from sltools.attacks.auxiliary import Auxiliary, LabelledImages
from sltools.attacks.inversion import as_targets
from sltools.attacks.surrogate import SurrogateAttack, SurrogateResult, SurrogateTraining
from sltools.errors import AttackError
from sltools.messages import Message
from sltools.models import Architecture
from sltools.protocol import Server
from sltools.view import View, fresh


class CuriousServer(Server):
    """A server that is honest in all that it sends, and trains an attack beside the client.

    `attack` is SDAR, PCAT or FORA and `auxiliary` the attacker's own images; `client` is the
    client's architecture, for an attack that uses it. For each message it makes the answer of an
    honest server and takes one step of the attack: the answers are the same, bit for bit, and come
    later by that step. Whatever goes wrong there, the client gets its answers: the attack ends, and
    `invert` raises what ended it. `options` are those of `Server`. Raises
    AttackError for auxiliary data that are none.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import PCAT, CuriousServer
    >>> digits = data.load("digits")
    >>> secret, own = digits.test.images[:2], digits.test[2:]
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> server = CuriousServer(rest, PCAT(late_start=2), own)
    >>> session = protocol.train(front, server, digits.train[:640], epochs=1)
    >>> found = server.invert(session.observe(secret))
    >>> server.steps, found.knowledge
    (8, ('labels', 'own model', 'smashed', 'auxiliary images (358)', 'auxiliary labels (358)'))
    """

    def __init__(
        self,
        model: nn.Sequential,
        attack: SurrogateAttack,
        auxiliary: LabelledImages,
        *,
        client: Architecture | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if not isinstance(attack, SurrogateAttack):
            raise AttackError(f"the attack is an SDAR(...), PCAT(...) or FORA(...), not {attack!r}")
        if attack.uses_architecture and client is None:
            raise AttackError(
                f"{type(attack).__name__} knows the client's architecture: give "
                "client=Architecture.of(front, input_shape)"
            )
        Auxiliary(
            auxiliary,
            labelled=attack.uses_labels,
            batch=attack.batch,
            seed=attack.seed,
            device=torch.device("cpu"),
        )
        self.attack = attack
        self.auxiliary = auxiliary
        self.seconds = 0.0
        self._client = client if attack.uses_architecture else None
        self._training: SurrogateTraining | None = None
        self._failure: Exception | None = None
        self._sent_labels: Tensor | None = None
        self._met = 0

    @property
    def steps(self) -> int:
        """How many steps the attack has taken."""
        return 0 if self._training is None else self._training.step

    def reply(self, message: Message) -> Message | None:
        """Answer as an honest server does, and learn from what it was sent."""
        if message.kind == "labels":
            self._sent_labels = message.payload.clone()
        answer = super().reply(message)
        if answer is not None and answer.kind == "cut_gradient" and self._failure is None:
            assert self._smashed is not None
            try:
                self._learn(self._smashed.detach().clone())
            except Exception as failure:  # a passive attacker's trouble is not the client's
                self._failure = failure
        return answer

    def invert(self, view: View) -> SurrogateResult:
        """Decode the smashed data of `view`.

        Raises AttackError before the attack's first step, and if something ended it.
        """
        view = fresh(view)
        if self._failure is not None:
            raise AttackError(
                f"the attack ended after {self.steps} steps: {self._failure}"
            ) from self._failure
        if self._training is None:
            raise AttackError(
                "this server has learnt nothing yet: train a client with it first, for more "
                f"batches than the {self.attack.late_start} it lets pass"
            )
        own = ("own model",) if self.attack.uses_labels else ()
        labels = ("labels",) if self.attack.uses_labels and not self.label_private else ()
        shape = ("client architecture",) if self._client is not None else ()
        smashed = as_targets(view.smashed)
        read = tuple(sorted({*view.knowledge, *own, *labels, *shape}))
        return self._training.result(smashed, read, self.seconds)

    def _learn(self, smashed: Tensor) -> None:
        start = time.perf_counter()
        self._met += 1
        if self._met <= self.attack.late_start:
            return
        if self._training is None:
            self._training = SurrogateTraining(
                self.attack,
                self.auxiliary,
                as_targets(smashed),
                server=copy.deepcopy(self.model) if self.attack.uses_labels else None,
                client=self._client,
                label_private=self.label_private,
            )
        self._training.follow(self.model)
        labels = self._sent_labels if self.attack.uses_labels else None
        self._training.learn(smashed, labels)
        self.seconds += time.perf_counter() - start
