"""Build the notebooks from percent scripts.

    course/src/NN_name.py     -> course/NN_name.ipynb, executed; so in course/appendix/
    solutions/src/NN_name.py  -> solutions/NN_name.ipynb, executed, and exercises/NN_name.ipynb,
                                 where each solution is a stub and nothing was run

    python -m tools.notebooks              build what changed; run a notebook if its code changed
    python -m tools.notebooks 04_name ...  build and run the lessons and solutions of these names
    python -m tools.notebooks --all        build and run everything, as after a change in sltools
    python -m tools.notebooks --check      run nothing; say where notebooks and sources disagree

A script's header may hold `jupyter: sltools: {minutes: 40}`, which `minutes` computes from what the
notebook holds; number and title are read off the file name and the first heading. What stands
between `### BEGIN SOLUTION` and `### END SOLUTION` becomes `raise NotImplementedError` in the
exercise, or, if the first line between them is `# stub: answer = ...`, that text. `{{task 04.tv}}`
becomes the heading of that task.
"""

import argparse
import hashlib
import json
import math
import re
import sys
import time
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

from sltools.doctor import calibrate
from sltools.exercises import find
from sltools.lessons import headless_kernel

ROOT = Path(__file__).resolve().parents[1]
COURSE, SOLUTIONS = ROOT / "course", ROOT / "solutions"
APPENDIX = COURSE / "appendix"
FOLDERS = (COURSE, APPENDIX, SOLUTIONS)
CELL_TIMEOUT = 600  # seconds
WORDS_A_MINUTE, LINES_A_MINUTE = 150, 12
MEASURED = ("seconds", "calibration")  # facts of a notebook that its source does not give
WIDGET = "application/vnd.jupyter.widget-view+json"
PRIVATE_PATH = re.compile(r"(?<![\w.:/])/(home|Users|root|tmp|opt|usr|var)/|[A-Z]:\\\\")
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
TASK = re.compile(r"\{\{task ([\w.]+)\}\}")
SOLUTION = re.compile(
    r"^(?P<indent>[ ]*)### BEGIN SOLUTION\n(?:[ ]*# stub: (?P<stub>.*)\n)?.*?### END SOLUTION$",
    re.M | re.S,
)
STUB = 'raise NotImplementedError("your code here")'
LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"}


class BuildError(Exception):
    """A notebook cannot be built from its source."""


