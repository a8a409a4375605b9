"""The two parties of split learning, and the exchange of messages between them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sltools.errors import ModelError, ProtocolError
from sltools.messages import Message
from sltools.protocol.optimizers import MakeOptimizer, adam
from sltools.transcript import Transcript

Batch = tuple[Tensor, Tensor]


def _unchanged(gradient: Tensor, labels: Tensor) -> Tensor:
    return gradient


class Detector(Protocol):
    """What a client asks of a detector; `sltools.detectors` has some, with alarms and scores.

    >>> from sltools.detectors import LabelGap
    >>> from sltools.protocol import Client, Detector
    >>> from sltools import models
    >>> detector: Detector = LabelGap()
    >>> client = Client(models.cut(models.mnist_net(), "pool1")[0], detector=detector)
    >>> client.detector.raised_at is None
    True
    """

    def probe(self, labels: Tensor) -> Tensor | None:
        """Return false labels to send in place of `labels` (B,), or None to leave the batch."""

    def watch(
        self, labels: Tensor, cut_gradient: Tensor, weight_gradient: Tensor, *, probe: bool
    ) -> None:
        """Take note of one exchange, after the backward pass and before the client's step."""


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

    >>> from sltools import data, models
    >>> from sltools.defenses import GaussianNoise
    >>> from sltools.protocol import Client
    >>> batch = data.load("digits").train[:4]
    >>> front, middle, head = models.cut(models.mnist_net(), ("pool1", "relu4"))
    >>> vanilla = Client(front)
    >>> for message in vanilla.open(batch.images, batch.labels):
    ...     print(message)
    Message(step 0, client to server: labels (4,), 32 bytes)
    Message(step 0, client to server: smashed (4, 8, 12, 12), 18,432 bytes)
    >>> private = Client(front, head, outgoing=GaussianNoise(0.5))  # keeps its labels
    >>> for message in private.open(batch.images, batch.labels):
    ...     print(message)
    Message(step 0, client to server: smashed (4, 8, 12, 12), 18,432 bytes)
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
        detector: Detector | None = None,
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
        self._prediction: Tensor | None = None
        self._loss: Tensor | None = None
        self._learning = True
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
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        step: int = 0,
        batch: int = 0,
        learn: bool = True,
    ) -> list[Message]:
        """Start an exchange about a batch and return the messages to send.

        `images` (B, C, H, W); `labels` (B,), or None for an inference. Without `learn` it looks
        like training to the server, and leaves the client's weights as they are.
        """
        self.optimizer.zero_grad()
        self.input_shape = tuple(images.shape[1:])
        self._labels, self._learning = labels, learn
        self._smashed = self._prediction = self._loss = None
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
            self._prediction = message.payload
        else:
            raise ProtocolError(f"this client has no reply to {message}")
        return None

    def _apply_head(self, message: Message) -> Message | None:
        assert self.head is not None
        if message.phase == "inference":
            with torch.no_grad():
                self._prediction = _apply(self.head, message.payload, "client's head")
            return None
        if self._loss is not None:
            raise ProtocolError("the head answers once for each batch; the server asked it again")
        features = message.payload.requires_grad_()
        # A clone, because a first layer that works in place (ReLU) may not write to a leaf.
        logits = _apply(self.head, features.clone(), "client's head")
        labels = _require(self._labels, message)
        self._loss = _loss(self.criterion, logits, labels)
        self._loss.backward()
        assert features.grad is not None
        gradient = _tensor(self.returning(features.grad, labels), "returning")
        gradient = self._defend("feature_gradient", gradient)
        return Message(message.step, message.batch, "feature_gradient", gradient)

    def _learn(self, message: Message) -> None:
        smashed = _check_gradient(self._smashed, message)
        if self._penalty is None:
            smashed.backward(message.payload)
        else:  # one pass back: the two gradients add up at z, as they would in one network
            torch.autograd.backward([smashed, self._penalty], [message.payload, None])
        self._smashed = None  # one gradient for each batch
        if self.detector is not None:
            labels = _require(self._labels, message)
            gradients = (weight.grad for weight in self.front.parameters())
            first = next(gradient for gradient in gradients if gradient is not None)
            self.detector.watch(labels, message.payload, first.clone(), probe=not self._learning)
        if self._learning:
            self.optimizer.step()

    def close(self) -> "ClientOutput":
        """End an exchange and return what the client computed in it and did not send."""
        return ClientOutput(self._loss, self._prediction)

    def log_entry(self) -> dict[str, Tensor]:
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


@dataclass(frozen=True)
class ClientOutput:
    """What came out of an exchange at the client.

    `loss` is that of a client with a head, in training; `prediction` the logits (B, classes) of an
    inference. None where there is none.

    >>> from sltools import data, models
    >>> from sltools.protocol import Client, Server, exchange
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> client, server = Client(front), Server(rest)
    >>> for message in client.open(data.load("digits").test.images[:3]):
    ...     exchange(client, server, message, None)
    >>> computed = client.close()
    >>> tuple(computed.prediction.shape), computed.loss
    ((3, 10), None)
    """

    loss: Tensor | None = None
    prediction: Tensor | None = None


class Server:
    """Holds the rest of the network and answers messages; an attacker overrides `reply`.

    >>> from sltools import data, models
    >>> from sltools.protocol import Server, train
    >>> class Curious(Server):  # honest in what it answers, and keeps what it is sent
    ...     seen = 0
    ...
    ...     def reply(self, message):
    ...         self.seen += message.nbytes
    ...         return super().reply(message)
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> server = Curious(rest)
    >>> session = train(front, server, data.load("digits").train[:64], epochs=1)
    >>> f"{server.seen:,} bytes"
    '295,424 bytes'
    """

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
            features, self._features = _check_gradient(self._features, message), None
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
        labels, self._labels = _require(self._labels, message), None
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

    >>> from sltools import data, models
    >>> from sltools.protocol import Client, Server, exchange
    >>> from sltools.transcript import Transcript
    >>> front, middle, head = models.cut(models.mnist_net(), ("pool1", "relu4"))
    >>> client, server = Client(front, head), Server(middle, label_private=True)
    >>> batch, transcript = data.load("digits").train[:4], Transcript()
    >>> for message in client.open(batch.images, batch.labels):
    ...     _ = exchange(client, server, message, transcript)
    >>> for message in transcript.messages:
    ...     print(message)
    Message(step 0, client to server: smashed (4, 8, 12, 12), 18,432 bytes)
    Message(step 0, server to client: features (4, 84), 1,344 bytes)
    Message(step 0, client to server: feature_gradient (4, 84), 1,344 bytes)
    Message(step 0, server to client: cut_gradient (4, 8, 12, 12), 18,432 bytes)
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


def _require(value: Tensor | None, message: Message) -> Tensor:
    """Return what an earlier message of the exchange must have left, or raise ProtocolError."""
    if value is None:
        raise ProtocolError(f"{message} came out of turn: the one it answers is missing")
    return value


def _check_gradient(value: Tensor | None, message: Message) -> Tensor:
    """Return the tensor that a gradient `message` belongs to, or raise ProtocolError."""
    value = _require(value, message)
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
        # Of a detector two methods are called, of the others they themselves.
        calls = ("probe", "watch") if name == "detector" else ("__call__",)
        ready = all(callable(getattr(hook, call, None)) for call in calls)
        if hook is not None and (isinstance(hook, type) or not ready):
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
