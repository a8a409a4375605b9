"""What is audited: a client's network, what crossed the wire, and who may have which data."""

import hashlib
import inspect
import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sltools import devices, seeds
from sltools.attacks import networks
from sltools.audit.form import (
    Builder,
    Form,
    activation_shape,
    as_features,
    bare,
    client_architecture,
    is_random,
    rest_of,
)
from sltools.audit.sources import Samples, load_weights
from sltools.audit.training import fit
from sltools.data import Split
from sltools.errors import DataError, ModelError
from sltools.experiments.auxiliary import pixel_bytes
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View

TARGETS = 10
MOST_SENT, SENT_BYTES = 2000, 256e6  # of what crossed the wire, this much is looked at
MOST_PUBLIC = 5000
FEWEST = 8
ROUNDING = 1e-3  # of the variance of activations
HELD_OUT, PUBLIC = 0.2, 0.35  # of the samples that are no targets, if the client is trained here
LEVELS = 2**16 - 1  # by which two samples are told apart: columns of a table may lie close
UNKNOWN = -1  # the label of a sample that has none
TRAINING_SHARE = 0.25  # of the time, that training may take


@dataclass(frozen=True, eq=False)
class Parts:
    """What a user has, unchecked: at least activations, or a client's network and samples.

    `client` and `rest` build fresh networks; `weights` are those of the client by name, and of the
    rest if their names differ; `smashed` are recorded activations (N, ...), in the order of
    `samples` if both are there; `public` are samples that the attacker has. With `unseen` the
    client, whose weights are given, did not learn from the `samples`.
    """

    client: Builder | None = None
    rest: Builder | None = None
    samples: Samples | None = None
    weights: dict[str, Tensor] | None = None
    smashed: Tensor | None = None
    public: Samples | None = None
    view: View | None = None
    also: Sequence[Builder] = ()
    name: str = "your split"
    unseen: bool = False

    @property
    def digest(self) -> str:
        """A hash of all of it, of the code that builds networks, and of what that code makes."""
        code = [_source_of(builder) for builder in (self.client, self.rest, *self.also)]
        code += _made_by(self)
        found = hashlib.sha256(json.dumps([self.name, code, devices.versions()]).encode())
        tensors: dict[str, Tensor | None] = {"smashed": self.smashed}
        for role, samples in {"samples": self.samples, "public": self.public}.items():
            if samples is not None:
                tensors |= {role: samples.values, f"labels of {role}": samples.labels}
        tensors |= {f"weight {name}": weight for name, weight in (self.weights or {}).items()}
        if self.view is not None:
            found.update(repr((self.view, self.view._client)).encode())
            tensors["view"] = self.view.fresh().smashed
            own = self.view._own_model
            state = own.state_dict() if isinstance(own, nn.Module) else {}
            tensors |= {f"server {name}": weight for name, weight in state.items()}
        for name, tensor in sorted(tensors.items()):
            if tensor is None:
                continue
            found.update(repr((name, tuple(tensor.shape))).encode())
            found.update(
                tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class System:
    """A split as attacks meet it; samples are images (N, C, H, W) in [0, 1], see `Form`.

    `wire` is the server's view of what crossed, the targets' first; `sent` its truth, if known.
    `client` is the trained one and `rest` what the server runs. `public` are the attacker's own
    samples, `held_out` are for scoring, `training` is what the client learned from here. Labels are
    -1 where they are not known. `notes` are for the report; `trained` are the weights of both parts
    if any was trained here, `taught_here` which, and `is_taught` whether there was time for it.
    `unseen` says that a client whose weights were given did not learn from these samples.
    """

    name: str
    form: Form
    wire: View
    targets: int
    client: nn.Sequential | None = None
    rest: nn.Sequential | None = None
    rest_architecture: Architecture | None = None
    sent: Split | None = None
    public: Split | None = None
    held_out: Split | None = None
    training: Split | None = None
    also: Sequence[tuple[str, nn.Sequential]] = ()
    classes: int = 0
    notes: tuple[str, ...] = ()
    trained: dict[str, Tensor] = field(default_factory=dict)
    taught_here: tuple[str, ...] = ()
    is_taught: bool = True
    unseen: bool = False

    @cached_property
    def smashed(self) -> Tensor:
        """What crossed the wire (M, ...), the targets' first."""
        return self.wire.smashed

    @property
    def truth(self) -> Tensor | None:
        """The images (T, C, H, W) that the attacks are scored on."""
        return None if self.sent is None else self.sent.images[: self.targets]

    @property
    def is_weightless(self) -> bool:
        """Whether the client has no parameters, so that its architecture says all of it."""
        return self.client is not None and not self.client.state_dict()

    @property
    def is_held_out(self) -> bool:
        """Whether the client has surely not learned from what copies are scored on."""
        return "client" in self.taught_here or self.is_weightless or self.unseen

    @property
    def is_labelled(self) -> bool:
        """Whether the labels of what was sent are known."""
        return self.sent is not None and bool((self.sent.labels >= 0).all())

    @property
    def public_is_labelled(self) -> bool:
        """Whether the attacker's own samples have labels, of two classes at least."""
        if self.public is None or bool((self.public.labels < 0).any()):
            return False
        return len(self.public.labels.unique()) > 1

    @cached_property
    def architecture(self) -> Architecture | None:
        """The shape of the client's network, if the server knows it."""
        known = self.wire._client
        return known if isinstance(known, Architecture) and len(known.input_shape) == 3 else None

    def view(self, count: int | None = None) -> View:
        """The server's view of the first `count` of what crossed the wire (None: all)."""
        if count is None or count >= len(self.smashed):
            return self.wire
        return View.of_activations(self.smashed[:count], self.architecture, self.rest)

    def granted(self, count: int) -> View:
        """The same view with the client's weights granted."""
        assert self.client is not None
        message = Message(0, 0, "smashed", self.smashed[:count], "inference")
        grants = {"client_model": self.client}
        return View("server", [message], self.architecture, None, self.rest, grants)


class Kept(NamedTuple):
    """The `weights` of both parts as an earlier run trained them, and whether it had the time."""

    weights: dict[str, Tensor]
    is_taught: bool


def _source_of(builder: Builder | None) -> str:
    """The name of `builder` and the file that it is written in, as far as it is known."""
    if builder is None:
        return ""
    try:
        text = Path(inspect.getsourcefile(builder) or "").read_text(encoding="utf-8")
    except (TypeError, OSError, ValueError):
        text = ""
    return f"{getattr(builder, '__qualname__', '')}\n{text}"


def _made_by(parts: Parts) -> list[str]:
    """Tell the networks that `parts` build: their layers, and the size of what they make.

    The code may be the same where they are not: a function may take others from elsewhere.
    """
    example = parts.samples or parts.public
    inputs = None if example is None else example.values[:2]
    told, sent = _trace(parts.client, inputs)
    others = [(parts.rest, sent), *((builder, inputs) for builder in parts.also)]
    return [told, *(_trace(builder, given)[0] for builder, given in others)]


def _trace(builder: Builder | None, inputs: Tensor | None) -> tuple[str, Tensor | None]:
    """A network in words and rounded numbers, and what it makes of `inputs` with weights of a seed.

    What cannot be built is told by `build`.
    """
    if builder is None:
        return "", inputs
    try:
        with seeds.scope(0, "trace"), torch.no_grad():
            network = builder().eval()
            made = None if inputs is None else network(inputs.clone())
            size = "" if made is None else f"{made.abs().mean():.3g} {made.std():.3g}"
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    except Exception:
        return "", None
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(network))
    return f"{layers}\n{shapes}\n{size}", made


