"""The parts of an audit, from a user's files or from the paper's own network."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from sltools import data, experiments, models
from sltools.audit import sources
from sltools.audit.sources import Samples
from sltools.audit.system import Parts
from sltools.errors import DataError
from sltools.interrupts import finished
from sltools.view import View

MOST_IMAGES = 10_000


def from_files(
    *,
    client: str | None = None,
    rest: str | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    weights: Path | None = None,
    smashed: Path | None = None,
    public: Path | None = None,
    public_labels: Path | None = None,
    view: Path | None = None,
    also: Sequence[str] = (),
) -> Parts:
    """Read what a user names: networks as FILE.py:FUNCTION, all else as files.

    Of more than 10,000 samples the first are taken. Raises SltoolsError for what cannot be read.
    """
    named = client or smashed or view
    return Parts(
        None if client is None else sources.builder(client),
        None if rest is None else sources.builder(rest),
        _samples(images, labels, "--labels"),
        None if weights is None else sources.read_weights(weights),
        None if smashed is None else sources.read_smashed(smashed),
        _samples(public, public_labels, "--public-labels"),
        None if view is None else sources.checked_view(View.open(view)),
        tuple(map(sources.builder, also)),
        "your split" if named is None else str(named),
    )


def of_paper(dataset: str, cut: str, seed: int = 0) -> Parts:
    """The paper's network, trained on `dataset` as the lessons do, and its test images.

    Raises SltoolsError for an unknown data set or stage.
    """
    known = data.load(dataset)
    shape = known.test.images.shape
    session = finished(experiments.train_victim(known, cut, seed=seed))
    weights = session.client.front.state_dict() | session.server.model.state_dict()

    def part(number: int) -> nn.Sequential:
        draw = int(torch.randint(2**31, ()))  # of the random numbers that the caller has set
        return models.cut(models.for_images(shape, draw), cut)[number]

    return Parts(
        lambda: part(0), lambda: part(1),
        Samples(known.test.images[:MOST_IMAGES], known.test.labels[:MOST_IMAGES]), weights,
        name=f"the paper's network on {dataset}, cut after {cut}", unseen=True,
    )  # fmt: skip


def _samples(path: Path | None, labels: Path | None, option: str) -> Samples | None:
    if path is None:
        if labels is not None:
            raise DataError(f"{option} are of samples, and there are none: name them too")
        return None
    found = sources.read_samples(path)
    if labels is not None:
        found = found._replace(labels=sources.read_labels(labels))
    if found.labels is not None and len(found.labels) != len(found.values):
        raise DataError(
            f"{path} has {len(found.values)} samples and there are {len(found.labels)} labels: "
            "give one for each, in the same order"
        )
    return Samples(*(None if part is None else part[:MOST_IMAGES] for part in found))  # type: ignore[arg-type]
