"""What an attacker with data of its own may have, and what it could do with that data alone."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, pad
from torch.optim import Adam

from sltools import data, devices, models, seeds
from sltools.errors import DataError
from sltools.experiments.targets import public_rows
from sltools.progress import bar

SHIFT = 2  # pixels by which the own network's training images are moved, at most
# The images that the support vector machine learns from besides: a radian, and shares of the side.
TURN, SHEAR, SCALE, MOVE = 0.2, 0.15, 0.1, 0.1
COPIES, MOST_WARPED = 20, 45_000


class AuxiliaryData(NamedTuple):
    """Test images that are no targets, in two parts: the attacker's own, and those to score on."""

    auxiliary: data.Split
    held_out: data.Split


def auxiliary_data(
    dataset: data.Dataset, count: int, *, targets: int = 10, seed: int = 0
) -> AuxiliaryData:
    """Give an attacker `count` test images, drawn from (`seed`, "auxiliary"); hold out the others.

    Neither part has an image of the client's training or of the first `targets`. Raises DataError
    if there are not so many.

    >>> from sltools import data, experiments
    >>> own, held_out = experiments.auxiliary_data(data.load("digits"), 200)
    >>> len(own), len(held_out)
    (200, 150)
    """
    rows = public_rows(dataset, targets)
    if not isinstance(count, int) or not 1 <= count < len(rows):
        raise DataError(
            f"{count} auxiliary images cannot be drawn: {dataset.name} has {len(rows)} test images "
            f"that are no targets, and one at least is held out; give 1 to {len(rows) - 1}"
        )
    order = torch.randperm(len(rows), generator=seeds.generator(seed, "auxiliary"))
    rows = rows[order]
    return AuxiliaryData(dataset.test[rows[:count]], dataset.test[rows[count:]])


def check_disjoint(auxiliary: data.Split, private: Tensor) -> None:
    """Raise DataError if an image of `auxiliary` is among the `private` ones (N, C, H, W).

    Images are compared as pixels of 8 bits. No attack looks for such images itself: it has no
    private ones to compare with.

    >>> from sltools import data, experiments
    >>> digits = data.load("digits")
    >>> experiments.check_disjoint(digits.test[10:], digits.test.images[:10])
    """
    if not isinstance(private, Tensor):
        raise DataError(
            f"the private images are a tensor (N, C, H, W), not a {type(private).__name__}: take "
            "a split's `.images`"
        )
    known = set(pixel_bytes(private))
    shared = sum(image in known for image in pixel_bytes(auxiliary.images))
    if shared:
        raise DataError(
            f"{shared} of {len(auxiliary)} auxiliary images are among the private ones, so the "
            "attack would be shown what it is to find: leave them out (public_rows tells which "
            "test images are no targets)"
        )


def pixel_bytes(images: Tensor, levels: int = 255) -> list[bytes]:
    """Each image (N, C, H, W) in [0, 1] as bytes, which are equal for equal images.

    Images are equal if all their pixels round to the same of `levels` steps.

    >>> import torch
    >>> from sltools.experiments.auxiliary import pixel_bytes
    >>> one, other = pixel_bytes(torch.tensor([0.5, 0.5001]).view(2, 1, 1, 1))
    >>> one == other
    True
    """
    whole = (images.detach().cpu() * levels).round().to(torch.int32)
    return [image.numpy().tobytes() for image in whole]


def class_means(auxiliary: data.Split, labels: Tensor) -> Tensor:
    """The mean auxiliary image of each label (N,): a baseline (N, C, H, W) that knows the classes.

    A class without auxiliary images gets the mean of all.

    >>> from sltools import data, experiments
    >>> digits = data.load("digits")
    >>> tuple(experiments.class_means(digits.test, digits.train.labels[:3]).shape)
    (3, 1, 28, 28)
    """
    means = auxiliary.images.mean(0).repeat(int(labels.max()) + 1, 1, 1, 1)
    for label in auxiliary.labels.unique().tolist():
        if label < len(means):
            means[label] = auxiliary.images[auxiliary.labels == label].mean(0)
    return means[labels]


