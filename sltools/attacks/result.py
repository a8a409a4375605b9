"""What an attack found, and how: kept in a folder, and read back in another process."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from sltools import devices, saved, storage
from sltools.errors import AttackError
from sltools.saved import Unsaved


@dataclass(kw_only=True, repr=False)
class Provenance:
    """Where a result comes from: enough to make it again, and what it cost the attacker.

    `settings` are those of the `attack`; `knowledge` names all that was read from the view;
    `interrupted` says that Ctrl-C cut it short.

    >>> from sltools.attacks.result import Provenance
    >>> told = {"attack": "UnSplit", "settings": {"steps": 5}, "knowledge": ("smashed",)}
    >>> made = Provenance(**told, device="cpu", seconds=1.5)
    >>> made.seed, made.interrupted, "torch" in made.versions
    (0, False, True)
    """

    attack: str
    settings: dict[str, Any]
    knowledge: tuple[str, ...]
    seed: int = 0
    device: str
    seconds: float
    interrupted: bool = False
    versions: dict[str, str] = field(default_factory=devices.versions)

    def __repr__(self) -> str:
        told = [f"{self.attack} in {self.seconds:.3g} s", "interrupted"][: 1 + self.interrupted]
        own = {name: value for name, value in vars(self).items() if name not in _HOW}
        shapes = [f"{n} {tuple(v.shape)}" for n, v in own.items() if isinstance(v, Tensor)]
        numbers = [f"{n} {v:.3g}" for n, v in own.items() if isinstance(v, float)]
        return f"{type(self).__name__}({', '.join(told + shapes + numbers)})"


_HOW = {part.name for part in fields(Provenance)}


@dataclass(repr=False)
class InversionResult(Provenance):
    """What an inversion attack found, and how.

    `inputs` (N, C, H, W) are the reconstructions, as the client's network was given them (see
    `pixels.InputRange.pixels` if that was not in [0, 1]), `clone` the copy of the client's network.
    `losses` maps a name to values (R,) at `loss_steps` (R,); `snapshots` (S, N, C, H, W) are the
    reconstructions at `snapshot_steps` (S,).
    `feature_loss` says how well the clone and the inputs, as returned, explain all smashed data:
    the mean squared error, divided by their variance if the attack was `scaled`; `objective` adds
    the weighted priors to it. Both are known to the attacker.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import InversionResult, UnSplit
    >>> images = data.load("digits").train[:64]
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, images, epochs=1)
    >>> result = UnSplit(steps=20, snapshots=4)(session.observe(images.images[:3]))
    >>> result  # doctest: +ELLIPSIS
    InversionResult(UnSplit in ... s, inputs (3, 1, 28, 28), loss_steps ..., objective ...)
    >>> tuple(result.snapshots.shape), result.snapshot_steps.tolist()
    ((5, 3, 1, 28, 28), [0, 5, 10, 15, 20])
    >>> sorted(result.losses)
    ['feature', 'l1', 'l2', 'total', 'tv']
    >>> with TemporaryDirectory() as folder:
    ...     again = InversionResult.open(result.save(Path(folder) / "result"))
    >>> bool((again.inputs == result.inputs).all()), again.settings == result.settings
    (True, True)
    """

    inputs: Tensor
    clone: nn.Sequential
    losses: dict[str, Tensor]
    loss_steps: Tensor
    snapshots: Tensor
    snapshot_steps: Tensor
    feature_loss: float
    objective: float

    NETWORKS: ClassVar[tuple[str, ...]] = ("clone",)
    TENSORS: ClassVar[tuple[str, ...]] = ("inputs", "loss_steps", "snapshots", "snapshot_steps")

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if isinstance(value, Unsaved):
            raise AttackError(f"the {name} is not among what was saved of this result: {value}")
        return value

    def save(self, folder: str | Path) -> Path:
        """Write the result into a new `folder` (safetensors and JSON).

        A network of other than `torch.nn` layers is left out: who asks for it later is told so.
        """
        own = vars(self)
        tensors = {name: own[name] for name in self.TENSORS if own[name] is not None}
        tensors |= {f"loss/{name}": values for name, values in self.losses.items()}
        facts: dict[str, Any] = {name: own[name] for name in _FACTS}
        for name in self.NETWORKS:
            if own[name] is not None:
                weights, facts[_key(name)] = saved.pack(name, own[name])
                tensors |= weights
        return storage.write(folder, tensors, facts)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a saved result; raise SltoolsError if it is missing or damaged."""
        tensors, facts = storage.read(folder)
        try:
            kept: dict[str, Any] = {name: tensors[name] for name in cls.TENSORS if name in tensors}
            for name in cls.NETWORKS:
                if _key(name) in facts:
                    kept[name] = saved.unpack(name, tensors, facts.pop(_key(name)))
            facts["knowledge"] = tuple(facts["knowledge"])
            return cls(losses=storage.with_prefix("loss/", tensors), **kept, **facts)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            instead = saved.other_kind("InversionResult", tensors, facts) or repr(error)
            raise AttackError(f"{folder} does not hold an inversion result: {instead}") from None


def _key(network: str) -> str:
    """Where the layers of a network are described in a file."""
    return "architecture" if network == "clone" else f"{network} architecture"


_FACTS = (
    "attack", "settings", "knowledge", "seed", "device", "seconds", "feature_loss", "objective",
    "interrupted", "versions",
)  # fmt: skip
