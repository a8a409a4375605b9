"""Install torch before the rest: the CPU build from PyTorch's own index if that answers at once.

    python tools/install_torch.py INDEX_URL [CONSTRAINTS]

On Linux the default index serves torch with gigabytes of CUDA. Where INDEX_URL cannot be reached,
pip's configured indexes are used, without a wait for retries and always with the version in
constraints.txt. Standard library only: it runs in a new virtual environment.
"""

import importlib.util
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 5.0  # seconds
TESTED = str(Path(__file__).resolve().parents[1] / "constraints.txt")


def reachable(url: str) -> bool:
    """Say whether `url` answers within PATIENCE, the look-up of its name included."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE):
                answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)  # the server is there; pip will say what is wrong
        except (OSError, ValueError):
            pass

    # A name look-up has no time-out of its own, so the question is asked in a thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return bool(answers)


def main(index: str, constraints: str = "") -> int:
    """Install torch into this environment; return pip's exit code."""
    if importlib.util.find_spec("torch"):
        return 0
    pip = [sys.executable, "-m", "pip", "install", "--no-compile", "torch>=2.6"]
    if reachable(f"{index}/torch/"):
        # Its dependencies come with the rest: this index holds few versions of them.
        pip += ["--no-deps", "--index-url", index]
    else:
        print(f"{index} cannot be reached: taking torch from pip's configured indexes")
        constraints = TESTED
    if constraints:
        pip += ["--constraint", constraints]
    return subprocess.call(pip)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