def generate(script: Path, exercise: bool = False) -> NotebookNode:
    """Turn a percent script into a notebook without outputs, always the same one.

    With `exercise`, every solution in it is replaced by its stub.
    """
    notebook = jupytext.read(script)
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = TASK.sub(_heading, cell.source)
        else:
            cell.source = _stubbed(cell.source) if exercise else _solved(cell.source)
        key = f"{script.stem}/{cell.cell_type}/{cell.source}"
        seen[key] += 1
        cell.id = hashlib.sha256(f"{key}/{seen[key]}".encode()).hexdigest()[:12]
        cell.metadata.pop("lines_to_next_cell", None)
    heading = re.search(r"^# (.+)$", notebook.cells[0].source if notebook.cells else "", re.M)
    if not heading:
        raise BuildError(f"{script}: the first cell must be Markdown with a heading '# Title'")
    facts = {"number": int(script.name[:2]), "title": heading[1].strip()}
    notebook.metadata = NotebookNode(
        kernelspec=KERNELSPEC,
        language_info=LANGUAGE,
        sltools={**notebook.metadata.get("sltools", {}), **facts},
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return nbformat.from_dict(notebook)


def _heading(match: re.Match[str]) -> str:
    """Return what stands above a task: its title, and what it takes and gives."""
    task = find(match[1])
    return f"## Task {task.key}: {task.title}\n\n*{task.header()}*"


def _stubbed(source: str) -> str:
    return SOLUTION.sub(lambda found: found["indent"] + (found["stub"] or STUB), source)


def _solved(source: str) -> str:
    return re.sub(r"^ *# stub: .*\n", "", source, flags=re.M)


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run `notebook` in place, in `folder`, and note the seconds it took and a calibration."""
    calibration = round(calibrate(), 3)
    start = time.monotonic()
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        kernel_manager_class=headless_kernel(),
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError) as error:
        raise BuildError(str(error)) from None
    notebook.metadata.language_info = LANGUAGE  # not this machine's Python version
    seconds = math.ceil(time.monotonic() - start)
    notebook.metadata.sltools.update(seconds=seconds, calibration=calibration)


def clean(notebook: NotebookNode) -> None:
    """Drop from the outputs what is not for readers; raise BuildError on a path of this machine."""
    notebook.metadata.pop("widgets", None)
    for cell in code_cells(notebook):
        cell.outputs = merge_streams(cell.outputs)
        for output in cell.outputs:
            data = output.get("data", {})
            if len(data) > 1:
                data.pop(WIDGET, None)
            texts = [output.get("text", ""), *output.get("traceback", [])]
            texts += [value for kind, value in data.items() if not kind.startswith("image/")]
            found = PRIVATE_PATH.search(json.dumps(texts))
            if found or str(ROOT) in json.dumps(texts):
                raise BuildError(f"an absolute path is printed by the cell\n{cell.source}")


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of the same stream: where they were split is a matter of timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        stream = output.get("name")  # only streams have one
        if merged and stream and stream == merged[-1].get("name"):
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def build(script: Path, force: bool) -> str:
    """Build the notebooks of one script and return what was done."""
    target, *stubs = notebooks_of(script)
    for path in stubs:
        path.parent.mkdir(exist_ok=True)
        nbformat.write(generate(script, exercise=True), path)
    notebook = generate(script)
    old = nbformat.read(target, as_version=4) if target.exists() else None
    if old and not force and same_code(old, notebook):
        for cell, built in zip(code_cells(notebook), code_cells(old), strict=True):
            cell.outputs, cell.execution_count = built.outputs, built.execution_count
        notebook.metadata.sltools.update(
            {fact: old.metadata.sltools[fact] for fact in MEASURED if fact in old.metadata.sltools}
        )
        done = "code unchanged, kept its outputs"
    else:
        execute(notebook, target.parent)
        done = f"executed in {notebook.metadata.sltools.seconds} s"
    clean(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, target)
    return done


def differences(folder: Path) -> list[str]:
    """List where the notebooks of a folder and their scripts disagree, outputs left aside."""
    scripts = sorted(folder.glob("src/*.py"))
    wanted = {path: script for script in scripts for path in notebooks_of(script)}
    there = {
        path for known in {folder, *(p.parent for p in wanted)} for path in known.glob("*.ipynb")
    }
    found = [f"{path.name} has no source in src/" for path in sorted(there - set(wanted))]
    for path, script in wanted.items():
        if path in there:
            found += _disagreements(path, generate(script, exercise=path.parent != folder))
        else:
            found.append(f"src/{script.name} has not been built")
    return found


def _disagreements(path: Path, new: NotebookNode) -> list[str]:
    """List where the notebook in `path` is not the `new` one, outputs left aside."""
    old, found = nbformat.read(path, as_version=4), []
    for fact in MEASURED:
        old.metadata.get("sltools", {}).pop(fact, None)
    if new.metadata != old.metadata:
        found.append(f"{path.name}: its metadata differ from its source")
    if len(new.cells) != len(old.cells):
        found.append(f"{path.name}: {len(old.cells)} cells, its source {len(new.cells)}")
    for position, (cell, built) in enumerate(zip(new.cells, old.cells, strict=False)):
        for field in ("cell_type", "source", "metadata", "id"):
            if cell[field] != built.get(field):
                found.append(f"{path.name}: cell {position} differs in its {field}")
    return found


def notebooks_of(script: Path) -> list[Path]:
    """Return the paths of the notebooks that `script` is the source of; the first is executed."""
    folder = script.parents[1]
    folders = [folder] if folder.name != SOLUTIONS.name else [folder, folder.parent / "exercises"]
    return [place / f"{script.stem}.ipynb" for place in folders]


def minutes(notebook: NotebookNode) -> int:
    """Return a learner's minutes by a rule that nobody has checked with a clock.

    Words of Markdown / 150, plus lines of code that are not blank / 12, plus one for each figure,
    to the nearest 5; at least 10.
    """
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    lines = [line for cell in code_cells(notebook) for line in cell.source.splitlines()]
    outputs = [output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs]
    figures = sum(any(kind.startswith("image/") for kind in data) for data in outputs)
    figures += len(re.findall(r"!\[|<img\b", "\n".join(prose)))
    spent = sum(len(text.split()) for text in prose) / WORDS_A_MINUTE
    spent += sum(bool(line.strip()) for line in lines) / LINES_A_MINUTE + figures
    return max(10, 5 * math.floor(spent / 5 + 0.5))


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells of `notebook`, in their order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def same_code(one: NotebookNode, other: NotebookNode) -> bool:
    """Say whether two notebooks run the same code, so that the outputs of one suit the other."""
    return [c.source for c in code_cells(one)] == [c.source for c in code_cells(other)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line described above; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.notebooks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="lessons to build and run, such as 04_name")
    parser.add_argument("--all", action="store_true", help="build and run every lesson")
    parser.add_argument("--check", action="store_true", help="run nothing, compare only")
    parser.add_argument("--folder", type=Path, help="only the notebooks of this folder's src/")
    options = parser.parse_args(arguments)
    folders = [options.folder] if options.folder else FOLDERS

    if options.check:
        found = [difference for folder in folders for difference in differences(folder)]
        print("\n".join(found) or "notebooks and sources agree")
        return 1 if found else 0

    names = [Path(name).stem for name in options.names]
    scripts = [script for folder in folders for script in sorted(folder.glob("src/*.py"))]
    known = {script.stem for script in scripts}
    if unknown := set(names) - known:
        parser.error(f"no source for {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    for script in scripts:
        if names and script.stem not in names:
            continue
        print(f"{script.parents[1].name}/{script.stem}: ", end="", flush=True)
        try:
            print(build(script, force=options.all or bool(names)))
        except BuildError as error:
            print(f"FAILED\n{error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
