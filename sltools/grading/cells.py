"""The source of a notebook's cells, read and never run; grader and sandbox use it alike."""

import ast
import re
import warnings
from collections.abc import Iterator, Sequence

MAGIC = re.compile(r"^([ \t]*)[%!].*$|^([ \t]*)\S.*\?$", re.MULTILINE)
CODE = re.compile(r'^code = "([A-Z2-7]{4}-[A-Z2-7]{4})"', re.MULTILINE)
MAX_CELL = 100_000  # characters of a cell that is read
MAX_NOTEBOOK = 300_000  # of all cells together


def without_magics(source: str) -> str:
    """Take out what only IPython understands, if there is any; lines keep their numbers."""
    if source.startswith("%%"):
        source = f"#{source}"
    try:
        ast.parse(source)
    except SyntaxError:
        return MAGIC.sub(lambda line: f"{line[1] or line[2] or ''}pass", source)
    return source


def defined(statement: ast.stmt) -> list[str]:
    """List the names that a statement of a cell defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def should_define(source: str, name: str) -> bool:
    """Say whether a cell, which may be no Python, looks as if it were to define `name`."""
    name = re.escape(name)
    line = re.compile(
        rf"^[ \t]*((def|class)[ \t]+{name}\b|{name}[ \t]*=[^=])", re.MULTILINE
    )  # not \s, which takes in all the empty lines that follow, from each of them anew
    return bool(line.search(source, 0, MAX_CELL))


def statements(cells: Sequence[str]) -> list[ast.stmt]:
    """List the statements of all cells in their order, without those that are no Python."""
    return [statement for body in _bodies(cells) for statement in body]


def _bodies(cells: Sequence[str]) -> Iterator[list[ast.stmt]]:
    left = MAX_NOTEBOOK
    for source in cells:
        if len(source) > min(MAX_CELL, left):
            continue
        left -= len(source)
        try:
            with warnings.catch_warnings(action="ignore"):  # of escapes such as "\d"
                body = ast.parse(without_magics(source)).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        yield body


def checks(cells: Sequence[str]) -> list[tuple[str, str]]:
    """List the calls `check("KEY", NAME)` as (key, name), in their order.

    The name is "" where something else than a plain name is handed over.
    """
    found = []
    for statement in statements(cells):
        for node in ast.walk(statement):
            match node:
                case ast.Call(
                    func=ast.Name("check") | ast.Attribute(attr="check"),
                    args=[ast.Constant(str(key)), answer],
                ):
                    found.append((key, answer.id if isinstance(answer, ast.Name) else ""))
    return found


def answer_names(cells: Sequence[str]) -> dict[str, str]:
    """Return, by the task's key, the name last handed to `check`."""
    return {key: name for key, name in checks(cells) if name}


def code(cells: Sequence[str]) -> str:
    """Return the short code of homework, or ""."""
    found = CODE.search("\n".join(cells))
    return found[1] if found else ""
