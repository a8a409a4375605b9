"""Label inference: what the server of label-private split learning can tell of the labels."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sklearn
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from sltools import seeds, storage
from sltools.errors import AttackError
from sltools.progress import bar
from sltools.view import View

SETTINGS = ("published", "closed-form", "wire")
CLONES = ("co-trained", "frozen")
RESTARTS = 10  # of k-means: the tightest partition of as many starts is kept


@dataclass(eq=False)
class LabelResult:
    """What label inference found, in the order of the transcript and on the CPU; None if not asked.

    `labels` (N,) are guesses, -1 where the attack names none. `clusters` (N,) say which samples
    share a label, -1 for a sample without a gradient. `scores` (N, classes) is what decided, least
    wins, NaN where nothing was seen: matching distances (published), the row p - e_y (closed form)
    or distances to the cluster centres (wire). `counts` and `counts_at_least` (batches, classes)
    come from `LabelInference.count`. `knowledge` names all that was read from the view.
    """

    attack: str
    settings: dict[str, Any]
    knowledge: tuple[str, ...]
    seed: int
    device: str
    seconds: float
    interrupted: bool = False
    labels: Tensor | None = None
    clusters: Tensor | None = None
    scores: Tensor | None = None
    counts: Tensor | None = None
    counts_at_least: Tensor | None = None
    versions: dict[str, str] = field(
        default_factory=lambda: {
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            "python": platform.python_version(),
        }
    )

    def save(self, folder: str | Path) -> Path:
        """Write the result into a new `folder` (safetensors and JSON)."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        facts = {name: value for name, value in vars(self).items() if name not in _TENSORS}
        return storage.write(folder, present, facts)

    @classmethod
    def open(cls, folder: str | Path) -> "LabelResult":
        """Read a saved result; raise SltoolsError if it is missing or damaged."""
        tensors, facts = storage.read(folder)
        try:
            facts["knowledge"] = tuple(facts["knowledge"])
            return cls(**(facts | tensors))
        except (KeyError, TypeError) as error:
            raise AttackError(f"{folder} does not hold a label result: {error!r}") from None


_TENSORS = ("labels", "clusters", "scores", "counts", "counts_at_least")


