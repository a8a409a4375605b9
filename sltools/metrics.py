"""How well did it work? Every score here comes with what somebody who learnt nothing would score.

This is the only module that holds the truth beside an attacker's result. Images are float tensors
(N, C, H, W) with the truth in [0, 1]; scores are per image, so that no mean hides a failure.
scikit-learn and torchmetrics take seconds to import: each is imported where it is needed.
"""

import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor, nn

from sltools import seeds
from sltools.data import Split, expect
from sltools.errors import DataError

Model = Callable[[Tensor], Tensor]
Labels = Tensor | Sequence[int]

SSIM_WINDOW = 11
OUTSIDE_BY, OUTSIDE_SHARE = 0.5, 0.05  # of [0, 1]: more and further than a free search leaves
SHUFFLES = 25


# --- Images ---------------------------------------------------------------------------------------


def mse(x: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of each image, (N,); 0 is perfect, and a blank image scores mean(truth²).

    Pixels are on the [0, 1] scale; papers that use [-1, 1] report four times these numbers.
    Raises DataError if the images cannot be compared.

    >>> import torch
    >>> from sltools import metrics
    >>> truth = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)  # black and white
    >>> metrics.mse(torch.full((2, 1, 8, 8), 0.5), truth)
    tensor([0.2500, 0.2500])
    """
    x, truth = _comparable(x, truth)
    return (x - truth).square().mean(dim=(1, 2, 3))


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (N,): 10 log10(1 / MSE), for a range of 1.

    Two identical images score infinity. Raises DataError if the images cannot be compared.

    >>> import torch
    >>> from sltools import metrics
    >>> truth = torch.zeros(2, 1, 8, 8)
    >>> nearly, wrong = truth[:1] + 0.1, truth[:1] + 1
    >>> metrics.psnr(torch.cat([nearly, wrong]), truth).round(decimals=2)
    tensor([20.,  0.])
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x, truth = _comparable(x, truth)
    return peak_signal_noise_ratio(x, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(x: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image, (N,), at most 1 (Wang et al. 2004).

    A Gaussian window of 11 pixels, sigma 1.5, and a data range of 1: never rescaled per image,
    which would hide lost contrast. As in torchmetrics, windows reach over the edges, where images
    are mirrored; so the black margins of MNIST count, in which a blank image is right. Raises
    DataError for images of fewer than 11 pixels a side.

    >>> from sltools import data, metrics
    >>> images = data.load("digits").test.images[:4]
    >>> f"{metrics.ssim(images, images).min():.2f}"
    '1.00'
    >>> faint = 0.2 * images  # all the shape, little of the contrast
    >>> bool((metrics.ssim(faint, images) < 0.7).all())
    True
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, truth = _comparable(x, truth)
    height, width = x.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise DataError(
            f"SSIM looks through a window of {SSIM_WINDOW} pixels and these images are "
            f"{height} x {width}; use images of at least {SSIM_WINDOW} x {SSIM_WINDOW}."
        )
    scores = structural_similarity_index_measure(
        x.double(), truth.double(),  # float32 loses the fourth digit where images are flat
        gaussian_kernel=True, sigma=1.5, kernel_size=SSIM_WINDOW,
        reduction="none", data_range=1.0,
    )  # fmt: skip
    assert isinstance(scores, Tensor)  # a pair only where the full SSIM image is asked for
    return scores.reshape(len(x)).float()


@dataclass(frozen=True, eq=False)
class AffineFit:
    """The best `gain * x + offset` for each image, as `affine_align` finds it.

    gain, offset, mse: (N,); aligned: (N, C, H, W), not clamped. A negative gain means that x is a
    negative of the truth; a constant x has gain 0.

    >>> import torch
    >>> from sltools import metrics
    >>> truth = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    >>> fit = metrics.affine_align(1 - truth, truth)  # a negative
    >>> f"gain {fit.gain.item():.1f}, offset {fit.offset.item():.1f}, MSE {fit.mse.item():.1f}"
    'gain -1.0, offset 1.0, MSE 0.0'
    """

    gain: Tensor
    offset: Tensor
    mse: Tensor
    aligned: Tensor


def affine_align(x: Tensor, truth: Tensor) -> AffineFit:
    """Fit truth ≈ gain * x + offset over all pixels of each image, by least squares.

    Smashed data fix an image only up to scale, sign and brightness as long as the weights are
    unknown, so the raw MSE can be poor though the shape is right. This fit looks at the truth, as
    no attacker can: report its MSE only beside the raw one, as `ImageScores` does. Solved in
    float64, returned in float32. Raises DataError if the images cannot be compared.

    >>> import torch
    >>> from sltools import metrics
    >>> truth = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    >>> faint = 0.5 * truth + 0.25
    >>> raw, fit = metrics.mse(faint, truth), metrics.affine_align(faint, truth)
    >>> f"MSE {raw.item():.3f}, and {fit.mse.item():.3f} once contrast and brightness fit"
    'MSE 0.021, and 0.000 once contrast and brightness fit'
    """
    x, truth = _comparable(x, truth)
    pixels, target = x.double().flatten(1), truth.double().flatten(1)
    pixels_mean, target_mean = pixels.mean(1, keepdim=True), target.mean(1, keepdim=True)
    centred = pixels - pixels_mean
    variance = centred.square().mean(1, keepdim=True)
    covariance = (centred * (target - target_mean)).mean(1, keepdim=True)
    # In float64 the mean of equal float32 pixels is exact: a constant image has variance 0.
    gain = torch.where(variance > 0, covariance / variance, 0.0)
    offset = target_mean - gain * pixels_mean
    aligned = gain * pixels + offset
    error = (aligned - target).square().mean(1)
    return AffineFit(
        gain.squeeze(1).float(), offset.squeeze(1).float(), error.float(),
        aligned.view_as(x).float(),
    )  # fmt: skip


def _comparable(x: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as float32 on x's device, or say why they cannot be compared."""
    for images in (x, truth):
        _tensor(images, "images to score")
    if x.ndim != 4 or x.shape != truth.shape:
        raise DataError(
            f"expected two equal batches of images (N, C, H, W), got {tuple(x.shape)} "
            f"and {tuple(truth.shape)}; a single image needs a batch of one, image[None]."
        )
    if x.numel() == 0:
        raise DataError("there is no image to score in an empty batch; pass at least one.")
    x, truth = x.detach().float(), truth.detach().to(x.device).float()
    if not torch.isfinite(x).all():
        raise DataError(
            f"{int((~torch.isfinite(x)).sum())} pixels of the reconstruction are NaN or infinite: "
            "the attack diverged. Lower its learning rate and run it again."
        )
    if not (truth.min() >= 0 and truth.max() <= 1 + 1e-6):  # so written, NaN is caught as well
        raise DataError(
            f"the true images must lie in [0, 1], these go from {truth.min():.3g} to "
            f"{truth.max():.3g}; the first argument is the reconstruction, the second the truth, "
            "and a standardisation is to be undone in both."
        )
    return x, truth


