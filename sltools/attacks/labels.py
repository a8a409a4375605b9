"""Label inference: what the server of label-private split learning can tell of the labels."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from sltools import devices, saved, seeds, storage
from sltools.attacks.result import Provenance
from sltools.errors import AttackError
from sltools.interrupts import keep_partial
from sltools.progress import bar
from sltools.validation import attack_check
from sltools.view import View, fresh

SETTINGS = ("published", "closed-form", "wire")
CLONES = ("co-trained", "frozen")
RESTARTS = 10  # of k-means: the tightest of so many partitions is kept


@dataclass(eq=False, repr=False)
class LabelResult(Provenance):
    """What label inference found, in the order of the transcript, on the CPU; None if not sought.

    `labels` (N,) are guesses, -1 where the attack names none. `clusters` (N,) say which samples
    share a label, -1 for one without a gradient. `scores` (N, classes) are what decided, the least
    wins: matching distances (published), p - e_y (closed form) or distances to the centres (wire);
    NaN where nothing was seen. `counts` and `counts_at_least` (batches, classes) are those of
    `LabelInference.count`.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import LabelInference
    >>> split = data.load("digits").train[:20]
    >>> front, middle, head = models.cut(models.mnist_net(), ("pool1", "relu4"))
    >>> client = protocol.Client(front, head)
    >>> server = protocol.Server(middle, label_private=True)
    >>> session = protocol.train(client, server, split, epochs=1, batch_size=1, record=True)
    >>> view = session.transcript.view("server", grants=["head_weight_gradients"])
    >>> result = LabelInference("published")(view)
    >>> tuple(result.labels.shape), tuple(result.scores.shape), result.clusters is None
    ((20,), (20, 10), True)
    >>> result.settings["clone"], result.knowledge
    ('co-trained', ('features', 'head architecture', 'head weight gradients (granted)'))
    """

    labels: Tensor | None = None
    clusters: Tensor | None = None
    scores: Tensor | None = None
    counts: Tensor | None = None
    counts_at_least: Tensor | None = None
    versions: dict[str, str] = field(
        default_factory=lambda: devices.versions("scikit-learn"), kw_only=True
    )

    def save(self, folder: str | Path) -> Path:
        """Write the result into a new `folder` (safetensors and JSON)."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        facts = {name: value for name, value in vars(self).items() if name not in tensors}
        return storage.write(folder, tensors, facts)

    @classmethod
    def open(cls, folder: str | Path) -> "LabelResult":
        """Read a saved result; raise SltoolsError if it is missing or damaged."""
        tensors, facts = storage.read(folder)
        try:
            facts["knowledge"] = tuple(facts["knowledge"])
            return cls(**(facts | tensors))
        except (KeyError, TypeError) as error:
            instead = saved.other_kind("LabelResult", tensors, facts) or repr(error)
            raise AttackError(f"{folder} does not hold a label result: {instead}") from None


