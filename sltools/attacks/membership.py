"""Was this image among those that the network was trained on? Membership inference."""

import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from sltools import seeds
from sltools.attacks import networks
from sltools.attacks.attributes import log_odds
from sltools.attacks.auxiliary import Auxiliary, LabelledImages
from sltools.attacks.inversion import as_targets
from sltools.attacks.leaks import LeakResult
from sltools.errors import AttackError
from sltools.models import Architecture
from sltools.progress import bar
from sltools.validation import attack_check
from sltools.view import View, as_server, fresh

SIGNALS = ("confidence", "shadows", "calibrated", "recording")
LEAST = -30.0  # of a log-probability: below, float32 tells nothing
STRENGTH = 1.0  # inverse penalty of the classifier on what shadow networks say
SHADOW_LR, SHADOW_BATCH = 1e-3, 32


@dataclass(frozen=True)
class MembershipInference:
    """Score the images of an inference by how likely the network was trained on them.

    "confidence": how sure the server's layers are of z; given the labels, how small the loss is
    (Yeom et al., CSF 2018; Salem et al., NDSS 2019). "shadows": `shadows` networks of the victim's
    shape are trained for `epochs` on halves of the attacker's labelled images, and a classifier
    learns from them how outputs differ inside and outside of a training (Shokri et al., S&P 2017).
    "calibrated": the confidence, less that of those networks at the image as it was decoded from z:
    an easy image makes everybody sure (Watson et al., ICLR 2022). "recording": how near z comes to
    any z that was sent in the training; it needs nothing but a server that kept those messages.

    Weights come from the streams (`seed`, "shadow 0" and so on), the halves and the order of the
    images from (`seed`, "shadow data"). `metrics.leak_auc` and `metrics.tpr_at` score the result.

    >>> import torch
    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import MembershipInference
    >>> digits = data.load("digits")
    >>> members, others = digits.train[:100], digits.test[:100]
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, members, epochs=3)
    >>> last = protocol.train(session.client, session.server, members, epochs=1, record=True)
    >>> asked = last.observe(torch.cat([members.images, others.images]))
    >>> truth = torch.arange(200) < 100
    >>> kept = MembershipInference("recording")(asked, recording=last.transcript.view("server"))
    >>> kept.knowledge
    ('smashed', 'smashed data of the training')
    >>> metrics.leak_auc(kept.scores, truth) > 0.9
    True
    >>> sure = MembershipInference("confidence")(asked)
    >>> sure.knowledge, metrics.leak_auc(sure.scores, truth) < 0.7
    (('own model', 'smashed'), True)
    """

    signal: str = "confidence"
    shadows: int = 4
    epochs: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            raise AttackError(f"signal is one of {SIGNALS}, not {self.signal!r}")
        attack_check.integer("shadows", self.shadows)
        attack_check.integer("epochs", self.epochs)
        attack_check.seed(self.seed)

    def __call__(
        self,
        view: View,
        auxiliary: LabelledImages | None = None,
        *,
        labels: Tensor | None = None,
        decoded: Tensor | None = None,
        recording: View | None = None,
    ) -> LeakResult:
        """Score each image of `view`, the server's view of an inference, in their order.

        `auxiliary` is a split of the attacker's own, for "shadows" and "calibrated". `labels` (N,)
        are those of the images asked about, if the server knows them. `decoded` (N, C, H, W) are
        what an inversion made of them, for "calibrated". `recording` is a view of the training, for
        "recording". Raises AttackError for what is missing or does not fit.
        """
        view, start = as_server(view), time.perf_counter()
        smashed = view.smashed
        networks.check_smashed(smashed)
        smashed = as_targets(smashed)
        if self.signal == "recording":
            scores = _nearness(smashed, _kept(recording, smashed))
            extra = ["smashed data of the training"]
        else:
            scores = self._by_output(view, smashed, auxiliary, labels, decoded)
            extra = [] if labels is None else ["labels of the images"]
            if self.signal != "confidence" and auxiliary is not None:
                count = len(auxiliary.images)
                extra += [f"auxiliary images ({count})", f"auxiliary labels ({count})"]
        return LeakResult(
            scores.float().cpu(),
            attack=type(self).__name__,
            settings=asdict(self),
            knowledge=(*view.knowledge, *extra),
            seed=self.seed,
            device=str(smashed.device),
            seconds=time.perf_counter() - start,
        )

    def _by_output(
        self,
        view: View,
        smashed: Tensor,
        auxiliary: LabelledImages | None,
        labels: Tensor | None,
        decoded: Tensor | None,
    ) -> Tensor:
        """Scores from what the server's layers make of z."""
        if "features" in view.kinds:
            raise AttackError(
                "the client keeps its head, so the server has no output to judge by: use "
                'MembershipInference("recording")'
            )
        server = view.model.to(smashed).eval()
        output = networks.in_chunks(server, smashed.clone())
        _check_labels(labels, output)
        if self.signal == "confidence":
            return log_confidence(output, labels)
        own = Auxiliary(auxiliary, labelled=True, batch=2, seed=self.seed, device=smashed.device)
        shapes = view.architecture, Architecture.of(server, smashed.shape[1:])
        nets = self._trained_shadows(shapes, own)
        if self.signal == "shadows":
            named = None if labels is None else own.labels
            said = [networks.in_chunks(net, own.images) for net, _ in nets]
            known = torch.cat([_summary(logits, named) for logits in said])
            inside = torch.cat([inside for _, inside in nets])
            return log_odds(known, inside, _summary(output, labels), STRENGTH)
        if decoded is None or len(decoded) != len(smashed):
            raise AttackError(
                f'"calibrated" compares with the {len(smashed)} images as decoded from z: give '
                "decoded=found.inputs of an inversion of the same view"
            )
        networks.check_images(decoded, what="decoded images")
        images = decoded.to(smashed)
        usual = [log_confidence(networks.in_chunks(net, images), labels) for net, _ in nets]
        return log_confidence(output, labels) - torch.stack(usual).mean(0)

    def _trained_shadows(
        self, shapes: tuple[Architecture, Architecture], own: Auxiliary
    ) -> list[tuple[nn.Sequential, Tensor]]:
        """Networks of the victim's shape, each with the images (M,) that it was trained on."""
        draw = seeds.generator(self.seed, "shadow data")
        trained = []
        for number in bar(range(self.shadows), "shadows"):
            parts = [shape.build(self.seed, f"shadow {number}") for shape in shapes]
            rows = torch.randperm(len(own.images), generator=draw)[: len(own.images) // 2]
            rows = rows.to(own.images.device)
            inside = torch.zeros(len(own.images), dtype=torch.bool, device=rows.device)
            inside[rows] = True
            net = self._trained(nn.Sequential(*parts).to(rows.device), own, rows, draw)
            trained.append((net, inside))
        return trained

    def _trained(
        self, net: nn.Sequential, own: Auxiliary, rows: Tensor, draw: torch.Generator
    ) -> nn.Sequential:
        """Train `net` on the `rows` of the attacker's images."""
        assert own.labels is not None
        optimizer = Adam(net.parameters(), lr=SHADOW_LR, amsgrad=True)
        net.train()
        for _ in range(self.epochs):
            for some in torch.randperm(len(rows), generator=draw).split(SHADOW_BATCH):
                batch = rows[some.to(rows.device)]
                try:
                    loss = cross_entropy(net(own.images[batch]), own.labels[batch])
                except (RuntimeError, IndexError) as error:
                    raise AttackError(
                        f"the auxiliary data do not fit the victim's shape: {error}. Give images "
                        "of the client's size and labels of its classes"
                    ) from None
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return net.eval()


def log_confidence(logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """Log-probability (N,) of the likeliest class of logits (N, K), or of `labels` (N,) if given.

    >>> import torch
    >>> from sltools.attacks.membership import log_confidence
    >>> logits = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    >>> log_confidence(logits).exp().float()
    tensor([0.5000, 0.9999])
    >>> log_confidence(logits, torch.tensor([0, 1])).float()
    tensor([-0.6931, -9.0001])
    """
    log_probabilities = _log_probabilities(logits)
    if labels is None:
        return log_probabilities.amax(1)
    return log_probabilities.gather(1, labels.to(logits.device)[:, None])[:, 0]


def _log_probabilities(logits: Tensor) -> Tensor:
    if not logits.isfinite().all():
        raise AttackError("the outputs hold NaN or infinite values: the network has diverged")
    return logits.double().log_softmax(1).clamp_min(LEAST)


def _summary(logits: Tensor, labels: Tensor | None) -> Tensor:
    """What a classifier of members looks at: log-probabilities in order, and the label's."""
    ordered = _log_probabilities(logits).sort(1, descending=True).values
    named = [] if labels is None else [log_confidence(logits, labels)[:, None]]
    return torch.cat([ordered, *named], 1)


def _nearness(smashed: Tensor, kept: Tensor) -> Tensor:
    """How near each of `smashed` (N, ...) is to the nearest of `kept` (M, ...): (N,), at most 0."""
    asked, known = smashed.flatten(1), kept.flatten(1)
    return torch.cat([-torch.cdist(some, known).amin(1) for some in asked.split(networks.CHUNK)])


def _kept(recording: View | None, smashed: Tensor) -> Tensor:
    """The smashed data of the training; raise AttackError unless there are such, of this cut."""
    if recording is None:
        raise AttackError(
            '"recording" compares with the smashed data of the training: give recording=, the '
            "server's view of a training with record=True"
        )
    kept = fresh(recording).smashed
    networks.check_smashed(kept, smashed.shape[1:])
    return as_targets(kept).to(smashed)


def _check_labels(labels: Tensor | None, output: Tensor) -> None:
    """Raise AttackError unless `output` (N, K) are logits and `labels` (N,), if given, fit them."""
    if output.ndim != 2 or output.shape[1] < 2:
        raise AttackError(
            f"the server makes {tuple(output.shape[1:])} of an image, which are no classes to be "
            'sure of: use MembershipInference("recording")'
        )
    if labels is None:
        return
    whole = isinstance(labels, Tensor) and labels.dtype == torch.int64
    if not whole or labels.shape != output.shape[:1]:
        raise AttackError(
            f"labels must be int64 of shape ({len(output)},), one for each image asked about"
        )
    if labels.min() < 0 or labels.max() >= output.shape[1]:
        raise AttackError(f"labels must be from 0 to {output.shape[1] - 1}")
