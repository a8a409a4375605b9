"""Every attack finds the same from a view that another process opens: there is no victim there.

Nor are there data sets, and the images attacked are in none. And an attack that does not say that
it read what was granted finds the same where it was not.
"""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import ablations
from sltools import attacks, data, models
from sltools.attacks import (
    FORA,
    PCAT,
    SDAR,
    SLADV,
    AttributeInference,
    BlindDeconvolution,
    DecoderInversion,
    Dullahan,
    GradientLeak,
    KnownWeightsInversion,
    LabelInference,
    MembershipInference,
    Trigger,
    UnSplit,
)
from sltools.messages import Message
from sltools.models import Architecture
from sltools.protocol import Client, Server, train
from sltools.view import View
from tests.parties import noise_split
from tests.test_ablations import brief

ROOT = Path(__file__).resolve().parents[1]
Attack = Callable[[View], Any]


def _decode(view: View) -> Any:
    public = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return DecoderInversion(steps=12, batch=8)(view, public)


def _with_data(attack: Any) -> Attack:
    stream = torch.Generator().manual_seed(0)
    own = SimpleNamespace(
        images=torch.rand(40, 1, 28, 28, generator=stream), labels=torch.arange(40) % 10
    )
    return lambda view: attack(view, own)


def _attribute(view: View) -> Any:
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return AttributeInference()(view, images, torch.arange(40) % 2 == 0)


def _with_a_front(attack: Any, *more: Any) -> Attack:
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return lambda view: attack(view, images, *more, front=view.architecture.build(0))


UNSPLIT = UnSplit(steps=30, restarts=2)
ATTACKS: dict[str, tuple[Attack, str]] = {  # what to run, on which view
    "UnSplit": (UNSPLIT, "mirrored"),
    "UnSplit, granted": (UNSPLIT, "granted"),
    "UnSplit, photographs": (UnSplit(steps=30, tv_end=0.05, photographs=True), "photographs"),
    "UnSplit, published": (UnSplit.published(rounds=2, input_steps=2, clone_steps=2), "mirrored"),
    "BlindDeconvolution": (BlindDeconvolution(), "photographs"),
    "KnownWeightsInversion": (KnownWeightsInversion(steps=10), "granted"),
    "DecoderInversion": (_decode, "granted"),
    "SDAR": (_with_data(SDAR(steps=5, batch=8)), "labelled"),
    "PCAT": (_with_data(PCAT(steps=5, batch=8)), "one by one"),
    "FORA": (_with_data(FORA(steps=5, batch=8)), "mirrored"),
    "AttributeInference": (_attribute, "granted"),
    "MembershipInference": (MembershipInference("confidence"), "labelled"),
    "MembershipInference, shadows": (
        _with_data(MembershipInference("shadows", shadows=2, epochs=1)),
        "labelled",
    ),
    "SLADV": (_with_a_front(SLADV(steps=2)), "labelled"),
    "SLADV, smashed": (SLADV("smashed", steps=2), "labelled"),
    "Dullahan": (_with_a_front(Dullahan(steps=2, batch=4), Trigger(target=3)), "labelled"),
    "LabelInference, published": (LabelInference("published"), "one by one"),
    "LabelInference, closed-form": (LabelInference("closed-form"), "one by one"),
    "LabelInference, wire": (LabelInference("wire"), "one by one"),
    "GradientLeak, norm": (GradientLeak("norm"), "one by one"),
    "GradientLeak, cosine": (GradientLeak("cosine"), "one by one"),
    **{
        f"UnSplit, {name}": (brief(idea.attacks[-1]), "labelled")
        for name, idea in ablations.IDEAS.items()
    },
}


def _smashed(front: nn.Sequential, images: Tensor, *granted: str) -> View:
    with torch.no_grad():
        message = Message(0, 0, "smashed", front(images), "inference")
    grants = dict.fromkeys(granted, front)
    return View("server", [message], Architecture.of(front, images.shape[1:]), grants=grants)


