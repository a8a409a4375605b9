"""Any section of a lesson may be run again: learners go back, and what follows still holds."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from sltools.lessons import headless_kernel
from tools import notebooks

pytestmark = [pytest.mark.proofs, pytest.mark.slow]

NOTEBOOKS = sorted([*notebooks.COURSE.glob("*.ipynb"), *notebooks.APPENDIX.glob("*.ipynb")])
CELL_TIMEOUT = 120  # seconds
TINY = 'budget = "tiny"'


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_section_can_be_run_again(path: Path, tmp_path: Path) -> None:
    sections = _sections(nbformat.read(path, as_version=4))
    order = [*sections, *reversed(sections[1:]), *sections[1:]]  # the first imports and sets
    ran = nbformat.v4.new_notebook(cells=[_copy(cell) for cells in order for cell in cells])
    NotebookClient(
        ran,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        kernel_manager_class=headless_kernel(),
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    start, count = len(sections[0]), sum(map(len, sections[1:]))
    first, last = ran.cells[start : start + count], ran.cells[-count:]
    for cell, repeated in zip(first, last, strict=True):
        if "nbval-ignore-output" not in cell.metadata.get("tags", []):
            assert _printed(cell) == _printed(repeated), cell.source


def _sections(notebook: NotebookNode) -> list[list[NotebookNode]]:
    """The code cells, by the heading they stand under; the first list ends with the parameters."""
    sections: list[list[NotebookNode]] = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and any(
            line.startswith("## ") for line in cell.source.splitlines()
        ):
            sections.append([])
        elif cell.cell_type == "code" and "skip-execution" not in cell.metadata.get("tags", []):
            sections[-1].append(cell)
            if "parameters" in cell.metadata.get("tags", []):
                sections[-1].append(nbformat.v4.new_code_cell(TINY))
    return [cells for cells in sections if cells]


def _copy(cell: NotebookNode) -> NotebookNode:
    return nbformat.v4.new_code_cell(cell.source, metadata=cell.metadata)


def _printed(cell: NotebookNode) -> str:
    streams = [output.text for output in cell.outputs if output.get("name") == "stdout"]
    shown = [output.data.get("text/plain", "") for output in cell.outputs if "data" in output]
    return "".join([*streams, *shown])