class _Networks(NamedTuple):
    """A client and the rest of its network, with what builds them anew."""

    client: nn.Sequential
    architecture: Architecture
    activation_shape: tuple[int, ...]
    rest: nn.Sequential | None = None
    rest_architecture: Architecture | None = None
    classes: int = 0
    untrained: tuple[str, ...] = ()

    def notes(self, samples: Tensor) -> list[str]:
        """What the report should say of them, given samples (N, ...) as the client takes them."""
        if not is_random(bare(self.client), samples[:2]):
            return []
        return ["What the client sends of an input is drawn at random, and is not the same twice."]


def build(
    parts: Parts,
    *,
    targets: int = TARGETS,
    seconds: float = 300,
    seed: int = 0,
    kept: Kept | None = None,
) -> System:
    """Check `parts`, train for at most a quarter of `seconds` what has no weights, and deal out.

    `kept` is what an earlier run trained; if its time was too short, this one goes on with it.
    Raises DataError and ModelError, with what is wrong and what to do.
    """
    if parts.view is not None and parts.client is None:
        return _of_view(parts, parts.view, targets)
    if parts.view is not None:
        parts = replace(parts, smashed=parts.view.smashed)
    example = parts.samples or parts.public
    if parts.client is None and parts.smashed is None:
        raise ModelError("there is nothing to audit: give a client's network, or activations")
    if example is None:
        raise DataError(
            "nothing tells what the client's inputs look like: give images (or rows) of its own, "
            "or public ones"
        )
    form = Form.of(example.values, *([parts.public.values] if parts.public else []))
    if parts.smashed is not None:
        return _of_recording(parts, parts.smashed, form, targets, seed)
    if parts.samples is None:
        raise DataError("give images (or rows) that the client sends activations of")
    return _of_samples(parts, parts.samples, form, targets, TRAINING_SHARE * seconds, seed, kept)


