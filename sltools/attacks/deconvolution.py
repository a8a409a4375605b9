"""Inversion of a client that is a single convolution: by algebra, without a search."""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import fold, unfold

from sltools import devices
from sltools.attacks import colours
from sltools.attacks.inversion import as_targets, input_shape
from sltools.attacks.result import InversionResult
from sltools.errors import AttackError
from sltools.models import Architecture
from sltools.validation import attack_check
from sltools.view import View, fresh

CHUNK = 256  # images whose windows are looked at together
SOLVE_IMAGES = 256  # images to find the solution by; it is then applied to all
MAX_UNKNOWNS = 3000  # unknowns, whose eigenvectors take some seconds
ROUNDING = 1e-13  # of the greatest second moment: what single precision leaves where nothing is
ROUNDING_DISAGREEMENT = 1e-10  # disagreement that may be rounding
MAX_DISAGREEMENT_RATIO = 0.5  # of a right solution's disagreement to that of the next, a wrong one
BLACK_TOLERANCE = 0.15  # of the step from black to white: noise and rounding leave less below black
MIN_CONTRAST = 0.05  # of the range of values: one below it is noise, or the black that most are
AMBIGUOUS = (
    "these smashed data do not tell the images: wrong solutions agree as well as right ones. The "
    "filters may be too few, too large or too much alike, the images too few or too much alike, or "
    "there is too much noise"
)