def _tensor(value: Tensor, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise DataError(
            f"{what} must be a tensor (N, C, H, W), not a {type(value).__name__}: use "
            "torch.as_tensor, and of a split its `.images`."
        )
    return value


# --- Models ---------------------------------------------------------------------------------------


def accuracy(model: Model, split: Split, batch_size: int = 512) -> float:
    """Share of `split` that `model` (images → logits) classifies correctly, in [0, 1].

    The model is evaluated on its own device, in evaluation mode and without gradients, and is left
    in the mode it was in. Raises DataError if the split is empty.

    >>> from sltools import data, metrics, models, protocol
    >>> digits = data.load("digits")
    >>> net = models.mnist_net()
    >>> before = metrics.accuracy(net, digits.test)
    >>> session = protocol.train(*models.cut(net, "pool1"), digits.train, epochs=2)
    >>> after = metrics.accuracy(net, digits.test)  # the parts share the weights of the network
    >>> before < 0.2 < 0.5 < after
    True
    """
    split = expect(Split, split)
    return _share(_predict(model, split.images, batch_size), split.labels)


def agreement(model: Model, other: Model, images: Tensor) -> float:
    """Share of `images` (N, C, H, W) that both models (images → logits) put in the same class.

    Also called fidelity: unlike accuracy, it rewards a clone for copying the victim's mistakes.
    Raises DataError if there are no images.

    >>> from sltools import data, metrics, models
    >>> images = data.load("digits").test.images
    >>> victim, other = models.mnist_net(seed=0), models.mnist_net(seed=1)
    >>> metrics.agreement(victim, victim, images)
    1.0
    >>> metrics.agreement(victim, other, images) < 0.5
    True
    """
    return _share(_predict(model, images), _predict(other, images))


def attack_success(
    model: Model, split: Split, target: int, change: Callable[[Tensor], Tensor] = lambda x: x
) -> float:
    """Share of `split` that `model` puts in class `target` once `change` was made, in [0, 1].

    Images of the class `target` do not count, for they belong there. `change` is the `stamp` of a
    `sltools.attacks.Trigger`; without one the images are as they are, which measures a label flip
    on a split of the class that was flipped. A model that nobody attacked scores above 0, too: put
    it beside. Raises DataError if no image is left to count.

    >>> from sltools import data, metrics, models
    >>> from sltools.attacks import Trigger
    >>> trigger = Trigger(target=3)
    >>> metrics.attack_success(models.mnist_net(), data.load("digits").test, 3, trigger.stamp)
    0.0
    """
    split = expect(Split, split)
    others = split[split.labels != target]
    if len(others) == 0:
        raise DataError(f"all images are of class {target}: an attack's success needs others.")
    return (_predict(model, change(others.images)) == target).double().mean().item()


def _predict(model: Model, images: Tensor, batch_size: int = 512) -> Tensor:
    """Return the class (N,) of the largest logit of each image, on the CPU."""
    if len(_tensor(images, "images to classify")) == 0:
        raise DataError("there is no image to classify in an empty batch; pass at least one.")
    weights = model.parameters() if isinstance(model, nn.Module) else iter(())
    device = next((weight.device for weight in weights), images.device)
    with torch.no_grad(), _eval_mode(model):
        logits = [model(batch.to(device)) for batch in images.split(batch_size)]
    scores = torch.cat(logits)
    if not scores.isfinite().all():
        raise DataError("the model's logits contain NaN or infinite values; it has diverged.")
    return scores.argmax(dim=1).cpu()


@contextmanager
def _eval_mode(model: Model) -> Iterator[None]:
    """Put a module in evaluation mode; restore the mode of each of its parts afterwards."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, training in zip(parts, modes, strict=True):
            part.training = training


def _share(guess: Tensor, truth: Tensor) -> float:
    return (guess == truth.to(guess.device)).double().mean().item()


# --- Labels ---------------------------------------------------------------------------------------


def label_accuracy(guess: Labels, truth: Labels) -> float:
    """Share of labels (N,) guessed exactly, in [0, 1]. Raises DataError if lengths differ.

    >>> from sltools import metrics
    >>> metrics.label_accuracy([0, 1, 2, -1], [0, 1, 1, 1])
    0.5
    """
    return _share(*_paired(guess, truth))


def cluster_accuracy(clusters: Labels, truth: Labels) -> float:
    """Share of labels (N,) right once every cluster bears the name that suits it best, in [0, 1].

    No two clusters share a name (Hungarian algorithm), and the cluster numbers themselves mean
    nothing. With more clusters than classes, the members of a nameless cluster count as wrong.
    -1 marks a sample that is in no cluster; it counts as wrong. Random clusters score above
    1 / classes: compare with a shuffle, as `score_labels` does. Raises DataError if lengths differ.

    >>> from sltools import metrics
    >>> metrics.cluster_accuracy([5, 5, 0, 0], [1, 1, 2, 2])  # other numbers, the same partition
    1.0
    >>> metrics.cluster_accuracy([5, 5, 5, -1], [1, 1, 2, 2])
    0.5
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    clusters, truth = _paired(clusters, truth)
    placed, total = clusters >= 0, len(truth)
    if not placed.any():
        return 0.0
    clusters, truth = clusters[placed], truth[placed]
    counts = contingency_matrix(truth.numpy(), clusters.numpy())
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / total)


