"""What a party may look at. An attack is given a view, never a victim.

The server of split learning sees the smashed data, the gradients it is sent, its own model and, by
the assumption of the paper, the client's architecture. Whatever an attack reads here is noted and
named in its result. Anything more must be granted by name, so that every result says what it costs
the attacker. A type guards against mistakes, not against hostile Python.
"""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sltools import saved, storage
from sltools.errors import AttackError, NotObservable, SltoolsError
from sltools.messages import Message, pack, unpack
from sltools.models import Architecture
from sltools.saved import Network, Unsaved

if TYPE_CHECKING:
    from sltools.transcript import Transcript

PARTIES = ("server", "client")
GRANTS = {
    "client_model": "the client keeps its trained weights and never sends them",
    "head_weight_gradients": "a label-private client keeps its head and sends only dL/du, the "
    "gradient with respect to the features; the gradient of its last layer's weights stays with it",
    "head_bias_gradients": "a label-private client keeps its head and sends only dL/du, the "
    "gradient with respect to the features; the gradient of its last layer's bias stays with it",
    "anchor_labels": "the client tells nobody a label, not even one per class",
}
SECRETS = {
    "images": "split learning never sends the inputs, only their activations at the cut",
    "inputs": "split learning never sends the inputs, only their activations at the cut",
    "client_weights": GRANTS["client_model"],
    "client_log": "what a party computed and kept to itself is not for the other to read",
}
UNKNOWN = (
    "there is none, or none that an nn.Sequential of torch.nn layers describes, which is what a "
    "search for inputs needs; a DecoderInversion does without"
)
ABSENT = {
    "labels": "the labels stay with the client: label-private training never sends them, and at "
    "inference nobody does",
    "smashed": "none crossed the wire here, or it was not recorded: train with record=True",
    "features": "only a server in label-private split learning sends features to the client's head",
    "feature_gradient": "only a training client that holds the head returns dL/du; at inference "
    "and in vanilla split learning there is no such message",
    "cut_gradient": "the server returns dL/dz in training only",
    "prediction": "the server sends predictions at inference in vanilla split learning only",
}