@dataclass(frozen=True)
class BlindDeconvolution:
    """Recover the inputs of a convolution whose weights are unknown, and the weights.

    Under a window of smashed data lie fewer pixels than the window has numbers, so that, unless the
    filters are special, each pixel is a linear function of them, the same at every place. Which
    function follows from two facts: windows that overlap must agree on the pixels they share, and a
    padded border is zero. (Blind identification of several channels: Moulines et al., IEEE
    Transactions on Signal Processing 43, 1995; by what equalisers must agree on, Gesbert, Duhamel
    and Mayrargue, the same 45, 1997.) Nothing is random here and nothing is searched. What a ReLU
    behind the convolution puts out is treated as noise: then the solution is no longer exact.

    Any mixture of the channels agrees too and, with a bias and without padding, any offset.
    Assumptions on images decide: one channel is taken for images on black, three for photographs
    (see `colours`), and of all values the share `exposure` is below 1 (and, where the offset is
    open, as many are above 0).

    Reads smashed data and architecture. Raises AttackError unless the client is one Conv2d, with a
    ReLU or without, of stride 1 and in one group, of one channel, or of three with a border of
    zeros; and where the smashed data do not tell right solutions from wrong ones.

    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import BlindDeconvolution
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "conv1")
    >>> session = protocol.train(front, rest, digits.train[:64], epochs=1)
    >>> secret = digits.test.images[:10]
    >>> result = BlindDeconvolution()(session.observe(secret))
    >>> result.knowledge
    ('client architecture', 'smashed')
    >>> bool(metrics.mse(result.inputs, secret).max() < 0.001)
    True
    """

    exposure: float = 0.99
    device: str | None = None

    def __post_init__(self) -> None:
        attack_check.share("exposure", self.exposure)

    def __call__(self, view: View) -> InversionResult:
        """Attack what `view` shows, in double precision: seconds for filters of 5 x 5 pixels.

        The result has no losses; its `feature_loss` is relative to the variance of smashed data.
        """
        start = time.perf_counter()
        view = fresh(view)
        smashed = as_targets(view.smashed)
        smashed = smashed.to(devices.find(self.device or smashed.device)).double()
        (layer, rectified), shape = _only_convolution(view.architecture), input_shape(view)
        _check_fit(layer, shape, smashed)
        mixed = _solve(smashed, layer, shape)
        weight, bias = _fit(mixed, smashed, layer, True, rectified)
        padded = any(layer.padding)
        if layer.bias is None and not padded:  # nothing takes up an offset, so the data tell it
            sums = weight.flatten(1).sum(1)
            mixed = mixed + bias @ sums / (sums @ sums)
        matrix, offset = self._unmix(mixed, weight, black_known=padded or layer.bias is None)
        inputs = torch.einsum("dc,nchw->ndhw", matrix, mixed) + offset
        self._warn_of_range(inputs)
        weight, bias = _fit(inputs, smashed, layer, layer.bias is not None, rectified)
        clone = view.architecture.build(seed=0).to(inputs)
        state = {"weight": weight} | ({} if layer.bias is None else {"bias": bias})
        clone[0].load_state_dict(state)
        inputs, clone = inputs.clamp(0, 1).float(), clone.float()
        with torch.no_grad():
            error = (clone(inputs) - smashed).square().mean() / smashed.var(correction=0)
        return InversionResult(
            inputs=inputs,
            clone=clone,
            losses={},
            loss_steps=torch.empty(0, dtype=torch.long),
            snapshots=inputs.unsqueeze(0).cpu(),
            snapshot_steps=torch.zeros(1, dtype=torch.long),
            attack=type(self).__name__,
            settings=asdict(self),
            knowledge=view.knowledge,
            seed=0,
            device=str(smashed.device),
            seconds=time.perf_counter() - start,
            feature_loss=error.item(),
            objective=error.item(),
        )

    def _unmix(
        self, mixed: Tensor, weight: Tensor, black_known: bool
    ) -> tuple[Tensor, Tensor | float]:
        """The matrix (C, C) and the offset that make images of the mixed ones.

        The offset is 0 if black is known: a border of zeros, or no bias, has `black_known` it.
        """
        if mixed.shape[1] == 3:
            by_channel = weight.flatten(2).unsqueeze(0)
            matrix = colours.correction(mixed.unsqueeze(0), by_channel)[0]
            coloured = torch.einsum("dc,nchw->ndhw", matrix, mixed)
            return matrix / _contrast(self._white_level(coloured), coloured), 0.0
        high, low = self._white_level(mixed), -self._white_level(-mixed)
        if black_known:
            white = high if mixed.mean() > 0 else low
            return (1 / _contrast(white, mixed)).view(1, 1), 0.0
        if mixed.mean() > (high + low) / 2:  # a negative: most of an image is dark
            high, low = low, high
        contrast = _contrast(high - low, mixed)
        return (1 / contrast).view(1, 1), -low / contrast

    def _warn_of_range(self, inputs: Tensor) -> None:
        """Warn if black, where it is known to be 0, does not lie at the end of the values."""
        low = -self._white_level(-inputs)
        if low < -BLACK_TOLERANCE:
            warnings.warn(
                f"the images found go from {low:.2g} to 1, and this attack takes them for pixels "
                "in [0, 1], on black: what is darker is cut off, and light and dark may be "
                "exchanged. Was the client trained on standardised images? Then use UnSplit, with "
                "their input_range. Or are its three channels not those of photographs?",
                stacklevel=3,
            )

    def _white_level(self, images: Tensor) -> Tensor:
        """The value that the share `exposure` of all is below."""
        ordered = images.flatten().sort().values  # torch.quantile takes too few
        return ordered[int(self.exposure * (len(ordered) - 1))]


def _contrast(found: Tensor, images: Tensor) -> Tensor:
    """Return `found`, the step from black to white; AttackError if it is next to nothing."""
    if found.abs() < MIN_CONTRAST * (images.max() - images.min()):
        raise AttackError(
            "almost all pixels are black, or almost all white, so their exposure cannot be told: "
            "give a larger exposure, the share of pixels that are below white"
        )
    return found


def _only_convolution(architecture: Architecture) -> tuple[nn.Conv2d, bool]:
    """Return the convolution of the client, and if a ReLU follows; or raise AttackError."""
    network = architecture.build(seed=0)
    layer, *others = network
    known = [type(other) for other in others] in ([], [nn.ReLU])
    if not isinstance(layer, nn.Conv2d) or not _is_plain(layer) or not known:
        raise AttackError(
            "blind deconvolution is for a client that is one Conv2d, of stride and dilation 1, in "
            "one group, padded with zeros or not at all, with a ReLU behind it or none; this one "
            f"is {network}"
        )
    padded = all(layer.padding)
    if layer.in_channels not in (1, 3) or (layer.in_channels == 3 and not padded):
        raise AttackError(
            "nothing decides how to mix the channels: blind deconvolution takes one channel, or "
            f"three with a border of zeros on all sides, not {layer.in_channels} with padding "
            f"{layer.padding}"
        )
    return layer, bool(others)


