"""How a party makes its optimiser."""

from collections.abc import Callable, Iterable
from functools import partial

from torch import nn
from torch.optim import Adam, Optimizer

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

adam: MakeOptimizer = partial(Adam, lr=1e-3, amsgrad=True)  # as in the reference code
