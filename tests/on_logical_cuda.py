"""Run the cells of the notebook at PATH on the logical device: `python on_logical_cuda.py PATH`."""

import sys
from pathlib import Path

import logical_cuda
import nbformat
from IPython.core.interactiveshell import InteractiveShell


def main(path: Path) -> None:
    """Run all cells at the budget "tiny"; the first that fails ends it with its error."""
    shell = InteractiveShell.instance()
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type != "code":
            continue
        shell.run_cell(cell.source, silent=True).raise_error()
        if "parameters" in cell.metadata.get("tags", ()):
            shell.user_ns.update(
                {"device": "cuda"} | ({"budget": "tiny"} if "budget" in shell.user_ns else {})
            )


if __name__ == "__main__":
    with logical_cuda.device():
        main(Path(sys.argv[1]))
