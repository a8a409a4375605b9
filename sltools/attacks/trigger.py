"""A trigger: a patch that, stamped on an image, shall make the network say what it is told to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sltools import seeds
from sltools.errors import AttackError
from sltools.validation import attack_check

FAR = 10_000  # pixels: no image is as large


@dataclass(frozen=True)
class Trigger:
    """A square of black and white pixels, and the class `target` that shall be answered to it.

    `size` is its side in pixels; its upper left corner lies at (`row`, `column`), counted from the
    lower and the right edge if negative, as in Python. Half of its pixels are white, which ones
    comes from the stream (`seed`, "trigger"): a trigger of another seed is a fair baseline, a patch
    at the same place that nobody was trained on. `opacity`, a share, blends it with the image
    (BadNets, Gu et al. 2017; blended, Chen et al. 2017).

    Raises AttackError for a senseless setting, and for images that it does not fit on.

    >>> import torch
    >>> from sltools.attacks import Trigger
    >>> trigger = Trigger(target=7, size=2, row=-3, column=-3)
    >>> trigger.stamp(torch.full((1, 1, 4, 4), 0.5))[0, 0]
    tensor([[0.5000, 0.5000, 0.5000, 0.5000],
            [0.5000, 1.0000, 0.0000, 0.5000],
            [0.5000, 0.0000, 1.0000, 0.5000],
            [0.5000, 0.5000, 0.5000, 0.5000]])
    """

    target: int = 0
    size: int = 6
    row: int = -7
    column: int = -7
    opacity: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        attack_check.integer("target", self.target, 0)
        attack_check.integer("size", self.size)
        for name in ("row", "column"):
            attack_check.integer(name, getattr(self, name), -FAR)
        attack_check.share("opacity", self.opacity)
        attack_check.seed(self.seed)

    @property
    def patch(self) -> Tensor:
        """The pixels (size, size), 0 or 1."""
        places = torch.randperm(self.size**2, generator=seeds.generator(self.seed, "trigger"))
        return (places < (self.size**2 + 1) // 2).float().view(self.size, self.size)

    def mask(self, height: int, width: int) -> Tensor:
        """Where the patch lies on an image: (height, width), True or False.

        >>> from sltools.attacks import Trigger
        >>> int(Trigger(size=3).mask(28, 28).sum())
        9
        """
        top = self.row if self.row >= 0 else height + self.row
        left = self.column if self.column >= 0 else width + self.column
        if min(top, left) < 0 or max(top - height, left - width) + self.size > 0:
            raise AttackError(
                f"a trigger of {self.size} x {self.size} pixels at ({self.row}, {self.column}) "
                f"does not fit on images of {height} x {width}: choose another size or place"
            )
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[top : top + self.size, left : left + self.size] = True
        return mask

    def stamp(self, images: Tensor) -> Tensor:
        """Return a copy of `images` (N, C, H, W), all of which carry the trigger."""
        if not isinstance(images, Tensor) or images.ndim != 4:
            raise AttackError("a trigger is stamped on a tensor of images (N, C, H, W)")
        rows, columns = self.mask(*images.shape[-2:]).nonzero(as_tuple=True)
        stamped = images.clone()
        new = self.patch.flatten().to(images)
        stamped[..., rows, columns] = torch.lerp(images[..., rows, columns], new, self.opacity)
        return stamped
