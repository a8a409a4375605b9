"""The logical CUDA device refuses what a GPU would, and takes what a GPU takes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import logical_cuda
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from sltools import lessons


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    with logical_cuda.device():
        yield


class Forgetful(nn.Module):
    """Makes a tensor on the default device on its way."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(x.shape[1:])


class Unregistered(nn.Module):
    """Keeps a tensor that no `to` moves."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def on_cuda() -> Tensor:
    return torch.rand(2, 3).to("cuda")


MISTAKES: dict[str, Callable[[], object]] = {
    "a network that stays behind": lambda: nn.Linear(3, 2)(on_cuda()),
    "inputs that stay behind": lambda: nn.Linear(3, 2).to("cuda")(torch.rand(2, 3)),
    "a tensor on the default device": lambda: Forgetful()(on_cuda()),
    "a tensor that is no buffer": lambda: Unregistered().to("cuda")(on_cuda()),
    "labels that stay behind": lambda: cross_entropy(on_cuda(), torch.zeros(2).long()),
    "one in a list": lambda: torch.cat([on_cuda(), torch.rand(2, 3)]),
    "moved back, in place": lambda: on_cuda().add_(on_cuda().cpu()),
    "compared": lambda: torch.equal(on_cuda(), torch.rand(2, 3)),
    "numpy": lambda: on_cuda().numpy(),
    "numpy without being asked": lambda: np.asarray(on_cuda()),
    "a generator of the CPU": lambda: torch.rand(
        2, device="cuda", generator=torch.Generator().manual_seed(0)
    ),
    "a generator of the CPU, in place": lambda: on_cuda().normal_(
        generator=torch.Generator().manual_seed(0)
    ),
    "an index of the GPU into the CPU": lambda: torch.rand(2, 3)[on_cuda().argmax(0)],
    "a number of the GPU": lambda: torch.rand(2, 3) * on_cuda().sum(),
    "an optimizer made before the move": lambda: stepped_before_it_moved(),
}


def stepped_before_it_moved() -> None:
    """Moments that were made on the CPU meet weights on the GPU."""
    network = nn.Linear(3, 2)
    optimizer = Adam(network.parameters())
    network(torch.rand(1, 3)).sum().backward()
    optimizer.step()
    network.to("cuda")
    network(on_cuda()).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_refused(name: str) -> None:
    with pytest.raises((RuntimeError, TypeError), match="device|numpy|generator|cpu"):
        MISTAKES[name]()


def test_what_is_moved_is_there_and_what_was_made_of_it_too() -> None:
    here, there = torch.rand(2, 3), on_cuda()
    assert here.device.type == "cpu" and there.device == torch.device("cuda", 0)
    assert there.is_cuda and not here.is_cuda and here.is_cpu and there.get_device() == 0
    for made in (there + there, there * 2, there[0], there.to(torch.float64), there.T,
                 torch.zeros_like(there), there.new_zeros(1), torch.ones(1, device="cuda"),
                 there.sum(), there.argmax(1), there[torch.tensor([0])], here.to(there),
                 there.sum() * torch.tensor(2.0), there.clone().copy_(here)):  # fmt: skip
        assert made.is_cuda
    assert not there.cpu().is_cuda and there.cpu().numpy().shape == (2, 3)
    assert there.to("cuda") is there and here.to("cpu") is here
    assert not torch.rand(2).is_cuda


def test_a_network_is_trained_there_and_comes_back() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten()).to("cuda")
    optimizer = Adam(network.parameters(), amsgrad=True)
    images = torch.rand(4, 1, 5, 5, device="cuda")
    before = network[0].weight.detach().clone()
    network(images).square().sum().backward()
    optimizer.step()
    assert {weight.grad.device.type for weight in network.parameters()} == {"cuda"}  # type: ignore[union-attr]
    assert optimizer.state[network[0].weight]["exp_avg"].is_cuda
    assert before.is_cuda and not torch.equal(before, network[0].weight)
    network.cpu()
    assert not any(value.is_cuda for value in network.state_dict().values())
    assert network(images.cpu()).shape == (4, 18)


def test_networks_side_by_side_are_there_too() -> None:
    networks = [nn.Linear(3, 2).to("cuda") for _ in range(2)]
    weights, buffers = stack_module_state(networks)
    inputs = torch.rand(2, 5, 3, device="cuda")
    found = vmap(lambda *args: functional_call(networks[0], args[:2], (args[2],)))(
        weights, buffers, inputs
    )
    assert found.is_cuda and found.shape == (2, 5, 2)
    with pytest.raises(RuntimeError, match="device"):
        vmap(lambda *args: functional_call(networks[0], args[:2], (args[2],)))(
            weights, buffers, inputs.cpu()
        )


def test_afterwards_torch_is_as_it_was() -> None:
    with logical_cuda.device():
        there = torch.ones(2).to("cuda")
    with logical_cuda.device():
        assert not there.is_cuda  # another device's tags say nothing here
    assert nn.Linear(2, 1).to("cpu")(torch.rand(1, 2)).shape == (1, 1)


@pytest.mark.proofs
@pytest.mark.parametrize("name", ["04_inversion_and_stealing", "10_attackers_with_data"])
def test_a_lesson_runs_there(name: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("on_logical_cuda.py")
    path = lessons.find(name).path
    done = subprocess.run(
        [sys.executable, script, path], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