def leak_auc(scores: Tensor, positive: Tensor) -> float:
    """Chance that a positive sample has the greater of two scores (N,): 0.5 is none, 1 is certain.

    The area under the ROC curve (Li et al., ICLR 2022). Below 0.5 the scores tell the classes too,
    the other way round. `positive` (N,) are booleans. Raises DataError if one class is missing and
    for scores that are not finite.

    >>> import torch
    >>> from sltools import metrics
    >>> positive = torch.tensor([True, True, False, False])
    >>> metrics.leak_auc(torch.tensor([0.9, 0.4, 0.6, 0.1]), positive)
    0.75
    """
    from sklearn.metrics import roc_auc_score

    positive, scores = _labels(positive).bool(), _labels(scores)
    if not scores.isfinite().all():
        raise DataError("a score is NaN or infinite; an order of such scores means nothing")
    if scores.ndim != 1 or scores.shape != positive.shape or positive.all() or not positive.any():
        raise DataError(
            f"expected one score for each sample and samples of both classes, got scores of shape "
            f"{tuple(scores.shape)} and {int(positive.sum())} positives of {len(positive)}"
        )
    return float(roc_auc_score(positive.numpy(), scores.double().numpy()))


def tpr_at(scores: Tensor, positive: Tensor, fpr: float = 0.01) -> float:
    """Share of the positive samples found where at most a share `fpr` of the others is accused.

    The threshold is the least score (N,) above which there are no more of the negatives; ties count
    for nobody (Carlini et al., S&P 2022: what an attack is worth when it must be right). Raises
    DataError as `leak_auc` does.

    >>> import torch
    >>> from sltools import metrics
    >>> positive = torch.arange(200) < 100
    >>> surely = torch.where(torch.arange(200) < 30, 9.0, 0.0)  # knows 30 of the 100
    >>> metrics.tpr_at(surely, positive), metrics.tpr_at(-surely, positive)
    (0.3, 0.0)
    """
    leak_auc(scores, positive)
    scores, positive = _labels(scores), _labels(positive).bool()
    others = scores[~positive].sort(descending=True).values
    threshold = others[int(fpr * len(others))]
    return (scores[positive] > threshold).double().mean().item()