class View:
    """What `party` may look at, made by `Transcript.view` or `View.open`.

    Raises NotObservable for a party that there is not.

    `knowledge` names what was read so far, `granted` what was granted beyond the wire. Only what is
    read through the properties is noted; names with an underscore are not for attacks.

    >>> from sltools import data, models, protocol
    >>> images = data.load("digits").train[:64]
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, images, epochs=1)
    >>> view = session.observe(images.images[:5])
    >>> tuple(view.smashed.shape), view.architecture
    ((5, 8, 12, 12), Architecture(conv1, relu1, pool1; 208 parameters, no weights))
    >>> view.knowledge
    ('client architecture', 'smashed')
    >>> view.client_model  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    sltools.errors.NotObservable: the server cannot see client_model: the client keeps its ...
    >>> session.observe(images.images[:5], grants=["client_model"]).granted
    ('client_model',)
    """

    def __init__(
        self,
        party: str,
        messages: Iterable[Message],
        client: Architecture | Unsaved | None = None,
        head: Architecture | Unsaved | None = None,
        own_model: Network | None = None,
        grants: dict[str, Any] | None = None,
    ) -> None:
        if party not in PARTIES:
            raise NotObservable(f"the parties are 'server' and 'client', not {party!r}")
        self.party = party
        self._messages = tuple(messages)
        self._client = client
        self._head = head
        self._own_model = own_model
        self._grants = grants or {}
        self._used: set[str] = set()

    @classmethod
    def of(cls, transcript: "Transcript", party: str, grants: Iterable[str]) -> "View":
        """Make the view of `party`; see `Transcript.view`."""
        if isinstance(grants, str):
            raise NotObservable(
                f"no grant is called {grants!r} by itself: give a list, such as [{grants!r}]; "
                f"there are {', '.join(GRANTS)}"
            )
        grants = tuple(grants)
        for name in grants:
            if name not in GRANTS:
                raise NotObservable(f"no grant is called {name!r}; there are {', '.join(GRANTS)}")
        values = {name: _grant(transcript, name) for name in grants}
        own = copy.deepcopy(transcript.models.get(party))
        messages = [message.copy() for message in transcript.messages]
        return cls(party, messages, transcript.client, transcript.head, own, values)

    @classmethod
    def of_activations(
        cls,
        smashed: Tensor,
        architecture: Architecture | None = None,
        model: nn.Sequential | None = None,
    ) -> "View":
        """Make the server's view of activations (N, ...) that were recorded elsewhere.

        `architecture` is that of the client, if the server knows it, and `model` the server's own
        part. Raises AttackError for what are no activations, are not finite, or have another
        shape than the architecture makes.

        >>> import torch
        >>> from sltools.view import View
        >>> View.of_activations(torch.rand(5, 8, 12, 12))
        View(server: 1 messages of smashed)
        """
        if not isinstance(smashed, Tensor) or smashed.ndim < 2 or not smashed.is_floating_point():
            what = tuple(smashed.shape) if isinstance(smashed, Tensor) else type(smashed).__name__
            raise AttackError(
                f"activations are a tensor of floats (N, ...), one row for each sample, not {what}"
            )
        if not smashed.isfinite().all():
            raise AttackError("the activations contain NaN or infinite values: record them again")
        if architecture is not None and architecture.input_shape:
            _check_fit(smashed, architecture)
        message = Message(0, 0, "smashed", smashed, "inference")
        return cls("server", [message], architecture, own_model=copy.deepcopy(model))

    @property
    def smashed(self) -> Tensor:
        """z, the activations at the cut, of all messages joined: (N, ...)."""
        return torch.cat(self._found("smashed"))

    @property
    def features(self) -> Tensor:
        """u, what the server sent to the client's head, joined: (N, D)."""
        return torch.cat(self._found("features"))

    @property
    def feature_gradients(self) -> Tensor:
        """dL/du, what the client's head returned, joined: (N, D); L is a mean over its batch."""
        return torch.cat(self._found("feature_gradient"))

    @property
    def cut_gradients(self) -> Tensor:
        """dL/dz, what the server returned, joined: (N, ...); L is a mean over its batch."""
        return torch.cat(self._found("cut_gradient"))

    @property
    def labels(self) -> Tensor:
        """The labels a vanilla client sent in training, joined: (N,)."""
        return torch.cat(self._found("labels"))

    @property
    def architecture(self) -> Architecture:
        """The shape of the client's part below the cut, without weights."""
        return self._known("client architecture", self._client)

    @property
    def head_architecture(self) -> Architecture:
        """The shape of a label-private client's head, without weights."""
        return self._known("head architecture", self._head)

    @property
    def model(self) -> nn.Sequential:
        """A copy of the party's own network, as it was when the view was made."""
        return copy.deepcopy(self._known("own model", self._own_model))

    @property
    def client_model(self) -> nn.Sequential:
        """Grant: a copy of the client's trained network below the cut."""
        return copy.deepcopy(self._granted("client_model"))

    @property
    def head_weight_gradients(self) -> list[Tensor]:
        """Grant: the gradient of the head's last weight matrix, one (classes, D) for each batch."""
        return _copies(self._granted("head_weight_gradients").values())

    @property
    def head_bias_gradients(self) -> list[Tensor]:
        """Grant: the gradient of the head's last bias, one (classes,) for each batch."""
        return _copies(self._granted("head_bias_gradients").values())

    @property
    def anchor_labels(self) -> Tensor:
        """Grant: the label of the first sample of each class, -1 for all others: (N,)."""
        return torch.cat(list(self._granted("anchor_labels").values()))

    def payloads(self, kind: str) -> list[Tensor]:
        """Copies of all payloads of one kind, in order; NotObservable if there are none."""
        return _copies(self._found(kind))

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of message there are; only reading their payloads counts as knowledge."""
        return frozenset(message.kind for message in self._messages)

    def _found(self, kind: str) -> list[Tensor]:
        found = [message.payload for message in self._messages if message.kind == kind]
        if not found:
            rule = ABSENT.get(kind, f"no message is called {kind!r}; there are {list(ABSENT)}")
            if kind in ABSENT and not self._messages:
                rule = "nothing is on record here: train with record=True"
            raise NotObservable(f"the {self.party} cannot see {kind}: {rule}")
        self._used.add(kind.replace("_", " "))
        return found

    def window(self, start: int, stop: int) -> "View":
        """The part of this view that lies in the steps start <= step < stop.

        What is read from it is noted in this view too.

        >>> from sltools import data, models, protocol
        >>> split = data.load("digits").train[:128]
        >>> front, rest = models.cut(models.mnist_net(), "pool1")
        >>> view = protocol.train(front, rest, split, epochs=1, record=True).transcript.view()
        >>> tuple(view.labels.shape), tuple(view.window(0, 1).labels.shape)
        ((128,), (64,))
        """
        messages = [message for message in self._messages if start <= message.step < stop]
        grants = {
            name: value
            if name == "client_model"
            else {step: tensor for step, tensor in value.items() if start <= step < stop}
            for name, value in self._grants.items()
        }
        part = View(self.party, messages, self._client, self._head, self._own_model, grants)
        part._used = self._used
        return part

    def fresh(self) -> "View":
        """The same view with nothing noted as used."""
        return View(
            self.party, self._messages, self._client, self._head, self._own_model, self._grants
        )

    @property
    def granted(self) -> tuple[str, ...]:
        """The names of what was granted beyond the wire."""
        return tuple(sorted(self._grants))

    @property
    def knowledge(self) -> tuple[str, ...]:
        """What was read from this view so far; what was granted is marked as such."""
        return tuple(sorted(self._used))

    def save(self, folder: str | Path) -> Path:
        """Write the view into a new `folder`; another process opens it with `View.open`.

        A network of other than `torch.nn` layers is left out: who asks for it later is told so.

        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from sltools import data, models, protocol
        >>> from sltools.view import View
        >>> split = data.load("digits").train[:64]
        >>> front, rest = models.cut(models.mnist_net(), "pool1")
        >>> view = protocol.train(front, rest, split, epochs=1, record=True).transcript.view()
        >>> with TemporaryDirectory() as folder:
        ...     View.open(view.save(Path(folder) / "seen"))
        View(server: 3 messages of cut_gradient, labels, smashed)
        """
        tensors, messages = pack(self._messages)
        networks = {"own_model": self._own_model, "client_model": self._grants.get("client_model")}
        packed = {name: saved.pack(name, net) for name, net in networks.items() if net is not None}
        for weights, _ in packed.values():
            tensors |= weights
        steps = {name: value for name, value in self._grants.items() if name != "client_model"}
        for name, value in steps.items():
            tensors |= {f"{name}/{step}": tensor for step, tensor in value.items()}
        facts = {
            "party": self.party,
            "messages": messages,
            "client": saved.pack_architecture(self._client),
            "head": saved.pack_architecture(self._head),
            "networks": {name: network for name, (_, network) in packed.items()},
            "granted_steps": {name: list(value) for name, value in steps.items()},
        }
        return storage.write(folder, tensors, facts)

    @classmethod
    def open(cls, folder: str | Path) -> "View":
        """Read a saved view; raise SltoolsError if it is missing or damaged."""
        return cls(**read_view(folder))

    def _known(self, name: str, value: Any) -> Any:
        if value is None:
            raise NotObservable(f"this transcript says nothing of the {name}: {UNKNOWN}")
        if name.endswith("architecture") and isinstance(value, Unsaved):
            raise NotObservable(
                f"this transcript says nothing of the {name}: {value}; a DecoderInversion does "
                "without, and so do PCAT and FORA, with images of one's own"
            )
        _check_saved(name, value)
        self._used.add(name)
        return value

    def _granted(self, name: str) -> Any:
        if name not in self._grants:
            raise NotObservable(
                f"the {self.party} cannot see {name}: {GRANTS[name]}. To study an attacker who has "
                f"it all the same, grant it by name: view(..., grants=[{name!r}])"
            )
        if not self._grants[name]:
            raise NotObservable(f"{name} was granted, but there is none in these steps")
        _check_saved(name, self._grants[name])
        self._used.add(f"{name.replace('_', ' ')} (granted)")
        return self._grants[name]

    def __getattr__(self, name: str) -> Any:
        if name in SECRETS:
            raise NotObservable(f"the {self.party} cannot see {name}: {SECRETS[name]}")
        raise AttributeError(f"a view has no {name!r}")

    def __repr__(self) -> str:
        granted = f"; granted: {', '.join(self.granted)}" if self._grants else ""
        messages = f"{len(self._messages)} messages of {', '.join(sorted(self.kinds))}"
        return f"View({self.party}: {messages}{granted})"


def _check_fit(smashed: Tensor, architecture: Architecture) -> None:
    """Raise AttackError unless `architecture` makes activations of the shape of `smashed`."""
    inputs = torch.zeros(1, *architecture.input_shape)
    try:
        with torch.no_grad():
            made = architecture.build(0).eval()(inputs)
    except RuntimeError as error:
        raise AttackError(f"the architecture does not take its inputs: {error}") from None
    if made.shape[1:] != smashed.shape[1:]:
        raise AttackError(
            f"the activations are {tuple(smashed.shape[1:])} for each sample, and the architecture "
            f"makes {tuple(made.shape[1:])}: are they of this network, at this cut?"
        )


def fresh(view: View) -> View:
    """Return `view` with nothing noted as used; raise AttackError if it is none."""
    if not isinstance(view, View):
        raise AttackError(
            f"an attack looks at a view, not at a {type(view).__name__}: take "
            "session.observe(images) or transcript.view()"
        )
    return view.fresh()


def as_server(view: View) -> View:
    """Return `view` as `fresh` does; raise AttackError unless it is the server's."""
    view = fresh(view)
    if view.party != "server":
        raise AttackError("this is an attack by the server: take the server's view")
    return view


