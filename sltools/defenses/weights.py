"""DP-SGD on the client: it protects what the weights remember, not what the messages say."""

from collections.abc import Iterable
from functools import partial

from torch import Tensor, nn
from torch.optim import Optimizer

from sltools import seeds
from sltools.defenses import accounting
from sltools.errors import DefenseError
from sltools.protocol import MakeOptimizer, adam
from sltools.validation import defense_check


class PrivateOptimizer:
    """DP-SGD for the client's front: per-sample gradients clipped to norm `clip`, then noise.

        Client(front, optimizer=PrivateOptimizer(front, clip=1.0, multiplier=1.0, batch_size=64))

    The noise on the sum of the gradients has standard deviation `multiplier`·`clip` (Abadi et al.
    2016, with opacus). `inner` is what then takes the step. Raises DefenseError without opacus.
    DP-SGD supposes that each sample's gradient depends on that sample alone. A server that learns
    from the smashed data of an image changes the gradients it returns for all others, and so does a
    penalty that couples the samples of a batch (NoPeek): then `epsilon` is too small.
    A training batch of more than `batch_size` images is refused: `epsilon` would be too small too.
    Gawron and Stubbings (arXiv 2201.04018) show that hijacking works against it at any epsilon.

    >>> from sltools import data, models, protocol
    >>> from sltools.defenses import PrivateOptimizer
    >>> split = data.load("digits").train
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> private = PrivateOptimizer(front, clip=1.0, multiplier=1.0, batch_size=64)
    >>> client = protocol.Client(front, optimizer=private)
    >>> session = protocol.train(client, rest, split, epochs=1, batch_size=64)
    >>> [round(private.epsilon(len(split), steps)) for steps in (23, 230)]  # 1 and 10 epochs
    [2, 5]
    """

    promises = "(epsilon, delta) for the weights, from a server whose replies do not learn from z"
    leaves = "every message; and a server that learns carries an image into the gradients of others"

    def __init__(
        self,
        front: nn.Sequential,
        clip: float,
        multiplier: float,
        batch_size: int = 64,
        inner: MakeOptimizer = adam,
        seed: int = 0,
    ) -> None:
        self.clip = defense_check.positive("clip", clip)
        self.multiplier = defense_check.positive("multiplier", multiplier)
        self.batch_size = defense_check.integer("batch_size", batch_size)
        self._front, self._inner, self._seed = front, inner, defense_check.seed(seed)

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Make the optimiser; from now on the front keeps the gradient of each sample."""
        try:
            from opacus.grad_sample import GradSampleModule
            from opacus.optimizers import DPOptimizer
        except ImportError:
            raise DefenseError("DP-SGD needs opacus: pip install opacus") from None
        weights = list(parameters)
        if len(weights) != len(list(self._front.parameters())):
            raise DefenseError(
                "this optimiser protects a client's front and must be given no other weights: use "
                "it for a vanilla client, whose only part is that front"
            )
        if hasattr(self._front, "autograd_grad_sample_hooks"):
            raise DefenseError(
                "this front has been given to a client with DP-SGD before: cut a new network"
            )
        GradSampleModule(self._front)  # sets hooks on the layers, which go on to be used as before
        self._front.register_forward_pre_hook(partial(_require_input_grad, self.batch_size))
        generator = seeds.generator(self._seed, type(self).__name__)
        return DPOptimizer(
            self._inner(weights),
            noise_multiplier=self.multiplier,
            max_grad_norm=self.clip,
            expected_batch_size=self.batch_size,
            generator=generator,
        )

    def epsilon(self, samples: int, steps: int, delta: float = 1e-5) -> float:
        """Return epsilon of the weights after `steps` on batches drawn at random from `samples`.

        By opacus' RDP accountant, for Poisson sampling. Whole epochs in a shuffled order, as
        `protocol.train` takes them, are usually accounted so too, though no theorem says it.
        """
        rate = min(1.0, self.batch_size / defense_check.positive("samples", samples))
        return accounting.epsilon(self.multiplier, steps, delta, rate)

    def __repr__(self) -> str:
        return f"PrivateOptimizer(clip={self.clip!r}, multiplier={self.multiplier!r})"


def _require_input_grad(
    most: int, front: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Let the images ask for a gradient, without which torch warns of opacus' hooks."""
    if front.training and len(inputs[0]) > most:
        raise DefenseError(
            f"a batch of {len(inputs[0])} images, and DP-SGD was told of {most}: give "
            "PrivateOptimizer the batch_size of the training"
        )
    return tuple(images.detach().requires_grad_() for images in inputs)
