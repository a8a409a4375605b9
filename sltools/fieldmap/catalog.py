"""What is known of each work, and how works are found."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from sltools.errors import SltoolsError

KINDS = {
    "attack": "takes something that it was not meant to have",
    "defence": "makes that harder, or impossible",
    "detector": "notices an attack while it runs",
    "cryptography": "computes on what nobody can read",
    "framework": "a way to train or infer together",
    "survey": "orders the work of others",
}
WORLDS = {
    "vanilla": "split learning in which the client sends its labels to the server",
    "label-private": "split learning in which inputs and labels stay with the client (U-shaped)",
    "two-party": "split learning between a party with the inputs and a party with the labels",
    "split-inference": "a trained network, cut in two",
    "vfl": "vertical federated learning: parties hold other features of the same samples",
    "splitfed": "split and federated learning at once",
    "federated": "federated learning, where clients train whole networks",
    "language": "language models, cut between layers",
    "diffusion": "diffusion models and radiance fields",
    "other": "elsewhere",
}
NEEDS = {
    "smashed data": "the activations that a client sends",
    "gradients": "the gradients that are sent at a cut",
    "weight gradients": "gradients of weights, which split learning does not send",
    "architecture": "the shape of the network under attack",
    "weights": "the weights of the network under attack",
    "unlabelled data": "data of its own like those under attack",
    "labelled data": "such data with labels, or some labelled samples",
    "labels": "the labels of the very samples under attack",
    "queries": "answers of the network to inputs of its own choice",
    "changed messages": "to send what an honest party would not send",
    "poisoned data": "to train on data of its own that it has altered",
}
GETS = {
    "inputs": "the private inputs, more or less well",
    "labels": "the private labels",
    "model": "a working copy of a network",
    "attributes": "properties that the task does not ask for",
    "membership": "who was in the training",
    "backdoor": "a network that obeys a trigger",
    "adversarial examples": "inputs that the network gets wrong",
    "damage": "a network that is worse for everybody",
}
STATUSES = {
    "runs": "the course runs it, in the lessons named",
    "explained": "the course says what it does, in the lessons named",
    "listed": "the course does not use it",
    "unread": "the course does not use it, and we know no more than its title",
}


@dataclass(frozen=True)
class Threat:
    """One attacker: who it is, what it needs, of `NEEDS`, and what it gets, of `GETS`.

    `needs` is None where we do not know, and empty for an attacker that only has to look at what
    it was sent. It is what we know of: there may be more.
    """

    attacker: str
    needs: tuple[str, ...] | None
    gets: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """One work on the map. An empty field is one that we know nothing of.

    `threats` are the attackers that an attack is about, or that a defence or a detector is meant
    for. `answers` are the works that this one defends against, detects, evades or breaks, by their
    `id`. `sources` and `code`, the authors' own, are addresses. `runs` names what of this library
    carries it out, and `lessons` the notebooks that do so or explain it. Of a work without `gist`
    we know the title and where it appeared, and nothing is said of it.

    >>> from sltools import fieldmap
    >>> (work,) = fieldmap.find(text="SplitGuard: Detecting")
    >>> work.kinds, work.threats[0].attacker, work.answers
    (('detector',), 'malicious server', ('fsha',))
    >>> work.status, work.runs, work.lessons
    ('runs', ('sltools.detectors.SplitGuard',), ('09_malicious_server',))
    """

    id: str
    name: str
    title: str
    authors: str
    year: int | None
    venue: str = ""
    other_titles: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    worlds: tuple[str, ...] = ()
    threats: tuple[Threat, ...] = ()
    gist: str = ""
    answers: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    lessons: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """What this course does with the work, one of `STATUSES`."""
        if self.runs:
            return "runs"
        if self.lessons:
            return "explained"
        return "listed" if self.gist else "unread"

    @property
    def answered_by(self) -> tuple[str, ...]:
        """The works that answer this one, by their `id`."""
        return tuple(work.id for work in works() if self.id in work.answers)

    def words(self) -> str:
        """All that the card says in words, for a search."""
        attackers = (threat.attacker for threat in self.threats)
        said = (self.name, self.title, *self.other_titles, self.authors, self.venue, self.gist)
        return " ".join([self.id, *said, *attackers])


@cache
def works() -> tuple[Work, ...]:
    """Return all works, attacks first.

    >>> from sltools import fieldmap
    >>> fieldmap.works()[0].title
    'UnSplit: Data-Oblivious Model Inversion, Model Stealing, and Label Inference Attacks Against \
Split Learning'
    """
    text = resources.files(__package__).joinpath("works.json").read_text(encoding="utf-8")
    return tuple(Work(**dict(_fields(card))) for card in json.loads(text))


def _fields(card: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a card, with tuples for lists."""
    for name, value in card.items():
        if name == "threats":
            value = [Threat(**{k: _frozen(v) for k, v in threat.items()}) for threat in value]
        yield name, _frozen(value)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def find(
    needs: str | None = None,
    gets: str | None = None,
    world: str | None = None,
    kind: str | None = None,
    status: str | None = None,
    text: str | None = None,
) -> tuple[Work, ...]:
    """Return the works that are all that is asked for, in the order of `works`.

    `needs` and `gets` are asked of one and the same attacker. `text` is words that all occur in
    what a card says, whatever their case. An "unread" work, of which only the title is known, has
    no kind, world or attacker, and so is found by its words and status alone. Raises SltoolsError,
    with the values that there are, for another.

    >>> from sltools import fieldmap
    >>> [work.name for work in fieldmap.find(needs="labels", world="vfl", kind="attack")]
    ['URVFL']
    >>> fieldmap.find(world="federate")
    Traceback (most recent call last):
    ...
    sltools.errors.SltoolsError: world cannot be 'federate'; choose one of: vanilla, \
label-private, two-party, split-inference, vfl, splitfed, federated, language, diffusion, other
    """
    asked = {"needs": (needs, NEEDS), "gets": (gets, GETS), "world": (world, WORLDS)}
    asked |= {"kind": (kind, KINDS), "status": (status, STATUSES)}
    for name, (value, known) in asked.items():
        if value is not None and value not in known:
            raise SltoolsError(f"{name} cannot be {value!r}; choose one of: {in_words(known)}")
    words = (text or "").casefold().split()
    return tuple(
        work
        for work in works()
        if (needs is None and gets is None or any(_fits(t, needs, gets) for t in work.threats))
        and (world is None or world in work.worlds)
        and (kind is None or kind in work.kinds)
        and (status is None or status == work.status)
        and all(word in work.words().casefold() for word in words)
    )


def in_words(values: Iterable[str]) -> str:
    """Return values as one text, those of several words in the quotes that a shell needs.

    >>> from sltools.fieldmap.catalog import in_words
    >>> print(in_words(["smashed data", "gradients"]))
    "smashed data", gradients
    """
    return ", ".join(f'"{value}"' if " " in value else value for value in values)


def _fits(threat: Threat, needs: str | None, gets: str | None) -> bool:
    return (needs is None or needs in (threat.needs or ())) and (
        gets is None or gets in threat.gets
    )