def _is_plain(layer: nn.Conv2d) -> bool:
    """Say whether every window of the image, which may have a border of zeros, is met alike."""
    border = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    once = layer.groups == 1 and {*layer.stride, *layer.dilation} == {1}
    return border and once and all(layer.padding) == any(layer.padding)


def _check_fit(layer: nn.Conv2d, shape: Sequence[int], smashed: Tensor) -> None:
    """Raise AttackError unless `layer` makes of images of `shape` what was sent."""
    made = layer(torch.zeros(1, *shape)).shape[1:] if shape[0] == layer.in_channels else None
    if smashed.shape[1:] != made:
        raise AttackError(
            f"the architecture does not fit the smashed data: {layer} does not make "
            f"{tuple(smashed.shape[1:])} of images {tuple(shape)}. Is it the architecture of this "
            "cut?"
        )


def _solve(smashed: Tensor, layer: nn.Conv2d, shape: tuple[int, ...]) -> Tensor:
    """The images (N, C, H, W), up to a mixture of their channels and, without padding, an offset.

    A window of smashed data y (with a 1 beside it) tells the pixel k below it as a product m_k y.
    Any m by which overlapping windows agree, and see zeros outside, makes a mixture of channels.
    """
    side, basis = _basis(smashed[:SOLVE_IMAGES], layer)
    extent = _receptive_field(layer, side)
    unfold_options: dict[str, Any] = {"kernel_size": extent, "padding": layer.padding}
    inside = unfold(torch.ones(1, 1, *shape[1:]).to(smashed), **unfold_options)[0]  # (K, L)
    disagreement = _disagreement(_windows(smashed[:SOLVE_IMAGES], side), basis, extent, inside)
    count = layer.in_channels + (not any(layer.padding))  # without a border a constant agrees too
    values, vectors = _smallest_eigenvectors(disagreement, count + 1)
    if (
        max(values[count - 1].item(), ROUNDING_DISAGREEMENT)
        > MAX_DISAGREEMENT_RATIO * values[count]
    ):
        raise AttackError(AMBIGUOUS)
    equalisers = basis @ vectors[:, :count].view(len(inside), -1, count)  # (K, D, count)
    times = fold(inside.unsqueeze(0), shape[1:], **unfold_options)  # how many windows see a pixel
    found = []
    for chunk in smashed.split(CHUNK):
        read = torch.einsum("kdm,ndl->nmkl", equalisers, _windows(chunk, side).flatten(2)) * inside
        found.append(fold(read.flatten(1, 2), shape[1:], **unfold_options) / times)
    images = torch.cat(found)
    return images if any(layer.padding) else _without_constant(images)


def _receptive_field(layer: nn.Conv2d, side: int) -> tuple[int, int]:
    """The pixels, down and across, that lie under a window of `side` x `side` places."""
    rows, columns = layer.kernel_size
    return rows + side - 1, columns + side - 1


def _basis(smashed: Tensor, layer: nn.Conv2d) -> tuple[int, Tensor]:
    """The side of the least window that tells what lies under it, and a basis (D, d) of windows.

    In that basis windows are white. They have one dimension for each number that lies under them,
    and one for the 1; if the filters or the images are special, they have fewer.
    """
    for side in range(1, min(smashed.shape[2:])):
        pixels = math.prod(_receptive_field(layer, side))
        rank = layer.in_channels * pixels + 1
        if pixels * rank > MAX_UNKNOWNS:
            break
        if pixels == 1 or layer.out_channels * side**2 + 1 < rank:
            continue
        windows = _windows(smashed, side)
        values, vectors = torch.linalg.eigh(_second_moment(windows, windows))
        if values[-rank] > ROUNDING * values[-1]:
            return side, vectors[:, -rank:] / values[-rank:].sqrt()
    raise AttackError(AMBIGUOUS)