@dataclass(frozen=True)
class LabelInference:
    """Infer the labels of a label-private training from the server's view of it.

    `setting` says what the server is supposed to have, and so which rule it can follow.

    "published" (UnSplit): batches of one, and the gradient of the head's last weights, granted. A
    clone of the head computes that gradient under each candidate label; the nearest in MSE wins. A
    "co-trained" `clone` then takes an Adam step (amsgrad, `lr`) on the label it guessed; a "frozen"
    one stays random. At the same u the distances are those of the reference code. There u still
    carries its graph, so the clone's loss trains the server too; this attacker only watches. With
    one layer, `matching_condition` says when it is right. With more, clone and client differ in
    what enters the last weights: right at first, because ReLU outputs are never opposed, but soon
    wrong, and a co-trained clone then learns its own mistakes.

    "closed-form": the gradient of a one-layer head's weights, granted. It is linear in p - e_y
    (probabilities less label), and the server knows the rest because it sent u: see `residuals`.
    For batches of one, the gradient of the last bias is p - e_y itself, at any depth.

    "wire": nothing granted. The directions of dL/du = W^T (p - e_y) / B form one cluster per label
    while the client is unsure; the deeper the head, the sooner they blur. Every class must occur.
    Granted anchor labels name the clusters: the assignment with the least sum of distances. (Liu
    and Lyu, arXiv 2203.05222, take the nearest anchor, or start k-means at the anchors.) Anchors
    are among the `labels`: leave them out of a score, they were given.

    Raises AttackError for observations that the rule cannot use, NotObservable for missing ones.

    >>> import torch
    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import LabelInference
    >>> split = data.load("digits").train[:320]
    >>> front, middle, head = models.cut(models.mnist_net(), ("pool1", "relu4"))
    >>> client = protocol.Client(front, head)
    >>> server = protocol.Server(middle, label_private=True)
    >>> session = protocol.train(client, server, split, epochs=1, batch_size=32, record=True)
    >>> truth = torch.cat([page["labels"] for page in session.transcript.client_log.values()])

    Without a grant there are clusters, which bear no names yet; with one there are labels.

    >>> wire = LabelInference("wire")(session.transcript.view("server"))
    >>> wire.knowledge
    ('feature gradient', 'head architecture')
    >>> metrics.cluster_accuracy(wire.clusters, truth) > 0.9
    True
    >>> view = session.transcript.view("server", grants=["head_weight_gradients"])
    >>> closed = LabelInference("closed-form")(view)
    >>> metrics.label_accuracy(closed.labels, truth)
    1.0
    """

    setting: str = "published"
    clone: str = "co-trained"
    lr: float = 1e-3
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if self.setting not in SETTINGS or self.clone not in CLONES:
            raise AttackError(
                f"setting is one of {SETTINGS} and clone one of {CLONES}, not {self.setting!r} and "
                f"{self.clone!r}"
            )
        if not self.lr > 0:
            raise AttackError(f"lr, the clone's learning rate, must be positive, not {self.lr}")
        attack_check.seed(self.seed)

    def __call__(self, view: View) -> LabelResult:
        """Infer the label, or the cluster, of each of the N samples in `view`."""
        rules = {"published": self._match, "closed-form": self._solve, "wire": self._cluster}
        return self._run(rules[self.setting], view)

    def count(self, view: View) -> LabelResult:
        """Count the labels of each batch from the granted bias gradient: any batch size, any depth.

        This is what remains where the closed form cannot tell the samples apart. B dL/db is the sum
        of the batch's probabilities less the counts, so no count is below -B dL/db, whatever the
        probabilities: `counts_at_least` is certain, and complete where a row adds up to B, as in
        batches smaller than the number of classes from an untrained client. `counts` supposes that
        the probabilities of each class sum to B / classes, and rounds: exact if that is off by less
        than 1/2. Rows that do not add up to B are wrong, and of a trained client most others too.

        >>> from sltools import data, models, protocol
        >>> from sltools.attacks import LabelInference
        >>> split = data.load("digits").train[:8]
        >>> front, middle, head = models.cut(models.mnist_net(), ("pool1", "relu4"))
        >>> client = protocol.Client(front, head)
        >>> server = protocol.Server(middle, label_private=True)
        >>> session = protocol.train(client, server, split, epochs=1, batch_size=8, record=True)
        >>> view = session.transcript.view("server", grants=["head_bias_gradients"])
        >>> LabelInference().count(view).counts_at_least.tolist()
        [[0, 2, 0, 2, 2, 0, 0, 0, 0, 2]]
        >>> split.labels.bincount(minlength=10).tolist()
        [0, 2, 0, 2, 2, 0, 0, 0, 0, 2]
        """
        return self._run(self._count, view)

    def _run(self, rule: Callable[[View], dict[str, Any]], view: View) -> LabelResult:
        if "labels" in view.kinds:
            raise AttackError(
                "a vanilla client simply sends its labels, so there is nothing to infer: read "
                "view.labels, or train with a label-private client"
            )
        view, start = fresh(view), time.perf_counter()
        found = {"device": "cpu"} | rule(view)
        seconds = time.perf_counter() - start
        return LabelResult(
            attack=type(self).__name__,
            settings=asdict(self),
            knowledge=view.knowledge,
            seed=self.seed,
            seconds=seconds,
            **found,
        )

    def _match(self, view: View) -> dict[str, Any]:
        features, gradients = view.payloads("features"), view.head_weight_gradients
        if (largest := max(map(len, features))) > 1:
            raise AttackError(
                f"the published rule assumes one label per batch and a batch here has {largest} "
                'samples: train with batch_size=1 or use setting="closed-form"'
            )
        device = devices.find(self.device or features[0].device)
        head = view.head_architecture.build(self.seed, "clone").to(device).eval()
        pairs = _pair_batches(features, gradients, _last_linear(head).weight.shape)
        optimizer = Adam(head.parameters(), lr=self.lr, amsgrad=True)
        labels = torch.full((len(pairs),), -1)
        scores = torch.full((len(pairs), _last_linear(head).out_features), torch.nan)
        with keep_partial() as work:
            for step, pair in enumerate(bar(pairs, "label inference")):
                u, gradient = (tensor.to(device, torch.float32) for tensor in pair)
                scores[step] = matching_distances(head, u, gradient)
                guess = labels[step : step + 1] = _certain_argmin(scores[step : step + 1])
                if self.clone == "co-trained" and guess >= 0:
                    optimizer.zero_grad()
                    cross_entropy(head(u), guess.to(device)).backward()
                    optimizer.step()
        facts = {"device": str(device), "interrupted": work.interrupted}
        return {"labels": labels, "scores": scores, **facts}

    def _solve(self, view: View) -> dict[str, Any]:
        features, head = view.payloads("features"), view.head_architecture.build(self.seed).eval()
        device, shape = (
            devices.find(self.device or features[0].device),
            _last_linear(head).weight.shape,
        )
        if "head_bias_gradients" in view.granted and all(len(u) == 1 for u in features):
            pairs = _pair_batches(features, view.head_bias_gradients, shape[:1])
            systems = [(u.new_ones(1, 1), gradient[:, None]) for u, gradient in pairs]
        else:
            before = _layers_before_last(head)
            pairs = _pair_batches(features, view.head_weight_gradients, shape)
            systems = [(before(u), gradient) for u, gradient in pairs]
        solved = [residuals(inputs.to(device), gradient.to(device)) for inputs, gradient in systems]
        rows, noise = (torch.cat(parts).cpu() for parts in zip(*solved, strict=True))
        return {"labels": _certain_argmin(rows, noise), "scores": rows, "device": str(device)}

    def _cluster(self, view: View) -> dict[str, Any]:
        classes = _last_linear(view.head_architecture.build(self.seed)).out_features
        gradients = view.feature_gradients.flatten(1).double().cpu()
        _check_finite([gradients])
        seen = gradients.norm(dim=1) > 0  # a client that is certain in float32 returns exact zeros
        if (count := int(seen.sum())) < classes:
            raise AttackError(
                f"{count} samples with a gradient cannot form {classes} clusters: give the attack "
                "more steps of the training"
            )
        found, distances = direction_clusters(
            gradients[seen], classes, state=seeds.derive(self.seed, "clusters")
        )
        clusters = torch.full((len(seen),), -1)
        scores = torch.full((len(seen), classes), torch.nan)
        clusters[seen], scores[seen] = found, distances.float()
        result = {"clusters": clusters, "scores": scores}
        if "anchor_labels" in view.granted:
            result["labels"] = _name_clusters(clusters, scores, view.anchor_labels.cpu())
        return result

    def _count(self, view: View) -> dict[str, Any]:
        classes = _last_linear(view.head_architecture.build(self.seed)).out_features
        pairs = _pair_batches(view.payloads("features"), view.head_bias_gradients, [classes])
        batch = torch.tensor([[len(u)] for u, _ in pairs]).double()
        excess = -batch * torch.stack([gradient.double().cpu() for _, gradient in pairs])
        rounding = batch * torch.finfo(pairs[0][1].dtype).eps
        at_least = (excess - rounding).ceil().clamp(min=0)
        counts = (excess + batch / classes).round().maximum(at_least)
        return {"counts": counts.long(), "counts_at_least": at_least.long()}