def _paired(guess: Labels, truth: Labels) -> tuple[Tensor, Tensor]:
    """Return both as (N,) tensors on the CPU, or say why they cannot be compared."""
    guess, truth = _labels(guess), _labels(truth)
    if guess.ndim != 1 or guess.shape != truth.shape or len(guess) == 0:
        raise DataError(
            f"expected two equally long lists of labels (N,), got {tuple(guess.shape)} and "
            f"{tuple(truth.shape)}; pass one class or cluster number for each image."
        )
    return guess, truth


def _labels(labels: Labels) -> Tensor:
    try:
        return torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"labels must be a tensor or a list of numbers (N,), not a {type(labels).__name__}: of "
            "a split take its `.labels`."
        ) from None


# --- Reports --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ImageScores:
    """All scores of one batch of reconstructions, each (N,).

    `ssim` is None for images smaller than its window; `summary` leaves it out then.

    >>> import torch
    >>> from sltools import metrics
    >>> truth = torch.linspace(0, 1, 64).view(1, 1, 8, 8).expand(3, 1, 8, 8)
    >>> scores = metrics.score_images(torch.stack([truth[0], 0.5 * truth[0], 1 - truth[0]]), truth)
    >>> scores.ssim is None  # images of 8 x 8 pixels are too small
    True
    >>> summary = scores.summary()
    >>> f"MSE {summary['mse_median']:.2f}, at worst {summary['mse_worst']:.2f}"
    'MSE 0.08, at worst 0.34'
    >>> f"{summary['negatives']:.0%} negatives"
    '33% negatives'
    """

    mse: Tensor
    psnr: Tensor
    ssim: Tensor | None
    aligned_mse: Tensor
    gain: Tensor

    def summary(self) -> dict[str, float]:
        """Median and worst of each score, and the share of negative images (gain < 0)."""
        result = {}
        for field in fields(self):
            if getattr(self, field.name) is None:
                continue
            values = getattr(self, field.name).tolist()
            worst = max if field.name in ("mse", "aligned_mse") else min
            result[f"{field.name}_median"] = statistics.median(values)
            result[f"{field.name}_worst"] = worst(values)
        return result | {"negatives": (self.gain < 0).double().mean().item()}