def support_vectors(auxiliary: data.Split, images: Tensor) -> Tensor:
    """Labels (N,) that a support vector machine (RBF, C = 10) gives `images`, from `auxiliary`.

    A rival of a stolen client: what the attacker's data are worth without any attack. It learns
    from each image and from up to twenty that are a little turned, sheared, scaled and moved, drawn
    from (0, "warped"); of more than 2,000 images from as many as make 45,000 in all. Raises
    DataError for images of one class.

    >>> from sltools import data, experiments
    >>> digits = data.load("digits")
    >>> guess = experiments.support_vectors(digits.train[:200], digits.test.images)
    >>> bool((guess == digits.test.labels).float().mean() > 0.9)
    True
    """
    from sklearn.svm import SVC

    if len(auxiliary.labels.unique()) < 2:
        raise DataError(
            f"all {len(auxiliary)} auxiliary images are of one class, so there is nothing to tell "
            "apart: give images of two classes at least"
        )
    own = auxiliary.to("cpu")
    rows = torch.arange(len(own)).repeat(min(COPIES, MOST_WARPED // len(own)))
    warped = _warped(own.images[rows], seeds.generator(0, "warped"))
    learned, labels = torch.cat([own.images, warped]), torch.cat([own.labels, own.labels[rows]])
    machine = SVC(C=10.0).fit(learned.flatten(1), labels)
    return torch.from_numpy(machine.predict(images.flatten(1).cpu()))


def _warped(images: Tensor, draw: torch.Generator) -> Tensor:
    """Turn, shear, scale and move each image (N, C, H, W); what comes in is black."""
    if max(images.shape[-2:]) == 1:  # rows of a table, which have no places
        return images

    def within(most: float) -> Tensor:
        return most * (2 * torch.rand(len(images), generator=draw) - 1)

    angle, shear, scale = within(TURN), within(SHEAR), 1 + within(SCALE)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = [
        torch.stack([cosine, shear - sine, within(MOVE)], 1),
        torch.stack([sine, cosine, within(MOVE)], 1),
    ]
    places = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return grid_sample(images, places, align_corners=False)


def own_network(
    auxiliary: data.Split, *, steps: int = 2000, seed: int = 0, device: str = "cpu"
) -> nn.Sequential:
    """Train the paper's network on `auxiliary` alone, with shifts of up to two pixels.

    The stronger rival of a stolen client. Adam at 2e-3, falling along a cosine, on 64 images a
    step; weights, order and shifts come from streams of `seed`.

    >>> from sltools import data, experiments, metrics
    >>> digits = data.load("digits")
    >>> rival = experiments.own_network(digits.train[:200], steps=100)
    >>> metrics.accuracy(rival, digits.test) > 0.6
    True
    """
    place = devices.find(device)
    net = models.for_images(auxiliary.images.shape, seeds.derive(seed, "own network")).to(place)
    draw = seeds.generator(seed, "own network's data")
    images, labels = auxiliary.images.to(place), auxiliary.labels.to(place)
    optimizer = Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for _ in bar(range(steps), "own network"):
        rows = torch.randint(len(labels), (64,), generator=draw).to(place)
        loss = cross_entropy(net(_shifted(images[rows], draw)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def _shifted(images: Tensor, draw: torch.Generator) -> Tensor:
    """Move each image (N, C, H, W) by up to SHIFT pixels each way; what comes in is black."""
    height, width = images.shape[-2:]
    moves = torch.randint(2 * SHIFT + 1, (2, len(images), 1), generator=draw).to(images.device)
    rows = moves[0] + torch.arange(height, device=images.device)
    columns = moves[1] + torch.arange(width, device=images.device)
    padded = pad(images, (SHIFT, SHIFT, SHIFT, SHIFT)).movedim(1, -1)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
