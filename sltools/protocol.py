"""Split learning between two parties that exchange messages and nothing else.

Vanilla: the client sends z and the labels, the server replies with dL/dz.
Label-private (U-shaped): the client sends z, the server replies with features u, the client's head
returns dL/du, the server replies with dL/dz. The labels stay with the client.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam, Optimizer

from sltools import devices, models, seeds
from sltools.data import Split, expect
from sltools.errors import ModelError, ProtocolError
from sltools.messages import Message
from sltools.models import Architecture
from sltools.progress import bar
from sltools.saved import Network
from sltools.transcript import Transcript
from sltools.view import View

if TYPE_CHECKING:
    from sltools.detectors import Detector

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
Batch = tuple[Tensor, Tensor]

adam: MakeOptimizer = partial(Adam, lr=1e-3, amsgrad=True)  # as in the reference code


def _unchanged(gradient: Tensor, labels: Tensor) -> Tensor:
    return gradient


class Client:
    """Holds the data and the first layers; a label-private client also holds the last (`head`).

    Hooks: `outgoing(kind, tensor)` changes what is about to be sent, inside the client's own graph
    (noise, clipping, quantisation); `returning(gradient, labels)` changes dL/du before it is sent,
    where the change depends on the labels. `criterion(logits, labels)` is the loss at the head;
    `penalty(images, z)` a term of the client's own at the cut. `extra(step, images, labels)` yields
    batches to send after the real one and not to learn from. `detector` watches what the server
    returns, and may send a batch with labels of its own (a probe), which is not learned from.
    `optimizer(parameters)` makes the client's optimiser.

    Raises ProtocolError for a hook that cannot be called, and for a defence that would do nothing:
    of labels that are not sent, or of gradients that are not returned.
    """

    def __init__(
        self,
        front: nn.Sequential,
        head: nn.Sequential | None = None,
        *,
        optimizer: MakeOptimizer = adam,
        criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        penalty: Callable[[Tensor, Tensor], Tensor] | None = None,
        outgoing: Callable[[str, Tensor], Tensor] = lambda kind, tensor: tensor,
        returning: Callable[[Tensor, Tensor], Tensor] = _unchanged,
        extra: Callable[[int, Tensor, Tensor], Iterable[Batch]] = lambda *batch: (),
        detector: "Detector | None" = None,
    ) -> None:
        _check_hooks(criterion=criterion, penalty=penalty, outgoing=outgoing)
        _check_hooks(returning=returning, extra=extra, detector=detector)
        self.front = front
        self.head = head
        self.criterion = criterion
        self.penalty = penalty
        self.outgoing = outgoing
        self.returning = returning
        self.extra = extra
        self.detector = detector
        self._check_defenses()
        parts = nn.ModuleList([front] if head is None else [front, head])
        self.optimizer = optimizer(_weights(parts))
        self.input_shape: tuple[int, ...] | None = None  # (C, H, W) of the images met last
        self.prediction: Tensor | None = None
        self.loss: Tensor | None = None
        self.learning = True
        self._labels: Tensor | None = None
        self._smashed: Tensor | None = None
        self._penalty: Tensor | None = None

    def _check_defenses(self) -> None:
        """Raise ProtocolError if a hook waits for messages that this client never sends."""
        sent = {"smashed", "labels" if self.head is None else "feature_gradient"}
        idle: set[str] = getattr(self.outgoing, "kinds", set()) - sent
        if idle:
            which = "without a head" if self.head is None else "with a head"
            raise ProtocolError(
                f"{self.outgoing!r} would do nothing: a client {which} sends no "
                f"{min(idle).replace('_', ' ')}"
            )
        if self.head is None and self.returning is not _unchanged:
            raise ProtocolError(
                f"{self.returning!r} would do nothing: a client without a head returns no dL/du"
            )

    def open(
        self, images: Tensor, labels: Tensor | None = None, *, step: int = 0, batch: int = 0
    ) -> list[Message]:
        """Start an exchange about a batch and return the messages to send.

        `images` (B, C, H, W); `labels` (B,), or None for an inference.
        """
        self.optimizer.zero_grad()
        self.input_shape = tuple(images.shape[1:])
        self._labels = labels
        self._smashed = self.prediction = self.loss = None
        if labels is None:
            with torch.no_grad():
                smashed = self._defend("smashed", _apply(self.front, images, "client"))
            return [Message(step, batch, "smashed", smashed, "inference")]
        activations = _apply(self.front, images, "client")
        self._penalty = self._penalise(images, activations)
        self._smashed = self._defend("smashed", activations)
        if not self._smashed.requires_grad:
            raise ProtocolError(
                "the client cannot learn: all of its layers are frozen, or `outgoing` detached the "
                "smashed data from them"
            )
        messages = [Message(step, batch, "smashed", self._smashed)]
        if self.head is None:
            messages.insert(0, Message(step, batch, "labels", self._defend("labels", labels)))
        return messages

    def _defend(self, kind: str, tensor: Tensor) -> Tensor:
        """Return what the client's hook makes of a message."""
        return _tensor(self.outgoing(kind, tensor), "outgoing")

    def _penalise(self, images: Tensor, activations: Tensor) -> Tensor | None:
        if self.penalty is None:
            return None
        penalty = _tensor(self.penalty(images, activations), "penalty")
        if penalty.ndim:
            raise ProtocolError(
                f"penalty must return one number, not a tensor of shape {tuple(penalty.shape)}"
            )
        return penalty

    def reply(self, message: Message) -> Message | None:
        """Answer the server: dL/du to features, nothing to dL/dz or to a prediction."""
        if message.kind == "features" and self.head is not None:
            return self._apply_head(message)
        if message.kind == "cut_gradient":
            self._learn(message)
        elif message.kind == "prediction":
            self.prediction = message.payload
        else:
            raise ProtocolError(f"this client has no reply to {message}")
        return None

    def _apply_head(self, message: Message) -> Message | None:
        assert self.head is not None
        if message.phase == "inference":
            with torch.no_grad():
                self.prediction = _apply(self.head, message.payload, "client's head")
            return None
        if self.loss is not None:
            raise ProtocolError("the head answers once for each batch; the server asked it again")
        features = message.payload.requires_grad_()
        # A clone, because a first layer that works in place (ReLU) may not write to a leaf.
        logits = _apply(self.head, features.clone(), "client's head")
        labels = _expected(self._labels, message)
        self.loss = _loss(self.criterion, logits, labels)
        self.loss.backward()
        assert features.grad is not None
        gradient = _tensor(self.returning(features.grad, labels), "returning")
        gradient = self._defend("feature_gradient", gradient)
        return Message(message.step, message.batch, "feature_gradient", gradient)

    def _learn(self, message: Message) -> None:
        smashed = _differentiated(self._smashed, message)
        if self._penalty is None:
            smashed.backward(message.payload)
        else:  # one pass back: the two gradients add up at z, as they would in one network
            torch.autograd.backward([smashed, self._penalty], [message.payload, None])
        self._smashed = None  # one gradient for each batch
        if self.detector is not None:
            labels = _expected(self._labels, message)
            gradients = (weight.grad for weight in self.front.parameters())
            first = next(gradient for gradient in gradients if gradient is not None)
            self.detector.watch(labels, message.payload, first.clone(), probe=not self.learning)
        if self.learning:
            self.optimizer.step()

    def log_page(self) -> dict[str, Tensor]:
        """What the client computed in this exchange and did not send; read before the next one."""
        if self._labels is None:
            return {}
        page = {"labels": self._labels}
        layers = [] if self.head is None else self.head.modules()
        for last in [layer for layer in layers if isinstance(layer, nn.Linear)][-1:]:
            weights = {"head_weight_gradients": last.weight, "head_bias_gradients": last.bias}
            page |= {
                name: weight.grad
                for name, weight in weights.items()
                if weight is not None and weight.grad is not None
            }
        return {name: tensor.detach().clone() for name, tensor in page.items()}


class Server:
    """Holds the rest of the network and answers messages; an attacker overrides `reply`."""

    def __init__(
        self,
        model: nn.Sequential,
        *,
        optimizer: MakeOptimizer = adam,
        criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        label_private: bool = False,
    ) -> None:
        self.model = model
        self.criterion = criterion
        self.label_private = label_private
        self.optimizer = optimizer(_weights(model))
        self.loss: Tensor | None = None
        self._labels: Tensor | None = None
        self._smashed: Tensor | None = None
        self._features: Tensor | None = None

    def reply(self, message: Message) -> Message | None:
        """Answer the client: features or dL/dz to smashed data, dL/dz to dL/du."""
        if message.kind == "labels":
            self._labels = message.payload
            return None
        if message.kind == "feature_gradient":
            features, self._features = _differentiated(self._features, message), None
            return self._answer(message, features, message.payload)
        if message.kind != "smashed":
            raise ProtocolError(f"a server has no reply to {message}")
        if message.phase == "inference":
            kind = "features" if self.label_private else "prediction"
            with torch.no_grad():
                answer = _apply(self.model, message.payload, "server")
            return Message(message.step, message.batch, kind, answer, "inference")
        self._smashed = message.payload.requires_grad_()
        output = _apply(self.model, self._smashed.clone(), "server")  # see Client._apply_head
        if self.label_private:
            self._features = output
            return Message(message.step, message.batch, "features", output)
        labels, self._labels = _expected(self._labels, message), None
        self.loss = _loss(self.criterion, output, labels)
        return self._answer(message, self.loss, None)

    def _answer(self, message: Message, output: Tensor, gradient: Tensor | None) -> Message:
        """Propagate back from `output`, learn from it and return dL/dz."""
        self.optimizer.zero_grad()
        output.backward(gradient)
        self.optimizer.step()
        assert self._smashed is not None and self._smashed.grad is not None
        return Message(message.step, message.batch, "cut_gradient", self._smashed.grad)


def exchange(
    client: Client, server: Server, message: Message, transcript: Transcript | None
) -> None:
    """Carry `message`, and the replies to it, until a party has nothing to say.

    The receiver gets a copy: a sender that keeps its message cannot watch what becomes of it.
    """
    parties: dict[str, Client | Server] = {"client": client, "server": server}
    while True:
        if transcript is not None:
            transcript.append(message)
        reply = parties[message.receiver].reply(message.copy())
        if reply is None:
            return
        if (reply.sender, reply.phase) != (message.receiver, message.phase):
            raise ProtocolError(f"the {message.receiver} may not answer {message} with {reply}")
        message = reply


@dataclass
class Session:
    """A trained pair of parties, with the record of their training.

    `losses` holds the mean over the batches of each whole epoch, without probes (NaN if a malicious
    server keeps it to itself), `transcript` the messages if they were recorded. `interrupted` says
    that Ctrl-C stopped the training.
    """

    client: Client
    server: Server
    transcript: Transcript
    losses: list[float] = field(default_factory=list)
    interrupted: bool = False

    @classmethod
    def of(cls, client: Client, server: Server, images: Tensor) -> "Session":
        """Begin the session of two parties, with nothing on record; one of `images` is a sample."""
        return cls(client, server, _transcript(client, server, images))

    def __repr__(self) -> str:
        return f"Session({len(self.losses)} epochs, {self.transcript})"

    def observe(self, images: Tensor, grants: Iterable[str] = ()) -> View:
        """Run an inference on `images` (N, C, H, W) and return the server's view of it."""
        return self.infer(images).view("server", grants)

    def infer(self, images: Tensor, batch_size: int = 500) -> Transcript:
        """Run an inference and return its transcript; the client keeps the last prediction."""
        transcript = _transcript(self.client, self.server, _several(images))
        self._predict(images, batch_size, transcript)
        return transcript

    def predict(self, images: Tensor, batch_size: int = 500) -> Tensor:
        """Return the logits (N, classes) that the two parties compute together."""
        return self._predict(images, batch_size, None)

    def accuracy(self, split: Split) -> float:
        """Share of `split` that the two parties classify correctly, 0 to 1."""
        split = expect(Split, split)
        guess = self.predict(split.images).argmax(1).cpu()
        return (guess == split.labels.cpu()).double().mean().item()

    def _predict(self, images: Tensor, size: int, transcript: Transcript | None) -> Tensor:
        predictions = []
        device = devices.of(self.client.front)
        _set_mode(self.client, self.server, training=False)
        for step, batch in enumerate(_several(images).split(size)):
            for message in self.client.open(batch.to(device), step=step, batch=step):
                exchange(self.client, self.server, message, transcript)
            if self.client.prediction is None:
                raise ProtocolError("the server did not answer the smashed data of an inference")
            predictions.append(self.client.prediction)
        return torch.cat(predictions)