def for_json(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Replace infinities and NaN, which JSON does not know, by None: the PSNR of equal images.

    >>> from sltools import metrics
    >>> metrics.for_json({"mse": 0.0, "psnr": float("inf")})
    {'mse': 0.0, 'psnr': None}
    """
    return {key: value if math.isfinite(value) else None for key, value in numbers.items()}


def score_images(x: Tensor, truth: Tensor) -> ImageScores:
    """Score reconstructions x against the truth, both (N, C, H, W), by every measure.

    Raises DataError if the images cannot be compared, and warns of reconstructions that are far
    outside of [0, 1], where pixels are.

    >>> from sltools import data, metrics
    >>> truth = data.load("digits").test.images[:4]
    >>> scores = metrics.score_images(1 - truth, truth)  # negatives
    >>> scores.gain
    tensor([-1., -1., -1., -1.])
    >>> bool((scores.mse > 0.1).all()), bool((scores.aligned_mse < 1e-6).all())
    (True, True)
    """
    fit = affine_align(x, truth)
    if ((x - 0.5).abs() > 0.5 + OUTSIDE_BY).float().mean() > OUTSIDE_SHARE:
        warnings.warn(
            f"the reconstructions go from {x.min():.3g} to {x.max():.3g}, and scores are of pixels "
            "in [0, 1]: undo a standardisation in both (sltools.attacks.pixels.InputRange.pixels)",
            stacklevel=3,
        )
    similar = ssim(x, truth) if min(x.shape[-2:]) >= SSIM_WINDOW else None
    return ImageScores(mse(x, truth), psnr(x, truth), similar, fit.mse, fit.gain)


@dataclass(frozen=True, eq=False)
class InversionReport:
    """The attack's reconstructions beside those of somebody who saw no smashed data.

    >>> import torch
    >>> from sltools import metrics
    >>> truth = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    >>> report = metrics.score_inversion(1 - truth, truth, mean_image=torch.full((1, 8, 8), 0.5))
    >>> list(report.rows)
    ['attack', 'blank image', 'mean image']
    >>> report.as_dict()["attack"]["negatives"]
    1.0
    """

    rows: dict[str, ImageScores]

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """The summary of each row, fit for JSON."""
        return {name: for_json(scores.summary()) for name, scores in self.rows.items()}

    def __str__(self) -> str:
        lines = [["", "MSE", "worst", "aligned", "PSNR", "SSIM", "negatives"]]
        for name, scores in self.rows.items():
            s = scores.summary()
            lines.append([
                name, f"{s['mse_median']:.2g}", f"{s['mse_worst']:.2g}",
                f"{s['aligned_mse_median']:.2g}", f"{s['psnr_median']:.1f} dB",
                f"{s['ssim_median']:.3f}" if "ssim_median" in s else "-", f"{s['negatives']:.0%}",
            ])  # fmt: skip
        return _table(lines)


def score_inversion(
    inputs: Tensor, truth: Tensor, mean_image: Tensor, known_weights: Tensor | None = None
) -> InversionReport:
    """Score an attack's `inputs` against the `truth`, both (N, C, H, W), beside baselines.

    The blank image is all zeros; `mean_image`, (C, H, W) or (1, C, H, W), is the mean of public
    data; `known_weights` (N, C, H, W), if given, is what inversion reaches when the client's
    weights are known: what the same search reaches when nothing has to be stolen. Raises DataError
    if the images cannot be compared.

    >>> import torch
    >>> from sltools import metrics
    >>> truth = torch.tensor([0.0, 1.0]).repeat(32).view(1, 1, 8, 8)
    >>> print(metrics.score_inversion(0.5 * truth, truth, mean_image=torch.full((1, 8, 8), 0.5)))
                  MSE  worst  aligned    PSNR  SSIM  negatives
    attack       0.12   0.12        0  9.0 dB     -         0%
    blank image   0.5    0.5     0.25  3.0 dB     -         0%
    mean image   0.25   0.25     0.25  6.0 dB     -         0%
    """
    for images in (inputs, truth, mean_image):
        _tensor(images, "inputs, truth and mean image")
    if mean_image.shape[-3:] != truth.shape[-3:]:
        raise DataError(
            f"the mean image has the shape of an image, {tuple(truth.shape[1:])}, not "
            f"{tuple(mean_image.shape)}: of training images it is `.mean(0)`."
        )
    candidates = {
        "attack": inputs,
        "blank image": torch.zeros_like(truth),
        "mean image": mean_image.to(truth.device).expand_as(truth),
    }
    if known_weights is not None:
        candidates["known weights"] = known_weights
    return InversionReport({name: score_images(x, truth) for name, x in candidates.items()})


@dataclass(frozen=True)
class CloneReport:
    """A stolen client beside the victim and beside a client that nobody trained, in [0, 1].

    >>> from sltools import metrics
    >>> print(metrics.CloneReport(0.95, 0.97, 0.12, 0.96, 0.11))
                  accuracy  agrees with victim
    victim           97.0%              100.0%
    clone            95.0%               96.0%
    random clone     12.0%               11.0%
    """

    clone_accuracy: float
    victim_accuracy: float
    random_accuracy: float
    clone_agreement: float
    random_agreement: float

    def as_dict(self) -> dict[str, float]:
        """The five shares by name, fit for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return _table([
            ["", "accuracy", "agrees with victim"],
            ["victim", f"{self.victim_accuracy:.1%}", "100.0%"],
            ["clone", f"{self.clone_accuracy:.1%}", f"{self.clone_agreement:.1%}"],
            ["random clone", f"{self.random_accuracy:.1%}", f"{self.random_agreement:.1%}"],
        ])  # fmt: skip


def score_clone(
    clone: nn.Module, front: nn.Module, rest: nn.Module, test: Split, random_clone: nn.Module
) -> CloneReport:
    """Score a `clone` of the client's `front` by putting it before the `rest` of the network.

    The random clone, of the same architecture and untrained, says how much of the accuracy is due
    to the rest. (The published code scored the victim's front before an untrained clone of the
    rest, which says nothing about the stolen part.) Raises DataError if `test` is no split, or
    empty.

    >>> from sltools import data, metrics, models, protocol
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, digits.train, epochs=2)
    >>> untrained, _ = models.cut(models.mnist_net(seed=1), "pool1")
    >>> report = metrics.score_clone(front, front, rest, digits.test, untrained)  # a perfect copy
    >>> report.clone_accuracy == report.victim_accuracy, report.clone_agreement
    (True, 1.0)
    >>> report.random_accuracy < report.victim_accuracy
    True
    """
    test = expect(Split, test)
    candidates = {"clone": clone, "victim": front, "random": random_clone}
    guess = {name: _predict(nn.Sequential(c, rest), test.images) for name, c in candidates.items()}
    return CloneReport(
        clone_accuracy=_share(guess["clone"], test.labels),
        victim_accuracy=_share(guess["victim"], test.labels),
        random_accuracy=_share(guess["random"], test.labels),
        clone_agreement=_share(guess["clone"], guess["victim"]),
        random_agreement=_share(guess["random"], guess["victim"]),
    )


@dataclass(frozen=True)
class LabelReport:
    """Inferred labels beside blind guesses, in [0, 1]; None where nothing was given to score.

    >>> from sltools import metrics
    >>> report = metrics.score_labels([0, 0, 1, 1], classes=2, guess=[0, 0, 1, 0])
    >>> report.label_accuracy, report.cluster_accuracy, report.majority
    (0.75, None, 0.5)
    """

    label_accuracy: float | None
    cluster_accuracy: float | None
    chance: float
    majority: float
    random_partition: float | None

    def as_dict(self) -> dict[str, float | None]:
        """The five shares by name, fit for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        names = {
            "label_accuracy": "labels inferred",
            "chance": "chance",
            "majority": "always the most frequent class",
            "cluster_accuracy": "clusters, best names",
            "random_partition": "random clusters, best names",
        }
        scores = {name: getattr(self, field) for field, name in names.items()}
        lines = [[name, f"{score:.1%}"] for name, score in scores.items() if score is not None]
        return _table([["", "accuracy"], *lines])


def score_labels(
    truth: Labels,
    classes: int,
    guess: Labels | None = None,
    clusters: Labels | None = None,
    given: Tensor | None = None,
) -> LabelReport:
    """Score guessed labels (N,), or clusters (N,) without names, or both, beside blind guesses.

    `given` (N,) marks samples whose labels the attacker was given: they do not count as guessed.

    `random_partition` is the median `cluster_accuracy` of the same clusters dealt out at random:
    naming clusters with the truth at hand helps them too. Raises DataError if there is nothing to
    score or the truth holds a label outside 0 … classes - 1.

    >>> from sltools import metrics
    >>> truth = [0, 0, 0, 1, 1, 1, 2, 2]
    >>> clusters = [2, 2, 2, 0, 0, 0, 1, 1]  # the right partition, under other numbers
    >>> print(metrics.score_labels(truth, classes=3, guess=truth, clusters=clusters))
                                    accuracy
    labels inferred                   100.0%
    chance                             33.3%
    always the most frequent class     37.5%
    clusters, best names              100.0%
    random clusters, best names        62.5%
    """
    truth = _labels(truth)
    if guess is None and clusters is None:
        raise DataError("there is nothing to score; pass guess, clusters or both.")
    if len(truth) == 0 or truth.min() < 0 or truth.max() >= classes:
        raise DataError(f"the true labels must be 0 to {classes - 1}, one for each image.")
    return LabelReport(
        label_accuracy=None if guess is None else _guessed(guess, truth, given),
        cluster_accuracy=None if clusters is None else cluster_accuracy(clusters, truth),
        chance=1 / classes,
        majority=truth.bincount().max().item() / len(truth),
        random_partition=None if clusters is None else _random_partition(clusters, truth),
    )


def _guessed(guess: Labels, truth: Tensor, given: Tensor | None) -> float:
    guess, truth = _paired(guess, truth)
    known = torch.zeros(len(truth)) if given is None else torch.as_tensor(given)
    sought = ~known.cpu().bool()
    if sought.shape != truth.shape or not sought.any():
        raise DataError("`given` marks one of N samples each, and must leave one to be guessed.")
    return label_accuracy(guess[sought], truth[sought])


def _random_partition(clusters: Labels, truth: Tensor) -> float:
    generator = seeds.generator(0, "random partition")
    clusters = _labels(clusters)
    orders = (torch.randperm(len(truth), generator=generator) for _ in range(SHUFFLES))
    return statistics.median(cluster_accuracy(clusters[order], truth) for order in orders)


def _table(lines: list[list[str]]) -> str:
    """Align plain text: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )
