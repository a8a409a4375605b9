"""The source of a notebook's cells, read and never run; grader and sandbox use it alike."""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

RUN = ("time", "prun", "capture")  # magics that run their code in the notebook's own namespace
EMPTY_LINES = re.compile(r"\A([ \t\r]*\n)*")
OPTIONS = re.compile(r"^(\s*-\S+)+")
CODE = re.compile(r'^code = "([A-Z2-7]{4}-[A-Z2-7]{4})"', re.MULTILINE)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
MAX_CELL = 100_000  # characters of a cell that is read
MAX_NOTEBOOK = 300_000  # of all cells together
MAX_MAGICS = 50  # in a cell; IPython reads the whole cell anew for each


def parse(source: str, name: str = "<cell>") -> ast.Module:
    """Parse a cell as IPython reads it; lines keep their numbers.

    The code of `%time`, `%%time`, `%%capture` and `%%prun` is code of the cell. What else only
    IPython understands becomes calls of `get_ipython()`, the bodies of other cell magics included.
    Raises SyntaxError, or ValueError for a null character.
    """
    try:
        return ast.parse(source, name)
    except SyntaxError:
        made = ast.parse(_as_ipython(source), name)
        return ast.fix_missing_locations(_RunMagics(name).visit(made))


@lru_cache(maxsize=256)
def _as_ipython(source: str) -> str:
    """Return the Python that IPython makes of a cell, each line where it was."""
    # Imported here: it takes a quarter of a second, and few notebooks need it.
    from IPython.core.inputtransformer2 import TransformerManager

    manager = TransformerManager()
    text = EMPTY_LINES.sub("", source, count=1)
    empty = source.removesuffix(text).count("\n")
    lines = f"{text}\n".splitlines(keepends=True)
    transforms: list[Any] = [*manager.cleanup_transforms, *manager.line_transforms]
    for transform in transforms:
        lines = transform(lines)
    for _ in range(MAX_MAGICS):
        changed, made = manager.do_one_token_transform(lines)
        if not changed:
            break
        lines = _in_place(lines, made)
    return "\n" * empty + "".join(lines)


def _in_place(lines: list[str], made: list[str]) -> list[str]:
    """Fill up with empty lines where `made` has joined some of `lines`."""
    pairs = zip(lines, made, strict=False)
    place = next((n for n, (old, new) in enumerate(pairs) if old != new), len(made))
    return [*made[: place + 1], *["\n"] * (len(lines) - len(made)), *made[place + 1 :]]


class _RunMagics(ast.NodeTransformer):
    """Puts the code of magics that run it in the place of their calls."""

    def __init__(self, name: str) -> None:
        self._name = name

    def visit_Expr(self, node: ast.Expr) -> ast.AST | list[ast.stmt]:
        match node.value:
            case ast.Call(
                func=ast.Attribute(attr="run_line_magic" | "run_cell_magic" as kind),
                args=[ast.Constant(str(magic)), *_, ast.Constant(str(code))],
            ) if magic in RUN:
                line = kind == "run_line_magic"
                tree = parse(OPTIONS.sub("", code).lstrip() if line else code, self._name)
                ast.increment_lineno(tree, node.lineno - line)
                return tree.body
        return node


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
                body = parse(source).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        yield body


def reaching(cells: Sequence[str], names: Sequence[str]) -> set[int]:
    """Return the cells, by their numbers from 1, that may decide what `names` are and do.

    They bind one of them or a name that these use, however remotely; or they mention such a value,
    or a function that does, and may change it.
    """
    made = [(number, one) for number, source in enumerate(cells, 1) for one in statements([source])]
    functions: dict[str, set[str]] = {}
    values: set[str] = set()
    for _, one in made:
        if isinstance(one, DEFINITIONS):
            functions.setdefault(one.name, set()).update(_mentioned(one))
        elif not isinstance(one, ast.Import | ast.ImportFrom):
            values |= _bound(one)
    left = [(number, _closed(_mentioned(one), functions), _bound(one)) for number, one in made]
    kept: set[int] = set()
    wanted = {*_closed(names, functions), "*"}  # all of a module may be any name
    while hit := [one for one in left if one[2] & wanted or one[1] & wanted & values]:
        kept |= {number for number, *_ in hit}
        wanted = wanted.union(*(mentioned for _, mentioned, _ in hit))
        left = [one for one in left if one not in hit]
    return kept


def _closed(names: Iterable[str], functions: Mapping[str, set[str]]) -> set[str]:
    """Return `names`, and what the functions among them mention, and so on."""
    known, new = set(names), list(names)
    for name in new:
        more = functions.get(name, set()) - known
        known |= more
        new += more
    return known


def _mentioned(statement: ast.stmt) -> set[str]:
    """Name what a statement binds, and what it takes from the notebook."""
    found = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        found -= _stored(statement) - _declared(statement)
        found -= {node.arg for node in ast.walk(statement) if isinstance(node, ast.arg)}
    return found | _bound(statement)


def _bound(statement: ast.stmt) -> set[str]:
    """Name what a statement binds in the notebook."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(made.asname or made.name).partition(".")[0] for made in statement.names}
    if isinstance(statement, DEFINITIONS):
        return {statement.name}
    inner = {node.name for node in ast.walk(statement) if isinstance(node, DEFINITIONS)}
    return _stored(statement) | inner


def _stored(statement: ast.stmt) -> set[str]:
    names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}


def _declared(statement: ast.stmt) -> set[str]:
    """Name what a function declares global."""
    found = (node for node in ast.walk(statement) if isinstance(node, ast.Global))
    return {name for node in found for name in node.names}


def borrowed(cells: Sequence[str], name: str) -> bool:
    """Say whether `name` is something of sltools, imported, or a function that returns its call."""
    imported: set[str] = set()
    found = False
    for one in statements(cells):
        if isinstance(one, ast.Import | ast.ImportFrom):
            ours = [getattr(one, "module", None) or made.name for made in one.names]
            bound = [(made.asname or made.name).partition(".")[0] for made in one.names]
            pairs = zip(bound, ours, strict=True)
            imported |= {new for new, module in pairs if module.partition(".")[0] == "sltools"}
            found = name in imported if name in bound else found
        elif name in defined(one):
            found = _source(one) in imported
    return found


def _source(statement: ast.stmt) -> str:
    """Return the name of what a statement assigns, or of what its function calls and returns."""
    value = getattr(statement, "value", None)
    if isinstance(statement, ast.FunctionDef):
        last = statement.body[-1]
        short = len(statement.body) <= 1 + (ast.get_docstring(statement, clean=False) is not None)
        value = last.value if short and isinstance(last, ast.Return) else None
        value = value.func if isinstance(value, ast.Call) else None
    while isinstance(value, ast.Attribute):
        value = value.value
    return value.id if isinstance(value, ast.Name) else ""


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