def train(
    client: Client | nn.Sequential,
    server: Server | nn.Sequential,
    split: Split,
    *,
    epochs: int = 5,
    batch_size: int = 64,
    seed: int = 0,
    record: bool = False,
    device: str | torch.device = "cpu",
) -> Session:
    """Train two parties on `split` by exchanging messages and return their session.

    Give parties, or the two parts of a cut network for vanilla split learning with the paper's
    settings (Adam with amsgrad, 1e-3, cross-entropy). The data order comes from the stream (`seed`,
    "order"). Parties may be trained on: they keep their optimisers. `record` keeps every message
    (memory: 2 x N x |z| floats for each epoch) and the client's log. Interrupting (Ctrl-C)
    returns the session as it stands, marked `interrupted`.
    """
    client = client if isinstance(client, Client) else Client(client)
    server = server if isinstance(server, Server) else Server(server)
    split = expect(Split, split)
    _check_parties(client, server, split, epochs, batch_size)
    _move(client, server, devices.find(device))
    session = Session.of(client, server, split.images)
    order = seeds.generator(seed, "order")
    transcript = session.transcript if record else None
    step = 0
    with bar(range(epochs), "training") as progress, seeds.scope(seed, "training"):
        try:
            for _ in progress:
                losses, first = [], step
                for rows in torch.randperm(len(split), generator=order).split(batch_size):
                    batch = split.images[rows].to(device), split.labels[rows].to(device)
                    loss, exchanges = _step(client, server, batch, step, step - first, transcript)
                    losses += loss
                    step += exchanges
                session.losses.append(torch.stack(losses).mean().item() if losses else math.nan)
                progress.set_postfix(loss=f"{session.losses[-1]:.3f}")
        except KeyboardInterrupt:
            session.interrupted = True
    return session


def recut(session: Session, at: str | Sequence[str]) -> Session:
    """Return a session of the same trained network, cut after another stage (or two).

    It shows what another cut would have sent, without training again: the parts share their weights
    with those of `session`. Its record is empty and hooks stay behind. Raises ModelError for an
    unknown stage, and if the parts cannot be joined: two of their stages have one name, or a part
    does more than call its stages in order, so that the joined network gives another output.
    """
    candidates = (session.client.front, session.server.model, session.client.head)
    parts = [part for part in candidates if part is not None]
    layers = [layer for part in parts for layer in part._modules.items()]
    net = nn.Sequential(OrderedDict(layers))
    if len(net) < len(layers):
        names = [name for name, _ in layers]
        raise ModelError(
            f"the parts cannot be joined: two of their stages have one name ({', '.join(names)}); "
            "name the stages of the network before you cut it"
        )
    if not all(map(models.in_order, parts)) and not _same(parts, net, session.client.input_shape):
        raise ModelError(
            "the parts cannot be joined: one of them does more than call its stages in order (a "
            "`forward` or hooks of its own: a shortcut, a function between layers), and the joined "
            "network gives another output. Put what it does besides into a stage, and train again"
        )
    front, middle, *head = models.cut(net, at)
    return Session(Client(front, *head), Server(middle, label_private=bool(head)), Transcript())


def _same(parts: list[nn.Sequential], net: nn.Sequential, shape: Sequence[int] | None) -> bool:
    """Say whether `net` gives what `parts` give one after another, for images of `shape`."""
    if shape is None:
        return False  # the client has met no image, so nothing can be compared
    stream = seeds.generator(0, "recut")
    images = torch.rand(2, *shape, generator=stream).to(devices.of(parts[0]))
    try:
        with torch.no_grad():
            wanted = nn.Sequential(*parts).eval()(images)
            return torch.allclose(net.eval()(images), wanted)
    except Exception:  # what a layer raises at another's output is its own affair
        return False


def _step(
    client: Client,
    server: Server,
    batch: Batch,
    step: int,
    number: int,
    transcript: Transcript | None,
) -> tuple[list[Tensor], int]:
    """One batch or the probe in its place, then the extra batches of the client's hook.

    All are numbered as one sequence: nothing on the wire tells a probe or an extra batch from a
    real one. Return the loss, in a list that is empty after a probe, and the number of exchanges.
    """
    images, labels = batch
    probe = None if client.detector is None else client.detector.probe(labels)
    exchanges = 1
    try:
        client.learning = probe is None
        sent = (images, labels if probe is None else probe)
        loss = _train_step(client, server, sent, step, number, transcript)
        client.learning = False
        for extra in client.extra(step, *batch):
            _train_step(client, server, extra, step + exchanges, number + exchanges, transcript)
            exchanges += 1
    finally:
        client.learning = True
    return [loss] if probe is None else [], exchanges


def _train_step(
    client: Client,
    server: Server,
    batch: Batch,
    step: int,
    number: int,
    transcript: Transcript | None,
) -> Tensor:
    """Carry out one exchange of the training and return its loss, NaN if no party knows it."""
    _set_mode(client, server, training=True)
    for message in client.open(*batch, step=step, batch=number):
        exchange(client, server, message, transcript)
    if transcript is not None:
        transcript.client_log[step] = client.log_page()
    loss = client.loss if client.head is not None else server.loss
    return torch.full((), torch.nan, device=batch[0].device) if loss is None else loss.detach()


def _expected(value: Tensor | None, message: Message) -> Tensor:
    """Return what an earlier message of the exchange must have left, or raise ProtocolError."""
    if value is None:
        raise ProtocolError(f"{message} came out of turn: the one it answers is missing")
    return value


def _differentiated(value: Tensor | None, message: Message) -> Tensor:
    """Return the tensor that a gradient `message` belongs to, or raise ProtocolError."""
    value = _expected(value, message)
    if message.payload.shape != value.shape:
        raise ProtocolError(
            f"{message} does not fit what it is the gradient of, which has {tuple(value.shape)}"
        )
    return value


def _apply(part: nn.Module, tensor: Tensor, holder: str) -> Tensor:
    """Run a party's part; raise ProtocolError if the tensor does not fit it."""
    try:
        result: Tensor = part(tensor)
    except (RuntimeError, ValueError) as error:
        raise ProtocolError(
            f"the {holder} cannot process a tensor of shape {tuple(tensor.shape)}: {error}"
        ) from None
    return result


def _loss(criterion: Callable[[Tensor, Tensor], Tensor], output: Tensor, labels: Tensor) -> Tensor:
    """Return the loss; raise ProtocolError for labels that the network has no output for."""
    try:
        return criterion(output, labels)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ProtocolError(
            f"there is no loss of an output of shape {tuple(output.shape)} and labels of shape "
            f"{tuple(labels.shape)}, dtype {labels.dtype}: {error}"
        ) from None


def _check_hooks(**hooks: Any) -> None:
    for name, hook in hooks.items():
        used = getattr(hook, "watch", hook)  # of a detector this is what is called
        if hook is not None and (isinstance(hook, type) or not callable(used)):
            raise ProtocolError(
                f"{name} must be a function or an object that is ready to use, not {hook!r}"
            )


def _tensor(value: Any, hook: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise ProtocolError(f"{hook} must return a tensor, not {value!r}")
    return value


def _weights(part: nn.Module) -> list[nn.Parameter]:
    weights = list(part.parameters())
    if not weights:
        raise ModelError("a party's part has no weights to train: cut the network elsewhere")
    return weights


def _several(images: Tensor) -> Tensor:
    """Return `images`, or raise ProtocolError if they are not a batch."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise ProtocolError(
            "an inference needs a tensor of images (N, C, H, W): take a split's `.images`, and "
            "`images[:1]` for a single one"
        )
    return images


def _transcript(client: Client, server: Server, images: Tensor) -> Transcript:
    models: dict[str, Network] = {"client": client.front, "server": server.model}
    front = _described(client.front, images.shape[1:])
    return Transcript(front, _described(client.head), models)


def _described(part: nn.Sequential | None, shape: Sequence[int] = ()) -> Architecture | None:
    """Describe a part for the transcript; one of unusual layers trains all the same."""
    try:
        return None if part is None else Architecture.of(part, shape)
    except ModelError:
        return None


def _parts(client: Client, server: Server) -> list[nn.Sequential]:
    parts = [client.front, client.head, server.model]
    return [part for part in parts if part is not None]


def _set_mode(client: Client, server: Server, *, training: bool) -> None:
    for part in _parts(client, server):
        part.train(training)


def _move(client: Client, server: Server, device: torch.device) -> None:
    """Move the parties, and what their optimisers remember, to `device`."""
    for part in _parts(client, server):
        part.to(device)
    for party in (client, server):
        party.optimizer.load_state_dict(party.optimizer.state_dict())


def _check_parties(
    client: Client, server: Server, split: Split, epochs: int, batch_size: int
) -> None:
    if (client.head is not None) != server.label_private:
        raise ProtocolError(
            "the parties disagree: a client with a head keeps its labels and needs "
            "Server(..., label_private=True); a client without one needs label_private=False"
        )
    if len(split) == 0 or epochs < 1 or batch_size < 1:
        raise ProtocolError(
            f"nothing to train: {len(split)} images, {epochs} epochs, batches of {batch_size}; "
            "all must be at least 1"
        )
