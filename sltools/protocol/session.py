"""A trained pair of parties: run it, look at what it sends, cut its network elsewhere."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sltools import devices, models, seeds
from sltools.data import Split, expect
from sltools.errors import ModelError, ProtocolError
from sltools.models import Architecture
from sltools.protocol.parties import Client, Server, exchange
from sltools.saved import Network, Unsaved
from sltools.transcript import Transcript
from sltools.view import View


@dataclass
class Session:
    """A trained pair of parties, with the record of their training.

    `losses` holds the mean over the batches of each whole epoch, without probes (NaN if a malicious
    server keeps it to itself), `transcript` the messages if they were recorded. `interrupted` says
    that Ctrl-C stopped the training.

    >>> from sltools import data, models
    >>> from sltools.protocol import train
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = train(front, rest, digits.train[:128], epochs=2, record=True)
    >>> session
    Session(2 epochs, Transcript(12 messages, 2,361,344 bytes))
    >>> session.losses[1] < session.losses[0], session.interrupted
    (True, False)
    >>> tuple(session.predict(digits.test.images[:5]).shape)
    (5, 10)
    """

    client: Client
    server: Server
    transcript: Transcript
    losses: list[float] = field(default_factory=list)
    interrupted: bool = False

    @classmethod
    def of(cls, client: Client, server: Server, images: Tensor) -> "Session":
        """Begin the session of two parties, with nothing on record; one of `images` is a sample.

        >>> from sltools import data, models
        >>> from sltools.protocol import Client, Server, Session
        >>> front, rest = models.cut(models.mnist_net(), "pool1")
        >>> images = data.load("digits").test.images[:3]
        >>> untrained = Session.of(Client(front), Server(rest), images)
        >>> tuple(untrained.observe(images).smashed.shape)
        (3, 8, 12, 12)
        """
        return cls(client, server, _transcript(client, server, images))

    def __repr__(self) -> str:
        return f"Session({len(self.losses)} epochs, {self.transcript})"

    def observe(self, images: Tensor, grants: Iterable[str] = ()) -> View:
        """Run an inference on `images` (N, C, H, W) and return the server's view of it.

        >>> from sltools import data, models
        >>> from sltools.protocol import train
        >>> digits = data.load("digits")
        >>> front, rest = models.cut(models.mnist_net(), "pool1")
        >>> session = train(front, rest, digits.train[:64], epochs=1)
        >>> view = session.observe(digits.test.images[:3])
        >>> view
        View(server: 2 messages of prediction, smashed)
        >>> tuple(view.smashed.shape)
        (3, 8, 12, 12)
        >>> session.observe(digits.test.images[:3], grants=["client_model"]).granted
        ('client_model',)
        """
        return self.infer(images).view("server", grants)

    def infer(self, images: Tensor, batch_size: int = 500) -> Transcript:
        """Run an inference and return its transcript.

        >>> from sltools import data, models
        >>> from sltools.protocol import train
        >>> digits = data.load("digits")
        >>> front, rest = models.cut(models.mnist_net(), "pool1")
        >>> session = train(front, rest, digits.train[:64], epochs=1)
        >>> for message in session.infer(digits.test.images[:3]).messages:
        ...     print(message)
        Message(step 0, client to server: smashed (3, 8, 12, 12), 13,824 bytes)
        Message(step 0, server to client: prediction (3, 10), 120 bytes)
        """
        transcript = _transcript(self.client, self.server, _check_batch(images))
        self._predict(images, batch_size, transcript)
        return transcript

    def predict(self, images: Tensor, batch_size: int = 500) -> Tensor:
        """Return the logits (N, classes) that the two parties compute together."""
        return self._predict(images, batch_size, None)

    def accuracy(self, split: Split) -> float:
        """Share of `split` that the two parties classify correctly, 0 to 1.

        >>> from sltools import data, models
        >>> from sltools.protocol import train
        >>> digits = data.load("digits")
        >>> front, rest = models.cut(models.mnist_net(), "pool1")
        >>> session = train(front, rest, digits.train, epochs=2)
        >>> session.accuracy(digits.test) > 0.5
        True
        """
        split = expect(Split, split)
        guess = self.predict(split.images).argmax(1).cpu()
        return (guess == split.labels.cpu()).double().mean().item()

    def _predict(self, images: Tensor, size: int, transcript: Transcript | None) -> Tensor:
        predictions = []
        device = devices.of(self.client.front)
        set_mode(self.client, self.server, training=False)
        for step, batch in enumerate(_check_batch(images).split(size)):
            for message in self.client.open(batch.to(device), step=step, batch=step):
                exchange(self.client, self.server, message, transcript)
            prediction = self.client.close().prediction
            if prediction is None:
                raise ProtocolError("the server did not answer the smashed data of an inference")
            predictions.append(prediction)
        return torch.cat(predictions)


def recut(session: Session, at: str | Sequence[str]) -> Session:
    """Return a session of the same trained network, cut after another stage (or two).

    It shows what another cut would have sent, without training again: the parts share their weights
    with those of `session`. Its record is empty and hooks stay behind. Raises ModelError for an
    unknown stage, and if the parts cannot be joined: two of their stages have one name, or a part
    does more than call its stages in order, so that the joined network gives another output.

    >>> from sltools import data, models, protocol
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> shallow = protocol.train(front, rest, digits.train, epochs=1)
    >>> deep = protocol.recut(shallow, "pool2")
    >>> images = digits.test.images[:3]
    >>> tuple(shallow.observe(images).smashed.shape), tuple(deep.observe(images).smashed.shape)
    ((3, 8, 12, 12), (3, 16, 4, 4))
    >>> deep.accuracy(digits.test) == shallow.accuracy(digits.test)
    True
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
    if not all(map(models.is_plain_sequential, parts)) and not _same_output(
        parts, net, session.client.input_shape
    ):
        raise ModelError(
            "the parts cannot be joined: one of them does more than call its stages in order (a "
            "`forward` or hooks of its own: a shortcut, a function between layers), and the joined "
            "network gives another output. Put what it does besides into a stage, and train again"
        )
    front, middle, *head = models.cut(net, at)
    return Session(Client(front, *head), Server(middle, label_private=bool(head)), Transcript())


def _same_output(
    parts: list[nn.Sequential], net: nn.Sequential, shape: Sequence[int] | None
) -> bool:
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


def _check_batch(images: Tensor) -> Tensor:
    """Return `images`, or raise ProtocolError if they are not a batch."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise ProtocolError(
            "an inference needs a tensor of images (N, C, H, W): take a split's `.images`, and "
            "`images[:1]` for a single one"
        )
    return images


def _transcript(client: Client, server: Server, images: Tensor) -> Transcript:
    models: dict[str, Network] = {"client": client.front, "server": server.model}
    front = _describe(client.front, images.shape[1:])
    return Transcript(front, _describe(client.head), models)


def _describe(
    part: nn.Sequential | None, shape: Sequence[int] = ()
) -> Architecture | Unsaved | None:
    """Describe a part for the transcript; one of unusual layers trains all the same."""
    try:
        return None if part is None else Architecture.of(part, shape)
    except ModelError as error:
        return Unsaved(str(error))


def parts(client: Client, server: Server) -> list[nn.Sequential]:
    """All parts of the network, whoever holds them."""
    held = [client.front, client.head, server.model]
    return [part for part in held if part is not None]


def set_mode(client: Client, server: Server, *, training: bool) -> None:
    """Put all parts into training or into evaluation mode."""
    for part in parts(client, server):
        part.train(training)