def _second_moment(left: Tensor, right: Tensor) -> Tensor:
    """The products of windows (N, D, ...), summed over places and averaged over images: (D, D)."""
    return torch.einsum("ndl,nel->de", left.flatten(2), right.flatten(2)) / len(left)


def _windows(smashed: Tensor, side: int) -> Tensor:
    """All windows of smashed data (N, O, h, w), each with a 1: (N, O side^2 + 1, rows, columns)."""
    rows, columns = (size - side + 1 for size in smashed.shape[2:])
    numbers = unfold(smashed, side).unflatten(2, (rows, columns))
    return torch.cat([numbers, torch.ones_like(numbers[:, :1])], dim=1)


def _disagreement(
    windows: Tensor, basis: Tensor, extent: tuple[int, int], inside: Tensor
) -> Tensor:
    """The squared disagreement (K d, K d), in a `basis` (D, d) of windows, of m_k for K pixels.

    That is how much two windows side by side differ on pixels that both see, and how far from zero
    is a pixel that is not `inside` (K, L) the image.
    """

    def moment(left: Tensor, right: Tensor) -> Tensor:
        return basis.T @ _second_moment(left, right) @ basis

    rank = basis.shape[1]
    total = windows.new_zeros(len(inside), rank, len(inside), rank)
    for pixel, outside in enumerate(inside.unflatten(1, windows.shape[2:]) == 0):
        if outside.any():
            total[pixel, :, pixel] += moment(windows[..., outside], windows[..., outside])
    for down, across in ((0, 1), (1, 0)):
        one = windows[..., : -down or None, : -across or None]
        next_ = windows[..., down:, across:]
        ones, nexts, both = moment(one, one), moment(next_, next_), moment(one, next_)
        for row, column in product(range(down, extent[0]), range(across, extent[1])):
            pixel = row * extent[1] + column
            other = pixel - down * extent[1] - across  # the same pixel, as the next window sees it
            total[pixel, :, pixel] += ones
            total[other, :, other] += nexts
            total[pixel, :, other] -= both
            total[other, :, pixel] -= both.T
    return total.flatten(2).flatten(0, 1)


def _smallest_eigenvectors(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` least eigenvalues, in order, and their vectors in columns (torch finds all)."""
    from scipy.linalg import eigh  # slow to import, and only needed here

    found = eigh(matrix.cpu().numpy(), subset_by_index=[0, count - 1])
    values, vectors = (torch.from_numpy(array).to(matrix) for array in found)
    return values, vectors


def _without_constant(images: Tensor) -> Tensor:
    """Of images (N, C + 1, H, W) among whose mixtures is a constant, C that vary the most."""
    centred = images - images.mean((0, 2, 3), keepdim=True)
    _, vectors = torch.linalg.eigh(torch.einsum("nchw,ndhw->cd", centred, centred))
    return torch.einsum("nchw,cd->ndhw", centred, vectors[:, 1:])


def _fit(
    images: Tensor, smashed: Tensor, layer: nn.Conv2d, biased: bool, rectified: bool
) -> tuple[Tensor, Tensor]:
    """The weight, and the bias if any, that turn `images` into `smashed` with the least error.

    Where a ReLU put out zero, it does not tell what it was given.
    """
    products, wanted = smashed.new_zeros(()), smashed.new_zeros(())
    for image, sent in zip(images.split(CHUNK), smashed.split(CHUNK), strict=True):
        patches = unfold(image, layer.kernel_size, padding=layer.padding)  # type: ignore[arg-type]
        if biased:
            patches = torch.cat([patches, torch.ones_like(patches[:, :1])], dim=1)
        sent = sent.flatten(2)
        observed = (sent > 0).to(sent) if rectified else torch.ones_like(sent[:, :1])
        products = products + torch.einsum("nol,npl,nql->opq", observed, patches, patches)
        wanted = wanted + torch.einsum("npl,nol->op", patches, sent)
    solved = (torch.linalg.pinv(products, hermitian=True) @ wanted.unsqueeze(2)).squeeze(2)
    size = layer.weight[0].numel()
    return solved[:, :size].view_as(layer.weight), solved[:, size:].squeeze(1)
