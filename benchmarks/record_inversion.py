"""Record a run of attack 1 under course/results/, for lessons and docs/results.md to show.

    python -m benchmarks.record_inversion published_digits --budget published --targets 3 \\
        --victims 1 --clones 1
    python -m benchmarks.record_inversion inversion_digits
    python -m benchmarks.record_inversion inversion_mnist --dataset mnist

The options are those of `sltools attack inversion`. The first takes a quarter of an hour of one
core, the others a minute.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import write_arrays, write_facts
from sltools import cli, lessons, storage
from sltools.errors import SltoolsError

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
app = typer.Typer(add_completion=False)


@app.command(context_settings=PASSED_ON)
def main(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Of the files in course/results/, written anew.")],
) -> None:
    """Run `sltools attack inversion` with the options given and write NAME.json and NAME.npz."""
    options = context.args
    target = lessons.course() / "results" / name
    if not target.parent.is_dir():
        raise SystemExit(f"error: there is no folder {target.parent} to write to")
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "outcome"
        command = typer.main.get_command(cli.app)
        arguments = ["attack", "inversion", *options, "--save", str(saved)]
        try:
            command.main(arguments, standalone_mode=False)
        except SltoolsError as error:
            raise SystemExit(str(error)) from None
        arrays, facts = storage.read(saved)
    if facts["interrupted"]:
        raise SystemExit("interrupted: nothing is recorded")
    facts |= {
        "command": f"python -m benchmarks.record_inversion {' '.join([name, *options])}",
        "cpu_seconds": round(time.process_time() - start),
    }
    write_facts(target.with_suffix(".json"), facts)
    numbers = {key: value.numpy() for key, value in arrays.items()}
    write_arrays(target.with_suffix(".npz"), **numbers)


if __name__ == "__main__":
    app()