def direction_clusters(rows: Tensor, count: int, *, state: int) -> tuple[Tensor, Tensor]:
    """Put rows (N, D) into `count` clusters by their directions.

    Returns the cluster of each (N,) and its distances from the centres (N, count). k-means, of
    whose partitions from ten random starts, of which `state` is the seed, the tightest is kept.

    >>> import torch
    >>> from sltools.attacks.labels import direction_clusters
    >>> rows = torch.tensor([[1.0, 0.0], [9.0, 0.1], [0.0, 3.0], [0.0, 0.2]])
    >>> clusters, distances = direction_clusters(rows, 2, state=0)
    >>> [int(other == clusters[0]) for other in clusters], tuple(distances.shape)
    ([1, 1, 0, 0], (4, 2))
    """
    from sklearn.cluster import KMeans  # slow to import, and only needed here

    norms = rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    directions = (rows / norms).numpy()
    seed = state % 2**32  # scikit-learn takes no more
    kmeans = KMeans(count, n_init=RESTARTS, random_state=seed).fit(directions)
    clusters = torch.from_numpy(kmeans.labels_).long()
    return clusters, torch.from_numpy(kmeans.transform(directions))


def matching_distances(head: nn.Module, features: Tensor, gradient: Tensor) -> Tensor:
    """MSE between `gradient` and that of the head's last weights under each label: (classes,).

    `features` is one sample (1, ...); `gradient` (classes, D) is the client's.

    >>> import torch
    >>> from torch import nn
    >>> from torch.nn.functional import cross_entropy
    >>> from sltools.attacks.labels import matching_distances
    >>> client = nn.Linear(4, 3)
    >>> features = torch.full((1, 4), 0.1)
    >>> cross_entropy(client(features), torch.tensor([2])).backward()  # the label is 2
    >>> clone = nn.Linear(4, 3)  # with weights of its own
    >>> int(matching_distances(clone, features, client.weight.grad).argmin())
    2
    """
    weight = _last_linear(head).weight
    candidates = torch.arange(len(weight), device=weight.device)
    losses = cross_entropy(head(features).expand(len(weight), -1), candidates, reduction="none")
    one_by_one = torch.eye(len(weight), device=weight.device)
    (guesses,) = torch.autograd.grad(losses, weight, one_by_one, is_grads_batched=True)
    return (guesses - gradient).square().flatten(1).mean(1)


