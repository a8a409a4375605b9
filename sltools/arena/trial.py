"""One trial of the arena: a victim with a defence, before a curious server or a malicious one."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from sltools import data, experiments, models, protocol
from sltools.arena.defenses import Defense
from sltools.interrupts import finished

CUTS = ("pool1", "relu4")  # of a label-private client; a vanilla one is cut at the first alone
HIJACKING = "hijacking"


@dataclass(frozen=True)
class Settings:
    """Settings of the arena: each of `victims` is attacked `clones` times, hijacked once."""

    dataset: str = "digits"
    budget: str = "quick"
    victims: int = 3
    clones: int = 3
    targets: int = 10
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """One measure of one trial. Image scores are medians over the targets; "best" is the least.

    `attack` is "service" for what the user loses, "wire" for what the messages say by themselves;
    `clone` numbers the attacks of one kind on one victim, -1 if there is but one.

    >>> from sltools.arena import Row
    >>> row = Row("digits", "tiny", "top-k", 0.1, 0, "UnSplit", 0, "aligned_mse", 0.031, 0.046)
    >>> row.key
    ('digits', 'tiny', 'top-k', 0.1, 0, False)
    """

    dataset: str
    budget: str
    defense: str
    strength: float
    victim: int
    attack: str
    clone: int
    measure: str
    value: float
    baseline: float

    @property
    def key(self) -> tuple[Any, ...]:
        """What the rows of one trial have in common."""
        malicious = self.attack == HIJACKING
        return (self.dataset, self.budget, self.defense, self.strength, self.victim, malicious)


@dataclass(frozen=True)
class Trial:
    """One victim with one defence, before a curious server or before a `malicious` one.

    >>> from sltools import data
    >>> from sltools.arena import DEFENSES, Settings, Trial
    >>> digits = data.load("digits")
    >>> top_k = next(defense for defense in DEFENSES if defense.name == "top-k")
    >>> trial = Trial(Settings(budget="tiny"), digits, top_k, strength=0.1, victim=0)
    >>> session = trial.session()
    >>> session.client.outgoing, session.accuracy(digits.test) > 0.5
    (TopK(share=0.1), True)
    """

    settings: Settings
    dataset: data.Dataset
    defense: Defense
    strength: float
    victim: int
    malicious: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """What the rows of this trial have in common."""
        return self.row(HIJACKING if self.malicious else "", "", 0, 0).key

    @cached_property
    def train(self) -> data.Split:
        """What the client trains on; its labels may be answers that it gave once for all."""
        train = self.dataset.train
        if self.defense.response is None:
            return train
        response = self.defense.response(self.strength, self.victim)
        return data.Split(train.images, response("labels", train.labels))

    @cached_property
    def targets(self) -> Tensor:
        """The images (N, C, H, W) that are attacked."""
        found = experiments.first_targets(self.dataset, self.settings.targets)
        return found.images.to(self.settings.device)

    @cached_property
    def public(self) -> Tensor:
        """Images that an attacker may have: none of the targets is among them."""
        rows = experiments.public_rows(self.dataset, self.settings.targets)
        return self.dataset.test.images[rows].to(self.settings.device)

    @property
    def attackers(self) -> list[tuple[int, int]]:
        """Numbers and seeds of the attackers of this victim."""
        clones = self.settings.clones
        return [(number, self.victim * clones + number) for number in range(clones)]

    @property
    def cut(self) -> str | tuple[str, str]:
        """The stage, or the two of a label-private client, after which the network is cut."""
        return CUTS if self.defense.label_private else CUTS[0]

    def network(self) -> nn.Sequential:
        """The network of this victim, with fresh weights."""
        return models.for_images(self.dataset.train.images.shape, self.victim)

    def client(self, front: nn.Sequential, *head: nn.Sequential) -> protocol.Client:
        """A client with this defence."""
        options = self.defense.options(self.strength, front, self.victim)
        return protocol.Client(front, *head, **options)

    def session(self) -> protocol.Session:
        """Train the victim as its budget says, before a curious server."""
        return finished(
            experiments.train_victim(
                replace(self.dataset, train=self.train),
                self.cut,
                budget=self.settings.budget,
                seed=self.victim,
                device=self.settings.device,
                client=self.client,
            )
        )

    def recorded(self, count: int, batch_size: int) -> protocol.Session:
        """Train a fresh client for one epoch on `count` samples, on record."""
        client, server = experiments.parties(self.network(), self.cut, self.client)
        return finished(
            protocol.train(
                client,
                server,
                self.train[:count],
                epochs=1,
                batch_size=batch_size,
                seed=self.victim,
                record=True,
                device=self.settings.device,
            )
        )

    def row(self, attack: str, measure: str, value: float, baseline: float, clone: int = -1) -> Row:
        """One measure of this trial."""
        settings, name = self.settings, self.defense.name
        trial = (settings.dataset, settings.budget, name, float(self.strength), self.victim)
        return Row(*trial, attack, clone, measure, value, baseline)
