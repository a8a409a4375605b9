"""What challenges share: trained victims, images that no public one resembles, and their lookup.

A private digit is half known to whoever looks up the nearest of many public ones. A collage is not,
and yet it has the strokes of its kind.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from sltools import data, experiments, seeds
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