@dataclass(frozen=True)
class LabelInference:
    """Infer the labels of a label-private training from the server's view of it.

    `setting` says what the server is supposed to have, and so which rule it can follow:

    - "published" (UnSplit): batches of one and the gradient of the head's last weights, granted.
      A clone of the head computes the same gradient under each candidate label; the nearest in MSE
      wins. A "co-trained" `clone` then takes an Adam step (amsgrad, `lr`) on the label it guessed;
      a "frozen" one stays random. Given u the distances are those of the reference code. There,
      however, u still carries its graph, so the clone's loss also trains the server's network;
      this attacker only watches.
    - "closed-form": the gradient of the weights or the bias of a single-layer head, granted. It is
      linear in p - e_y, the probabilities less the label, and the server knows its inputs because
      it sent them: see `residuals`. A batch of one needs the bias gradient only, at any depth.
    - "wire": nothing granted. The directions of dL/du = W^T (p - e_y) / B fall into one cluster for
      each label while the client is unsure, fewer layers longer. It takes samples of every class.
      If anchor labels are granted they name the clusters, by the assignment with the least sum of
      distances; k-means started at the anchors, or the nearest anchor alone (Liu and Lyu,
      arXiv 2203.05222), proved less accurate against a confident client with a one-layer head.

    Raises AttackError for observations that the rule cannot use, NotObservable for missing ones.
    """

    setting: str = "published"
    clone: str = "co-trained"
    lr: float = 1e-3
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("setting", self.setting, SETTINGS),
            ("clone", self.clone, CLONES),
        ):
            if value not in known:
                raise AttackError(f"{name} is one of {', '.join(known)}, not {value!r}")
        if not self.lr > 0:
            raise AttackError(f"lr, the step size of the clone, must be positive, not {self.lr}")

    def __call__(self, view: View) -> LabelResult:
        """Attack the training in `view`; N is the number of samples in it."""
        rules = {"published": self._match, "closed-form": self._solve, "wire": self._cluster}
        return self._run(rules[self.setting], view)

    def count(self, view: View) -> LabelResult:
        """Count the labels of each batch from the granted bias gradient, at any depth.

        This is what remains when the closed form cannot tell the samples apart. B dL/db is the sum
        of the batch's probabilities less the counts, so no count is below -B dL/db: that much is
        certain, whatever the probabilities (`counts_at_least`). `counts` supposes that they sum to
        B / classes, as an untrained client's nearly do, and rounds; it is exact where each sum
        is within 1/2 of that, which small batches of the first steps meet and a trained client,
        whose probabilities follow the labels, does not. Rows that miss the sum B are wrong.
        """
        return self._run(self._count, view)

    def _run(self, rule: Callable[[View], dict[str, Any]], view: View) -> LabelResult:
        if any(message.kind == "labels" for message in view.messages):
            raise AttackError(
                "a vanilla client simply sends its labels: read view.labels; label inference is "
                "for label-private training"
            )
        view, start = view.fresh(), time.perf_counter()
        found = rule(view)
        return LabelResult(
            attack=type(self).__name__,
            settings=asdict(self),
            knowledge=view.knowledge,
            seed=self.seed,
            seconds=time.perf_counter() - start,
            **found,
        )

    def _match(self, view: View) -> dict[str, Any]:
        features = view.payloads("features")
        if (largest := max(map(len, features))) > 1:
            raise AttackError(
                f"the published rule assumes one label per batch and a batch here has {largest} "
                'samples: train with batch_size=1 or use setting="closed-form"'
            )
        device = torch.device(self.device or features[0].device)
        head = view.head_architecture.build(self.seed, "clone").to(device).eval()
        weight = _last(head).weight
        pairs = _paired(features, view.head_weight_gradients, weight.shape)
        optimizer = Adam(head.parameters(), lr=self.lr, amsgrad=True)
        labels = torch.full((len(pairs),), -1)
        scores = torch.full((len(pairs), len(weight)), torch.nan)
        interrupted = False
        try:
            for step, (u, gradient) in enumerate(bar(pairs, "label inference")):
                scores[step] = matching_distances(head, u.to(device), gradient.to(device))
                guess = labels[step : step + 1] = _least(scores[step : step + 1])
                if self.clone == "co-trained" and guess >= 0:
                    optimizer.zero_grad()
                    cross_entropy(head(u.to(device)), guess.to(device)).backward()
                    optimizer.step()
        except KeyboardInterrupt:
            interrupted = True
            print(f"interrupted: {step} of {len(pairs)} labels are kept")
        facts = {"device": str(device), "interrupted": interrupted}
        return {"labels": labels, "scores": scores, **facts}

    def _solve(self, view: View) -> dict[str, Any]:
        solved = []
        for batch, (inputs, gradient) in enumerate(_linear_system(view)):
            device = torch.device(self.device or inputs.device)
            try:
                solved.append(residuals(inputs.to(device), gradient.to(device)))
            except AttackError as error:
                raise AttackError(f"batch {batch} of this view: {error}") from None
        rows, noise = (torch.cat(parts).cpu() for parts in zip(*solved, strict=True))
        return {"labels": _least(rows, noise), "scores": rows, "device": str(device)}

    def _cluster(self, view: View) -> dict[str, Any]:
        classes = _last(view.head_architecture.build(self.seed)).out_features
        gradients = view.feature_gradients.flatten(1).double().cpu()
        _check_finite([gradients])
        norms = gradients.norm(dim=1)
        seen = norms > 0  # a client that is sure up to float32 returns exact zeros
        if (count := int(seen.sum())) < classes:
            raise AttackError(
                f"{count} samples with a gradient cannot make {classes} clusters: give the attack "
                "a view of more training steps"
            )
        directions = (gradients[seen] / norms[seen, None]).numpy()
        state = seeds.derive(self.seed, "clusters") % 2**32  # all that scikit-learn takes
        kmeans = KMeans(classes, n_init=RESTARTS, random_state=state).fit(directions)
        clusters = torch.full((len(seen),), -1)
        scores = torch.full((len(seen), classes), torch.nan)
        clusters[seen] = torch.from_numpy(kmeans.labels_).long()
        scores[seen] = torch.from_numpy(kmeans.transform(directions)).float()
        found = {"clusters": clusters, "scores": scores, "device": "cpu"}
        if "anchor_labels" in view.granted:
            found["labels"] = _named(clusters, scores, view.anchor_labels.cpu())
        return found

    def _count(self, view: View) -> dict[str, Any]:
        bias = _last(view.head_architecture.build(self.seed)).bias
        features = view.payloads("features")
        pairs = _paired(features, view.head_bias_gradients, () if bias is None else bias.shape)
        batch = torch.tensor([len(u) for u in features]).double()[:, None]
        excess = -batch * torch.stack([gradient.double().cpu() for _, gradient in pairs])
        rounding = batch * torch.finfo(pairs[0][1].dtype).eps
        at_least = (excess - rounding).ceil().clamp(min=0)
        counts = (excess + batch / excess.shape[1]).round().maximum(at_least)
        return {"counts": counts.long(), "counts_at_least": at_least.long(), "device": "cpu"}