def _of_view(parts: Parts, view: View, targets: int) -> System:
    """A saved view or transcript of ours: what a server could do with its log."""
    known = view._client if isinstance(view._client, Architecture) else None
    if known is not None:
        shape = known.input_shape
    elif parts.public is not None:
        shape = tuple(parts.public.values.shape[1:])
    else:
        raise DataError(
            "the view says nothing of the client's architecture, so only an attacker with images "
            "of its own can go on from it: give public images"
        )
    form = Form(shape, torch.zeros(shape[0], 1, 1), torch.ones(shape[0], 1, 1))
    sent = _truth(parts.samples, form, view.smashed)
    model = view._own_model if isinstance(view._own_model, nn.Sequential) else None
    return System(
        parts.name, form, view, min(targets, len(view.smashed)), rest=model, sent=sent,
        public=_public(parts.public, form, sent),
    )  # fmt: skip


def _of_recording(parts: Parts, activations: Tensor, form: Form, targets: int, seed: int) -> System:
    """Recorded activations, and the network that sent them if it is known."""
    smashed = as_features(activations)
    sent = _truth(parts.samples, form, smashed)
    architecture, client, rest, classes = None, None, None, 0
    notes: list[str] = []
    if parts.client is not None:
        known = _networks(parts, form, None, seed)
        if known.activation_shape != tuple(activations.shape[1:]):
            raise DataError(
                f"the recorded activations are {tuple(activations.shape[1:])} for each input, and "
                f"the client makes {known.activation_shape}: are they of this network, at this cut?"
            )
        architecture = known.architecture
        notes += known.notes((parts.samples or parts.public).values)  # type: ignore[union-attr]
        client = None if "client" in known.untrained else known.client
        if "rest" not in known.untrained:
            rest, classes = known.rest, known.classes
    if client is not None and sent is not None:
        difference = networks.relative_error(client, sent.images, smashed)
        if difference > ROUNDING:
            notes.append(
                "What the client makes of these inputs differs from the recording, by "
                f"{difference:.1%} of its variance: other weights, another order, or a defence."
            )
    return System(
        parts.name, form, View.of_activations(smashed, architecture, rest),
        min(targets, len(smashed)), client=client, rest=rest, classes=classes, sent=sent,
        public=_public(parts.public, form, sent), notes=tuple(notes),
    )  # fmt: skip