def _views() -> dict[str, View]:
    mirrored = data.load("digits").test.images[:3].flip(-1)
    front = models.cut(models.mnist_net(seed=3), "pool1")[0]
    colourful = models.cut(models.cifar_net(seed=3), "conv1")[0]
    head_side = models.cut(models.mnist_net(seed=3), ("pool1", "relu4"))
    session = train(
        Client(head_side[0], head_side[2]),
        Server(head_side[1], label_private=True),
        data.load("digits").train[:60],
        epochs=1,
        batch_size=1,
        record=True,
    )
    vanilla = train(
        *models.cut(models.mnist_net(seed=3), "pool1"),
        data.load("digits").train[:6],
        epochs=1,
        batch_size=3,
        record=True,
    )
    return {
        "labelled": vanilla.transcript.view().window(0, 1),
        "mirrored": _smashed(front, mirrored),
        "granted": _smashed(front, mirrored, "client_model"),
        "photographs": _smashed(colourful, noise_split(4, (3, 32, 32)).images),
        "one by one": session.transcript.view("server", ["head_weight_gradients", "anchor_labels"]),
    }


def _found(result: Any) -> dict[str, Tensor]:
    """The tensors of a result that do not depend on the clock."""
    tensors = {name: value for name, value in vars(result).items() if isinstance(value, Tensor)}
    for network in ("clone", "model"):
        if found := getattr(result, network, None):
            tensors |= {f"{network}/{name}": value for name, value in found.state_dict().items()}
    return tensors


def attack_all(folder: Path) -> None:
    """Run in the other process: open the views in `folder`, attack them, leave what was found."""
    torch.set_num_threads(1)
    vars(data).clear()  # whoever asks for a data set fails
    found = {name: _found(run(View.open(folder / view))) for name, (run, view) in ATTACKS.items()}
    torch.save(found, folder / "found.pt")


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder, views = tmp_path_factory.mktemp("views"), _views()
    for name, view in views.items():
        view.save(folder / name)
    code = "import sys, pathlib; from tests.test_reopened import attack_all;" + (
        "attack_all(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    here = {name: _found(run(views[view])) for name, (run, view) in ATTACKS.items()}
    torch.set_num_threads(threads)
    return here, torch.load(folder / "found.pt", weights_only=True)


@pytest.mark.parametrize("name", ATTACKS)
def test_another_process_finds_the_same(name: str, everywhere: tuple[Any, Any]) -> None:
    here, there = (found[name] for found in everywhere)
    assert here and here.keys() == there.keys()
    for tensor in here:
        assert torch.equal(here[tensor].nan_to_num(7e7), there[tensor].nan_to_num(7e7)), tensor


def test_a_grant_that_an_attack_does_not_name_changes_nothing(everywhere: tuple[Any, Any]) -> None:
    without, granted = (everywhere[1][name] for name in ("UnSplit", "UnSplit, granted"))
    assert all(torch.equal(without[tensor], granted[tensor]) for tensor in without)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "sltools/attacks").glob("*.py")), ids=lambda p: p.stem
)
def test_attacks_import_no_data_and_reach_into_no_view(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            assert not {"data", "experiments", "lessons", "transcript"} & {*name.split(".")}, name
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("view"):
            assert not node.attr.startswith("_"), ast.unparse(node)


def test_no_attack_on_a_view_is_left_out() -> None:
    results = {"InversionResult", "LabelResult", "LeakResult", "SurrogateResult"}
    results |= {"AdversarialResult", "BackdoorResult"}
    active = {"Hijacking", "HijackingServer", "CuriousServer", "SFI", "SFIServer"}  # in training
    active |= {"Backdoor", "LabelFlip", "StealthyClient", "Trigger"}  # by a client
    tried = {name.partition(",")[0] for name in ATTACKS}
    assert tried == set(attacks.__all__) - results - active