def matching_distances(head: nn.Module, features: Tensor, gradient: Tensor) -> Tensor:
    """MSE between `gradient` and that of the head's last weights under each label: (classes,).

    `features` is one sample (1, ...), `gradient` (classes, D) the client's.
    """
    weight = _last(head).weight
    candidates = torch.arange(len(weight), device=weight.device)
    losses = cross_entropy(head(features).expand(len(weight), -1), candidates, reduction="none")
    one_by_one = torch.eye(len(weight), device=weight.device)
    (guesses,) = torch.autograd.grad(losses, weight, one_by_one, is_grads_batched=True)
    return (guesses - gradient).square().flatten(1).mean(1)


def matching_condition(
    client_probabilities: Tensor, clone_probabilities: Tensor, labels: Tensor
) -> Tensor:
    """Say for each sample whether the published rule finds its label: (N,) booleans.

    With one linear layer the distance to candidate c is |(p - e_y) - (q - e_c)|^2 |u|^2, so the
    label y wins over c if and only if p_y - p_c < 1 + q_y - q_c (u not 0). The probabilities of
    client (p) and clone (q) are (N, classes), `labels` (N,).
    """
    difference = client_probabilities - clone_probabilities
    return (difference.gather(1, labels[:, None]) - difference < 1).all(1)


