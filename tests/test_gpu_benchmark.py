"""What is to be measured on a GPU: one command, tried here on the CPU with nothing to measure."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from sltools.errors import SltoolsError


@pytest.mark.proofs
def test_a_dry_run_reaches_every_part_and_is_not_made_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu.main(tmp_path, minutes=5, dry_run=True)
    facts = json.loads((tmp_path / gpu.FACTS).read_text())
    assert facts["not_reached"] == [], facts
    [row] = json.loads((tmp_path / "throughput_steps_a_second.json").read_text())["rows"]
    assert row["targets"] == 3 and row["steps_per_second"] > 0
    capsys.readouterr()
    gpu.main(tmp_path, minutes=0.1, dry_run=True)  # no time for anything that is not done
    assert capsys.readouterr().out.splitlines() == [f"{name}: done" for name in facts["parts"]]


def test_a_part_that_takes_too_long_is_interrupted_and_keeps_what_it_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nprint('one', flush=True)\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('kept')\n"
    )
    monkeypatch.chdir(tmp_path)
    found = gpu.carried_out(gpu.Part("slow", ("slow",), least=0), seconds=2)
    assert (found.status, found.printed.split()) == ("interrupted", ["one", "kept"])
    failed = gpu.carried_out(gpu.Part("none", ("no_such_module",), least=0), seconds=30)
    assert failed.status == "failed with 1" and "no_such_module" in failed.printed
    assert failed.command == "python -m no_such_module"


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SltoolsError, match="--dry-run"):
        gpu.main(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_parts_of_a_gpu_are_commands_that_there_are(tmp_path: Path) -> None:
    known = {part.name: part.command for part in gpu.parts(tmp_path)}
    assert list(known)[0] == "tests" and list(known)[-1] == "stages of CIFAR-10"
    for command in known.values():
        module = Path(*command[0].split(".")).with_suffix(".py")
        assert command[0] == "pytest" or module.exists()