def _of_samples(
    parts: Parts,
    samples: Samples,
    form: Form,
    targets: int,
    seconds: float,
    seed: int,
    kept: Kept | None,
) -> System:
    """A network and its inputs: it is run here, and trained here if it has no weights."""
    given = _split(samples, form)
    split = _distinct(given)
    if len(split) < FEWEST:
        alike = f" that differ, of {len(given)}," if len(split) < len(given) else ""
        raise DataError(f"{len(split)} samples{alike} are too few to audit: give {FEWEST} or more")
    known = _networks(parts, form, samples, seed)
    if "client" in known.untrained and (known.rest is None or samples.labels is None):
        parts_there = {"the rest of the network": known.rest, "labels": samples.labels}
        lacking = " and ".join(what for what, there in parts_there.items() if there is None)
        raise ModelError(
            "a client without weights says nothing: its layers are random. Give its weights, or "
            f"{lacking} too, and client and rest are trained here"
        )
    notes = known.notes(samples.values)
    if known.untrained == ("rest",) and _classes_in(samples.labels) < 2:
        known = known._replace(rest=None, rest_architecture=None, classes=0, untrained=())
        notes.append(
            "The rest was left out: it has no weights, and no labels of two classes to learn from."
        )
    aims, training, own, held_out = _divide(
        split, targets, bool(known.untrained), parts.public is not None, seed
    )
    public = _public(parts.public, form, split)
    if public is not None and known.classes:
        _check_labels(public.labels, known.classes, "public labels")
    _other_cuts(parts, known, form, samples.values)  # before any training, for what is wrong
    if copies := len(given) - len(split):
        notes.append(f"{copies} of your {len(given)} samples equal others and were left out.")
    whole = True
    if known.untrained:
        told, whole = _train(known, training, seconds, seed, kept)
        notes.append(told)
    if public is None:
        public = own
        notes.append(
            f"The attacker's own samples are {len(own)} of yours, set aside: data of the very same "
            "kind, as in the worst case."
        )
    if len(aims) < targets:
        notes.append(f"The targets are {len(aims)}, a quarter of all, and not {targets} as asked.")
    sent = _first(known.client, [aims, held_out, training])
    smashed = networks.in_chunks(known.client, sent.images)
    return System(
        parts.name, form, View.of_activations(smashed, known.architecture, known.rest), len(aims),
        client=known.client, rest=known.rest, rest_architecture=known.rest_architecture,
        sent=sent, public=public, held_out=held_out, training=training, classes=known.classes,
        also=_other_cuts(parts, known, form, samples.values), notes=tuple(notes), is_taught=whole,
        trained=_whole(known).state_dict() if known.untrained else {}, taught_here=known.untrained,
        unseen=parts.unseen,
    )  # fmt: skip


def _networks(parts: Parts, form: Form, samples: Samples | None, seed: int) -> _Networks:
    """Build client and rest, and load the weights that there are."""
    assert parts.client is not None
    example = samples or parts.samples or parts.public
    assert example is not None
    inputs = example.values[:2]
    architecture = client_architecture(parts.client, form)
    client = architecture.build(seed, "victim").eval()
    made = activation_shape(bare(client), inputs, "the client")
    weights: dict[str, Tensor] | None = parts.weights
    untrained = () if weights or not client.state_dict() else ("client",)
    if weights:
        load_weights(bare(client), weights, "the client")
    if parts.rest is None:
        return _Networks(client, architecture, made, untrained=untrained)
    shape = tuple(as_features(torch.zeros(1, *made)).shape[1:])
    rest_architecture = rest_of(parts.rest, made, shape)
    rest = rest_architecture.build(seed, "victim's rest").eval()
    with torch.no_grad():
        logits = activation_shape(bare(rest), bare(client)(inputs.clone()), "the rest")
    if len(logits) != 1 or logits[0] < 2:
        raise ModelError(
            f"the rest makes {logits} of each sample; it must make one number for each class"
        )
    _check_labels(example.labels, logits[0])
    if weights and set(bare(rest).state_dict()) <= set(weights) - set(bare(client).state_dict()):
        load_weights(bare(rest), weights, "the rest")
    else:
        untrained = (*untrained, "rest")
    return _Networks(
        client, architecture, made, rest, rest_architecture, logits[0], untrained
    )  # fmt: skip


def _train(
    known: _Networks, split: Split, seconds: float, seed: int, kept: Kept | None
) -> tuple[str, bool]:
    """Train what has no weights, in place, from what was `kept` on.

    Returns how it went, in a sentence, and whether there was time to end it.
    """
    assert known.rest is not None
    begun = ""
    if kept is not None:
        load_weights(_whole(known), kept.weights, "the network that was trained here")
        if kept.is_taught:
            told = f"The network was trained in an earlier run, on {len(split)} of your samples."
            return told, True
        seed = seeds.derive(seed, repr([float(weight.sum()) for weight in kept.weights.values()]))
        begun = ", from where an earlier run left it"
    if len(split.labels.unique()) < 2:
        raise DataError("the labels must be of two classes at least to train on")
    if "client" in known.untrained:
        network, inputs, what = _whole(known), split.images, "Client and rest were"
    else:
        network, inputs = known.rest, networks.in_chunks(known.client, split.images)
        what = "The rest, behind the client's weights, was"
    steps, loss, whole = fit(network, inputs, split.labels, seconds=seconds, seed=seed)
    short = "" if whole else " The time was too short for it: it goes on if there is more."
    told = f"{steps:,} step{'s' * (steps > 1)}, last loss {loss:.2g}.{short}"
    return f"{what} trained here on {len(split)} of your samples{begun}: {told}", whole