def matching_condition(
    client_probabilities: Tensor, clone_probabilities: Tensor, labels: Tensor
) -> Tensor:
    """Say for each sample whether the published rule finds its label: (N,) booleans.

    With a one-layer head the distance of candidate c is |(p - e_y) - (q - e_c)|^2 |u|^2, up to a
    factor, so y wins if and only if p_y - p_c < 1 + q_y - q_c for every other c (and u is not 0).
    The client's probabilities p and the clone's q are (N, classes), the `labels` y (N,).

    >>> import torch
    >>> from sltools.attacks.labels import matching_condition
    >>> unsure, sure = torch.tensor([[0.4, 0.6]]), torch.tensor([[0.99, 0.01]])
    >>> label = torch.tensor([0])
    >>> matching_condition(unsure, unsure, label)
    tensor([True])
    >>> matching_condition(sure, unsure, label)  # the client learned, its clone did not
    tensor([False])
    """
    difference = client_probabilities - clone_probabilities
    return (difference.gather(1, labels[:, None]) - difference < 1).all(1)


def residuals(inputs: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Solve B G = (P - Y)^T A for P - Y; return it and the noise in it, both (B, classes) float64.

    `inputs` A (B, D) entered a linear layer, `gradient` G (classes, D) is that of its weights under
    a mean cross-entropy. Each row of P - Y is p - e_y: its one negative entry tells the label. Once
    a client is so sure that float32 rounds p_y to 1, the entry is 0: still the least, unless noise
    hides the other p_c. The noise is an estimate: one eps of what was added up in G, magnified by
    the solution.
    Raises AttackError if A has not rank B in float32, because then many answers fit.

    >>> import torch
    >>> from sltools.attacks.labels import residuals
    >>> probabilities = torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    >>> errors = probabilities - torch.eye(2)  # the labels are 0 and 1
    >>> inputs = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    >>> rows, noise = residuals(inputs, errors.T @ inputs / 2)
    >>> rows.argmin(1)
    tensor([0, 1])
    """
    batch, eps = len(inputs), torch.finfo(gradient.dtype).eps
    inputs, gradient = inputs.double(), gradient.double()
    rank = int(torch.linalg.matrix_rank(inputs, rtol=max(inputs.shape) * eps))
    if rank < batch:
        raise AttackError(
            f"the head's inputs have rank {rank} but the batch has {batch} samples, so many labels "
            "fit: train with smaller batches; what remains are counts, see LabelInference.count"
        )
    inverse = torch.linalg.pinv(inputs)
    rows = batch * (gradient @ inverse).T
    added_up = inputs.norm(dim=1) @ rows.abs()
    return rows, eps * torch.outer(inverse.norm(dim=0), added_up)


def _certain_argmin(scores: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """Index of the least entry of each row; -1 where `noise` leaves open which one that is."""
    best = scores.argmin(1, keepdim=True)
    rivals = (scores - noise).scatter(1, best, torch.inf)
    clear = (scores + noise).gather(1, best) < rivals.amin(1, keepdim=True)
    return torch.where(clear, best, -1)[:, 0]


def _name_clusters(clusters: Tensor, distances: Tensor, anchors: Tensor) -> Tensor:
    """Give each cluster the label of an anchor: (N,), -1 in a cluster that no anchor names."""
    from scipy.optimize import linear_sum_assignment  # slow to import, and only needed here

    known = ((anchors >= 0) & (clusters >= 0)).nonzero()[:, 0]
    if len(known) == 0:
        raise AttackError(
            "no anchor with a gradient lies in this part of the transcript: take a window with its "
            "first steps, or do without the grant"
        )
    names = torch.full((distances.shape[1] + 1,), -1)  # the last is for cluster -1
    rows, columns = linear_sum_assignment(distances[known].numpy())
    names[columns] = anchors[known[rows]]
    return names[clusters]


def _last_linear(head: nn.Module) -> nn.Linear:
    linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise AttackError("the client's head has no linear layer: cut the network before its last")
    return linear[-1]


def _layers_before_last(head: nn.Sequential) -> nn.Module:
    """What a one-layer head does to u before its weights, such as a ReLU."""
    before = head[:-1]
    random = any("Dropout" in type(layer).__name__ for layer in before.modules())
    if head[-1] is not _last_linear(head) or before.state_dict() or random:
        raise AttackError(
            "the closed form must know what enters the head's last weights, so it needs a head of "
            'one linear layer: cut at ("pool1", "relu4"), or grant the bias gradient of batches of '
            "one"
        )
    return before


def _pair_batches(
    features: Sequence[Tensor], gradients: Sequence[Tensor], shape: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Put side by side the features of each batch and its granted gradient, once checked."""
    if len(features) != len(gradients):
        raise AttackError(
            f"there are {len(features)} batches of features but {len(gradients)} gradients: attack "
            "a training without extra batches, or a window of whole steps"
        )
    if wrong := [tuple(found.shape) for found in gradients if found.shape != torch.Size(shape)]:
        raise AttackError(
            f"a gradient of shape {wrong[0]} does not fit the head, whose last layer has "
            f"{tuple(shape)}: view and gradients must be of one training"
        )
    _check_finite([*features, *gradients])
    return list(zip(features, gradients, strict=True))


def _check_finite(tensors: Sequence[Tensor]) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise AttackError(
            "the view holds NaN or infinite values, so the training has diverged: lower its "
            "learning rate, or take a window of the steps before"
        )
