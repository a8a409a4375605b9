"""Dullahan: a backdoor that the server puts into its own layers once the training is over."""

import copy
import time
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from sltools import seeds
from sltools.attacks import networks
from sltools.attacks.inversion import as_targets
from sltools.attacks.result import Provenance
from sltools.attacks.trigger import Trigger
from sltools.errors import AttackError
from sltools.interrupts import keep_partial
from sltools.progress import bar
from sltools.validation import attack_check
from sltools.view import View, as_server


@dataclass(eq=False)
class BackdoorResult(Provenance):
    """The server's layers with a backdoor, in evaluation mode: what it serves with from now on.

    `metrics.attack_success` and `metrics.accuracy` score them behind the client's own layers.

    >>> import torch
    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import Dullahan, Trigger
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, digits.train[:64], epochs=1)
    >>> view = session.observe(digits.train.images[:64], grants=["client_model"])
    >>> found = Dullahan(steps=2)(view, digits.test.images, Trigger(target=7))
    >>> found.settings["trigger"]["target"], torch.equal(found.model[0].weight, rest[0].weight)
    (7, False)
    """

    model: nn.Sequential = field(repr=False)


@dataclass(frozen=True)
class Dullahan:
    """A trigger put into the server's layers after an honest training (Pu et al., 2405.12751).

    The server has images of its own, and a `front` in place of the client's: a surrogate
    (`PCAT(...)(view, own).clone`), UnSplit's clone, or the client's own, if granted: a bound. For
    `steps` steps of Adam at `lr` it teaches a copy of its layers two things at once: what the front
    makes of `batch` images with the trigger is of the target class, and all else stays as it was,
    with the weight `keep`: what the honest layers made of as many smashed data of the client's, and
    of the images without the trigger. Where the client keeps its head, a `head` of the server's own
    takes its place (PCAT finds one).

    Nothing is sent that an honest server would not have sent, so no detector that watches the
    training can see it. (The paper picks an embedding of the trigger by statistics; that is left
    out here, for we know the abstract only.)

    Images come from the stream (`seed`, "auxiliary order"), the client's smashed data from
    (`seed`, "traffic order"). Raises AttackError for a senseless setting and for images, layers or
    a target that do not fit.

    >>> from torch import nn
    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import Dullahan, Trigger
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, digits.train, epochs=3)
    >>> view = session.observe(digits.train.images[:200], grants=["client_model"])
    >>> trigger = Trigger(target=7)
    >>> found = Dullahan(steps=100)(view, digits.test.images[:100], trigger)
    >>> found.knowledge
    ('client model (granted)', 'own model', 'smashed', 'images (100)')
    >>> poisoned = nn.Sequential(front, found.model)
    >>> metrics.attack_success(poisoned, digits.test[100:], 7, trigger.stamp) > 0.8
    True
    """

    steps: int = 400
    batch: int = 64
    lr: float = 3e-3
    keep: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            attack_check.integer(name, getattr(self, name))
        attack_check.positive("lr", self.lr)
        attack_check.non_negative("keep", self.keep)
        attack_check.seed(self.seed)

    def __call__(
        self,
        view: View,
        images: Tensor,
        trigger: Trigger,
        *,
        front: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> BackdoorResult:
        """Put `trigger` into the layers that `view` shows, with `images` (N, C, H, W) in [0, 1].

        The images may be UnSplit's own reconstructions. Ctrl-C returns the partial result, marked
        `interrupted`. NotObservable without a `front` or its grant.
        """
        view, start = as_server(view), time.perf_counter()
        networks.check_images(images, what="images")
        networks.check_smashed(view.smashed)
        sent, honest = as_targets(view.smashed), view.model
        check_head(head, private="features" in view.kinds)
        stand_ins = {"client": front, "head": head}
        front = copy.deepcopy(view.client_model if front is None else front).to(sent)
        clean, stamped = (_made(front, some.to(sent)) for some in (images, trigger.stamp(images)))
        networks.check_smashed(sent, clean.shape[1:])
        lesson = _Lesson(self, honest.to(sent), head, sent, clean, stamped, trigger.target)
        with keep_partial() as work:
            for _ in bar(range(self.steps), type(self).__name__):
                lesson.learn()
        return BackdoorResult(
            lesson.model.eval(),
            attack=type(self).__name__,
            settings=asdict(self) | {"trigger": asdict(trigger)},
            knowledge=(
                *view.knowledge,
                *(f"surrogate of the {name}" for name, net in stand_ins.items() if net is not None),
                f"images ({len(images)})",
            ),
            seed=self.seed,
            device=str(sent.device),
            seconds=time.perf_counter() - start,
            interrupted=work.interrupted,
        )


class _Lesson:
    """What the copy of the layers is taught, batch by batch: smashed data and what they become.

    `sent` are the client's, `clean` and `stamped` (N, ...) the front's, of the same images.
    """

    def __init__(
        self,
        settings: Dullahan,
        honest: nn.Sequential,
        head: nn.Module | None,
        sent: Tensor,
        clean: Tensor,
        stamped: Tensor,
        target: int,
    ) -> None:
        self.settings, self.model = settings, copy.deepcopy(honest).eval().requires_grad_(True)
        self._head = nn.Identity() if head is None else copy.deepcopy(head).to(sent).eval()
        honest.eval()
        self._known = torch.cat([sent, clean])
        usual = networks.in_chunks(nn.Sequential(honest, self._head), self._known.clone())
        self._first_own = len(sent)
        self._stamped, self._target = stamped, target
        if usual.ndim != 2 or usual.shape[1] <= target:
            raise AttackError(
                f"the target is class {target}, and the network answers {tuple(usual.shape[1:])}: "
                "choose a class that it has"
            )
        self._usual = usual.softmax(1)
        self._order = seeds.generator(settings.seed, "auxiliary order")
        self._traffic = seeds.generator(settings.seed, "traffic order")
        self._optimizer = Adam(self.model.parameters(), settings.lr)

    def learn(self) -> None:
        """Take one step."""
        rows = self._drawn(len(self._stamped), self._order)
        client = self._drawn(self._first_own, self._traffic)
        kept = torch.cat([client, self._first_own + rows])
        made = self.model(torch.cat([self._stamped[rows], self._known[kept]]))
        logits = self._head(made)
        target = rows.new_full((len(rows),), self._target)
        implant = cross_entropy(logits[: len(rows)], target)
        keep = cross_entropy(logits[len(rows) :], self._usual[kept])
        self._optimizer.zero_grad()
        (implant + self.settings.keep * keep).backward()
        self._optimizer.step()

    def _drawn(self, count: int, draw: torch.Generator) -> Tensor:
        """A batch of row numbers below `count`, with replacement."""
        rows = torch.randint(count, (self.settings.batch,), generator=draw)
        return rows.to(self._known.device)


def check_head(head: nn.Module | None, *, private: bool) -> None:
    """Raise AttackError unless there is a `head` for a label-private client, and for no other."""
    if private and head is None:
        raise AttackError(
            "the client keeps its head, so the server cannot tell the target class: give a head of "
            "its own, such as PCAT(...)(view, own).head"
        )
    if head is not None and not private:
        raise AttackError("the server's own layers end in classes here: leave out the head")


def _made(front: nn.Module, images: Tensor) -> Tensor:
    """What `front` makes of `images`; raise AttackError if they do not fit it."""
    try:
        return networks.in_chunks(front.eval(), images)
    except RuntimeError as error:
        raise AttackError(
            f"the images do not fit the front: {error}. Give images of the client's size"
        ) from None
