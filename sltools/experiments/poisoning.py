"""Many clients, some of whom cheat: standard trainings, and what is left after each turn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch.optim import Adam

from sltools import data, models, protocol
from sltools.attacks import Backdoor, LabelFlip
from sltools.data import Dataset
from sltools.protocol import Checkpoint, Guard, Session, Trainee
from sltools.protocol.rounds import Aggregate

AT = ("pool1", "relu4")  # label-private: first and last layers are the clients'
CLIENTS, CHEATERS = 10, (3, 7)  # by their places, from 0
EPOCHS, BATCH, LEARNING_RATE = 10, 16, 3e-3


class Turns:
    """A guard that keeps the state after each turn, and leaves the judgement to another, if any.

    >>> from sltools.experiments import Turns
    >>> turns = Turns()
    >>> turns.keep("before", "after"), turns.states
    ('after', ['after'])
    """

    def __init__(self, guard: Guard | None = None) -> None:
        self.guard = guard
        self.states: list[Checkpoint] = []
        self.undone: list[bool] = []

    def keep(self, before: Checkpoint, after: Checkpoint) -> Checkpoint:
        """Return the state to go on with, and note it."""
        kept = after if self.guard is None else self.guard.keep(before, after)
        self.undone.append(kept is not after)
        self.states.append(kept)
        return kept


@dataclass
class Crowd:
    """A network that many clients trained: the `session` of the first, and the `turns`, if any."""

    session: Session
    trainee: Trainee
    clients: int
    cheaters: tuple[int, ...]
    turns: Turns

    def undone(self, *, cheating: bool, since: int = 0) -> list[bool]:
        """Which turns of cheaters, or of the honest, were undone from turn `since` on."""
        return [
            undone
            for turn, undone in enumerate(self.turns.undone)
            if turn >= since and (turn % self.clients in self.cheaters) == cheating
        ]

    def after_turns(self, measure: Callable[[Session], float], since: int = 0) -> list[float]:
        """Measure the session as it stood after each turn from `since` on; it stays as it is."""
        client, server = self.trainee, self.session.server
        now = Checkpoint.take(client, server)
        found = []
        for state in self.turns.states[since:]:
            state.restore(client, server)
            found.append(measure(self.session))
        now.restore(client, server)
        return found


def train_crowd(
    dataset: Dataset,
    *,
    schedule: str = "in turn",
    attack: LabelFlip | Backdoor | None = None,
    cheat: Callable[..., protocol.Client] = protocol.Client,
    defense: Guard | Aggregate | None = None,
    detectors: Mapping[int, protocol.Detector] | None = None,
    cheaters: tuple[int, ...] = CHEATERS,
    clients: int = CLIENTS,
    epochs: int = EPOCHS,
    samples: int | None = None,
    seed: int = 0,
) -> Crowd:
    """Train the paper's network with many clients, those at the places `cheaters` with an `attack`.

    `attack` poisons their data; `cheat(front, head)` makes them, if they are to send something else
    than what follows from their data. `detectors` are given to honest clients, by their places. The
    training images, `samples` of them at most, are dealt out evenly; all clients are label-private
    and all parties learn with Adam at 3e-3 on batches of 16. `defense` is that of
    `protocol.train_clients`.

    >>> from sltools import data, experiments
    >>> from sltools.attacks import LabelFlip
    >>> settings = {"clients": 4, "cheaters": (1,), "epochs": 1, "samples": 80}
    >>> crowd = experiments.train_crowd(data.load("digits"), attack=LabelFlip(7, 1), **settings)
    >>> len(crowd.turns.states), crowd.undone(cheating=True)
    (4, [False])
    """
    splits = data.parts(dataset.train[: samples or len(dataset.train)], clients, seed=seed)
    parties, adam = [], partial(Adam, lr=LEARNING_RATE)
    for place in range(clients):
        front, middle, head = models.cut(models.for_images(splits[0].images.shape, seed), AT)
        make = cheat if place in cheaters else protocol.Client
        watch = (detectors or {}).get(place)
        parties.append(make(front, head, optimizer=adam, detector=watch))
        if attack is not None and place in cheaters:
            splits[place] = attack.poison(splits[place])
    server = protocol.Server(middle, label_private=True, optimizer=adam)
    turns = Turns(defense if isinstance(defense, Guard) else None)
    sessions = protocol.train_clients(
        parties, server, splits, schedule=schedule, epochs=epochs, batch_size=BATCH, seed=seed,
        defense=turns if schedule == "in turn" else defense,
    )  # fmt: skip
    return Crowd(sessions[0], Trainee(parties[0], splits[0]), clients, cheaters, turns)