def residuals(inputs: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Solve B G^T = A^T (P - Y) for P - Y; return it and the noise it may hold, both (B, classes).

    `inputs` A (B, D) is what the linear layer was given, `gradient` G (classes, D) that of its
    weights under a mean loss. Row i of P - Y is p - e_y: its one negative entry is the label. In
    float32 a confident client's p_y rounds to 1 and that entry to 0, which is then still the least
    unless others underflow as well. The noise is a bound on what rounding in G does to each entry.
    Raises AttackError if A has not rank B up to float32 rounding, for then many answers fit.
    """
    batch, eps = len(inputs), torch.finfo(gradient.dtype).eps
    inputs, gradient = inputs.double(), gradient.double()
    rank = int(torch.linalg.matrix_rank(inputs, rtol=max(inputs.shape) * eps))
    if rank < batch:
        raise AttackError(
            f"the head's inputs have rank {rank} and the batch has {batch} samples, so the labels "
            "are not determined: train with smaller batches; their counts remain, see "
            "LabelInference.count"
        )
    inverse = torch.linalg.pinv(inputs)
    rows = batch * (gradient @ inverse).T
    summed = inputs.norm(dim=1) @ rows.abs()  # (classes,): the size of what was added up in G
    return rows, batch * eps * torch.outer(inverse.norm(dim=0), summed)


def _linear_system(view: View) -> list[tuple[Tensor, Tensor]]:
    """For each batch the inputs (B, D) of the last layer and its weight gradient (classes, D).

    A bias is a weight whose input is always 1, so its gradient, if granted, adds a column to both;
    for batches of one it is enough, and the other is not read.
    """
    features, head = view.payloads("features"), view.head_architecture.build(0).eval()
    bias = "head_bias_gradients" in view.granted
    single = max(map(len, features)) == 1
    parts = []
    if bias:
        pairs = _paired(features, view.head_bias_gradients, _last(head).weight.shape[:1])
        parts.append([(u.new_ones(len(u), 1), gradient[:, None]) for u, gradient in pairs])
    if not bias or ("head_weight_gradients" in view.granted and not single):
        before = _before_last(head)
        pairs = _paired(features, view.head_weight_gradients, _last(head).weight.shape)
        parts.append([(before(u), gradient) for u, gradient in pairs])
    return [
        (torch.cat([inputs for inputs, _ in batch], 1), torch.cat([g for _, g in batch], 1))
        for batch in zip(*parts, strict=True)
    ]


def _least(scores: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """Index of the least entry in each row, -1 where `noise` leaves it open which one that is."""
    best = scores.argmin(1, keepdim=True)
    rivals = (scores - noise).scatter(1, best, torch.inf)
    clear = (scores + noise).gather(1, best) < rivals.amin(1, keepdim=True)
    return torch.where(clear, best, -1)[:, 0]


def _named(clusters: Tensor, distances: Tensor, anchors: Tensor) -> Tensor:
    """Give each cluster the label of an anchor: (N,), -1 in clusters that no anchor names."""
    known = ((anchors >= 0) & (clusters >= 0)).nonzero()[:, 0]
    if len(known) == 0:
        raise AttackError(
            "no anchor with a gradient lies in this part of the transcript: take a window with the "
            "first steps, or do without the grant"
        )
    names = torch.full((distances.shape[1] + 1,), -1)  # the last is that of cluster -1
    anchor, cluster = linear_sum_assignment(distances[known].numpy())
    names[cluster] = anchors[known[anchor]]
    return names[clusters]


def _last(head: nn.Module) -> nn.Linear:
    """The last linear layer of a head, whose gradients can be granted."""
    linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise AttackError("the client's head has no linear layer, so there is no label to match")
    return linear[-1]


def _before_last(head: nn.Sequential) -> nn.Sequential:
    """What a single-layer head does to u before its weights, such as a ReLU."""
    before: nn.Sequential = head[:-1]  # type: ignore[assignment]
    random = any("Dropout" in type(layer).__name__ for layer in before.modules())
    if head[-1] is not _last(head) or before.state_dict() or random:
        raise AttackError(
            "the closed form needs to know what enters the head's last weights, and so a head of "
            'one linear layer: cut the network at ("pool1", "relu4"), or grant the bias gradient '
            "of batches of one"
        )
    return before


def _paired(
    features: Sequence[Tensor], gradients: Sequence[Tensor], shape: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Put the features and the granted gradient of each batch side by side."""
    if len(features) != len(gradients):
        raise AttackError(
            f"there are features of {len(features)} batches but gradients of {len(gradients)}: "
            "take a window of steps that have both, without extra batches"
        )
    for gradient in gradients:
        if gradient.shape != torch.Size(shape):
            raise AttackError(
                f"a granted gradient has shape {tuple(gradient.shape)}, but the head's layer has "
                f"{tuple(shape)}: the view mixes two networks"
            )
    _check_finite([*features, *gradients])
    return list(zip(features, gradients, strict=True))


def _check_finite(tensors: Sequence[Tensor]) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise AttackError(
            "the view holds NaN or infinite values, so the training diverged: lower its learning "
            "rate, or take a window of the steps before"
        )
