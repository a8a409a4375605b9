"""What challenges share: trained victims, images that no public one resembles, and their lookup.

A private digit is half known to whoever looks up the nearest of many public ones. A collage is not,
and yet it has the strokes of its kind.
"""

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from sltools import data, experiments, metrics, seeds
from sltools.checking.task import Answer, Wrong, tensor
from sltools.protocol import Session
from sltools.view import View


@lru_cache(maxsize=2)  # answers are given copies
def trained_on_digits(cut: str, seed: int) -> Session:
    """Train a victim on digits, cut after the stage `cut`; every answer to one seed meets it."""
    return experiments.train_victim(
        data.load("digits"), cut, seed=seeds.derive(seed, "victim") % 2**31
    )


def collages(digits: Tensor, seed: int, count: int) -> Tensor:
    """Put quarters of four different digits together, each digit turned and moved a little.

    `digits` (N, 1, H, W) are 8 x 8 images, enlarged; so are the (count, 1, H, W) collages.
    """
    generator = seeds.generator(seed, "targets")
    chosen = digits[torch.randperm(len(digits), generator=generator)[: 4 * count]]
    angle = (torch.rand(4 * count, generator=generator) - 0.5) * math.pi / 6
    move = (torch.rand(4 * count, 2, generator=generator) - 0.5) * 0.3
    rows = [(angle.cos(), -angle.sin(), move[:, 0]), (angle.sin(), angle.cos(), move[:, 1])]
    turn = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = affine_grid(turn, [4 * count, 1, 8, 8], align_corners=False)
    small = grid_sample(chosen, grid, align_corners=False).view(4, count, 1, 8, 8)
    upper = torch.cat([small[0, ..., :4, :4], small[1, ..., :4, 4:]], dim=-1)
    lower = torch.cat([small[2, ..., 4:, :4], small[3, ..., 4:, 4:]], dim=-1)
    whole = torch.cat([upper, lower], dim=-2)
    return interpolate(whole, size=digits.shape[-2:], mode="bilinear").clamp(0, 1)


def noise(shape: Sequence[int], stream: np.random.Generator) -> Tensor:
    """Draw standard normal noise, of a `seeds.keyed` stream: it hides something."""
    return torch.from_numpy(stream.standard_normal(tuple(shape), dtype=np.float32))


def nearest(view: View, public: Tensor) -> Tensor:
    """Look up for each smashed datum the image of `public` whose own comes nearest to it."""
    with torch.no_grad():
        known = view.client_model(public).flatten(1)
    return public[torch.cdist(view.smashed.flatten(1), known).argmin(1)]


def are_public(images: Tensor, public: Tensor) -> bool:
    """Say whether each of `images` (N, C, H, W) is one of `public`, or nearly."""
    exact = "donot_use_mm_for_euclid_dist"
    apart = torch.cdist(images.flatten(1), public.flatten(1), compute_mode=exact)
    return bool((apart.amin(1) < 0.01).all())


def median_mse(images: Tensor, truth: Tensor) -> float:
    """The median over images (N, C, H, W) of their raw MSE."""
    return statistics.median(metrics.mse(images, truth).tolist())


def check_control(
    control: Tensor, got: Tensor, truth: Tensor, mean: float, what: str, tolerance: float = 0.0
) -> None:
    """Raise Wrong if an answer does as well on the messages of other images.

    `got` was made of the messages of `truth`, `control` of those of others, which must lead to
    other images, or the attack knows too much; `mean` is the mean image's error. Pixels that differ
    by no more than `tolerance` are the same.
    """
    if (got - control).abs().max() <= tolerance:
        raise Wrong(f"Your answer does not depend on the {what}.")
    if median_mse(control, truth) < mean:
        raise Wrong(
            f"Given the {what} of other images, your attack still comes close to these ones: it "
            "uses something that was not sent."
        )


def reconstruct(
    answer: Answer, session: Session, truth: Tensor, public: Tensor, enough: float, well: float
) -> str:
    """Judge an attack with known weights and public images on `truth`; return what it earned.

    Its error must be at most `enough` times that of the better of two baselines, the mean image and
    the nearest public images, for half the points, and `well` times for all.
    """
    view = session.observe(truth, ["client_model"])
    got = tensor(answer(view), truth.shape, "the reconstructions")
    turned = session.observe(truth.roll(1, 0), ["client_model"])
    control = tensor(answer(turned), truth.shape, "the reconstructions")
    mean = median_mse(public.mean(0).expand_as(truth), truth)
    check_control(control, got, truth, mean, "smashed data")
    lookup, error = median_mse(nearest(view, public), truth), median_mse(got, truth)
    told = f"median MSE {error:.4f}, mean image {mean:.4f}, nearest public images {lookup:.4f}"
    if are_public(got, public):
        raise Wrong(
            "Each of your images is a public one. That says what the private image is like, and "
            f"not what it is: {told}."
        )
    if error > enough * min(mean, lookup):
        raise Wrong(f"Not clearly better than both baselines: {told}.")
    if error > well * min(mean, lookup):
        less = f"by less than {1 - well:.0%}"
        raise Wrong(f"Better than the better baseline, {less}: {told}.", share=0.5)
    return f"{told[0].upper()}{told[1:]}."