def _classes_in(labels: Tensor | None) -> int:
    return 0 if labels is None else len(labels.unique())


def _whole(known: _Networks) -> nn.Sequential:
    """Client and rest together."""
    assert known.rest is not None
    return nn.Sequential(OrderedDict(client=known.client, rest=known.rest))


def _split(samples: Samples, form: Form) -> Split:
    """The samples as images in [0, 1], with the label -1 where there is none."""
    shape, count = tuple(samples.values.shape[1:]), len(samples.values)
    if shape != form.shape:
        raise DataError(f"samples of shape {shape} cannot be mixed with others of {form.shape}")
    labels = samples.labels
    if labels is not None and len(labels) != count:
        raise DataError(f"there are {count} samples and {len(labels)} labels; give one for each")
    unknown = torch.full((count,), UNKNOWN)
    return Split(form.pixels(samples.values), unknown if labels is None else labels)


def _truth(samples: Samples | None, form: Form, smashed: Tensor) -> Split | None:
    """The inputs of recorded activations, if they were given."""
    if samples is None:
        return None
    if len(samples.values) != len(smashed):
        raise DataError(
            f"there are {len(smashed)} activations and {len(samples.values)} samples; give those "
            "that were sent, in their order, or give what the attacker may have as public ones"
        )
    return _split(samples, form)


def _public(samples: Samples | None, form: Form, private: Split | None) -> Split | None:
    """The attacker's own samples, at most 5,000, without any that are private."""
    if samples is None:
        return None
    split = _split(samples, form)[:MOST_PUBLIC]
    return split if private is None else _without(split, private)


def _without(split: Split, private: Split) -> Split:
    """The samples of `split` that are not among the private ones, if any is left."""
    known = set(pixel_bytes(private.images, LEVELS))
    others = [image not in known for image in pixel_bytes(split.images, LEVELS)]
    if not any(others):
        raise DataError(
            "all public samples are among the private ones: give samples that the attacker may "
            "really have, or none, and some of yours are set aside"
        )
    return split[torch.tensor(others)]


def _distinct(split: Split) -> Split:
    """The samples without those that equal an earlier one."""
    found: dict[bytes, int] = {}
    for row, pixels in enumerate(pixel_bytes(split.images, LEVELS)):
        found.setdefault(pixels, row)
    return split[torch.tensor(sorted(found.values()))]


def _divide(
    split: Split, targets: int, training: bool, has_public: bool, seed: int
) -> tuple[Split, Split, Split, Split]:
    """Deal the samples out, in an order from (`seed`, "audit").

    Targets, at most a quarter of all; what the client trains on, the attacker has, and copies
    are scored on.
    """
    order = torch.randperm(len(split), generator=seeds.generator(seed, "audit"))
    aims, others = order.tensor_split([min(targets, max(1, len(split) // 4))])
    public = 0.0 if has_public else (PUBLIC if training else 0.5)
    held_out = HELD_OUT if training else 1 - public
    ends = torch.tensor([public, public + held_out]) * len(others)
    own, scored, learnt = others.tensor_split(ends.round().long().tolist())
    return split[aims], split[learnt], split[own], split[scored]


def _first(client: nn.Sequential, parts: Sequence[Split]) -> Split:
    """The first samples of `parts` whose activations are not too many."""
    together = Split(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    )
    with torch.no_grad():
        size = client(together.images[:1]).nbytes
    return together[: max(len(parts[0]), min(MOST_SENT, int(SENT_BYTES / size)))]


def _other_cuts(
    parts: Parts, known: _Networks, form: Form, samples: Tensor
) -> list[tuple[str, nn.Sequential]]:
    """Other fronts of the same network, with its weights, which are found by their names."""
    found = []
    weights = bare(known.client).state_dict()
    if known.rest is not None:
        weights = bare(known.rest).state_dict() | weights
    weights = weights | (parts.weights or {})
    for builder in parts.also:
        name = getattr(builder, "__name__", "another cut")
        front = client_architecture(builder, form).build(0, "other cut").eval()
        activation_shape(bare(front), samples[:2], name)
        load_weights(bare(front), weights, name)
        found.append((name, front))
    return found


def _check_labels(labels: Tensor | None, classes: int, what: str = "labels") -> None:
    if labels is not None and labels.max() >= classes:
        raise DataError(
            f"the {what} go up to {int(labels.max())}, and the rest knows {classes} classes, from "
            f"0 to {classes - 1}"
        )