def read_view(folder: str | Path) -> dict[str, Any]:
    """Read what `View.save` wrote, as arguments of `View`; raise SltoolsError if damaged."""
    tensors, facts = storage.read(folder)
    try:
        networks = {
            # An earlier release wrote a network's layers alone.
            name: saved.unpack(name, tensors, {"layers": net} if isinstance(net, str) else net)
            for name, net in facts["networks"].items()
        }
        grants: dict[str, Any] = {
            name: {step: tensors[f"{name}/{step}"] for step in steps}
            for name, steps in facts["granted_steps"].items()
        }
        own_model = networks.pop("own_model", None)
        if facts["party"] not in PARTIES or not set(grants | networks) <= set(GRANTS):
            raise ValueError("unknown party or grant")
        return {
            "party": facts["party"],
            "messages": unpack(tensors, facts["messages"]),
            "client": saved.unpack_architecture(facts["client"]),
            "head": saved.unpack_architecture(facts["head"]),
            "own_model": own_model,
            "grants": grants | networks,
        }
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        instead = saved.other_kind("View", tensors, facts) or repr(error)
        raise SltoolsError(f"{folder} does not hold a view or is damaged: {instead}") from None


def _check_saved(name: str, value: Any) -> None:
    """Raise NotObservable if `value` stands for a network that could not be saved."""
    if isinstance(value, Unsaved):
        raise NotObservable(
            f"the {name.replace('_', ' ')} is not among what was saved here: {value}"
        )


def _grant(transcript: "Transcript", name: str) -> Any:
    """Fetch what `name` grants from the other party: a network, or tensors by step."""
    if name == "client_model":
        value: Any = transcript.models.get("client")
        value = value and saved.without_sample_gradients(value)
    elif name == "anchor_labels":
        value = _anchors({step: page["labels"] for step, page in transcript.client_log.items()})
    else:
        value = {step: page[name] for step, page in transcript.client_log.items() if name in page}
    if not value:
        raise NotObservable(
            f"{name} cannot be granted, it is not on record: the gradients and the labels need a "
            "training with record=True, the gradients a client with a linear layer in its head; "
            "a saved view has only what it was granted"
        )
    return value


def _anchors(labels: dict[int, Tensor]) -> dict[int, Tensor]:
    """Keep the first label of each class and replace all others by -1."""
    seen: set[int] = set()
    anchors = {}
    for step, batch in labels.items():
        kept = torch.full_like(batch, -1)
        for row, label in enumerate(batch.tolist()):
            if label not in seen:
                seen.add(label)
                kept[row] = label
        anchors[step] = kept
    return anchors


def _copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copy tensors, so that nobody who works on them in place changes what the next one reads."""
    return [tensor.clone() for tensor in tensors]
