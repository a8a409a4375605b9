"""Compares submissions: who handed in the same code? Nothing in here runs it, or takes a point."""

import ast
import copy
import io
import itertools
import keyword
import textwrap
import token
import tokenize
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from sltools.grading.cells import defined, statements
from sltools.grading.submissions import Submission

MAX_CELL, MAX_ALL_CELLS = 100_000, 300_000  # characters of a cell, and of all, that are compared
MAX_STATEMENTS = 1000  # behind an answer that is compared; none of a learner has as many
SHINGLE = 6  # tokens
MIN_SIMILARITY = 0.9  # of the shingles of the shorter one
MIN_SHINGLES = 24  # shingles of one's own that make a likeness worth a word: about four lines

Names = dict[str, list[str]]


# ---- the same cells ------------------------------------------------------------------------------


def same_cells(submissions: Sequence[Submission], given: Iterable[Sequence[str]]) -> Names:
    """Return, by name, the submissions whose code cells are the same, comments included.

    Notebooks with nothing beside cells that were `given` to all are left out.
    """
    untouched = {source for cells in given for source in cells}
    alike = defaultdict(list)
    for submission in submissions:
        if not untouched.issuperset(submission.cells):
            alike[submission.cells].append(submission.name)
    return {name: [n for n in names if n != name] for names in alike.values() for name in names}


# ---- the same answers ----------------------------------------------------------------------------


def forms(
    cells: Sequence[str], names: Mapping[str, str], kept: Collection[str] = ()
) -> dict[str, str]:
    """Return, by key, the code behind each of the `names`, without what is easily changed.

    It is what defines the name, with the functions and values it uses, whatever they are called and
    however they are commented. The names `kept` are given, and not followed. Stubs and answers that
    cannot be found are left out.
    """
    notebook = _Definitions(cells, kept)
    found = {key: notebook.form(name) for key, name in names.items()}
    return {key: form for key, form in found.items() if form}


def definitions(cells: Sequence[str]) -> set[str]:
    """Return the forms of all that a notebook defines at its top level."""
    names = {name for statement in statements(cells) for name in defined(statement)}
    return set(forms(cells, dict(zip(names, names, strict=True))).values())


class _Definitions:
    """The statements of a notebook, by the names that they define, or change."""

    def __init__(self, cells: Sequence[str], kept: Collection[str]) -> None:
        self._statements = statements(cells)
        self._places: dict[str, list[int]] = defaultdict(list)
        self._functions: set[str] = set()
        for place, statement in enumerate(self._statements):
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                self._places[statement.name] = [place]  # what stood there before is forgotten
                self._functions.add(statement.name)
            elif not isinstance(statement, ast.Expr | ast.Import | ast.ImportFrom):
                for name in self._changed(statement):
                    self._places[name].append(place)
        for name in kept:
            self._places.pop(name, None)

    def _changed(self, statement: ast.stmt) -> set[str]:
        """Name what a statement stores; and, of loops and the like, the values it works with."""
        stored = _names(statement, ast.Store)
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            return stored
        values = _names(statement) - self._functions
        return stored | (values & self._places.keys())

    def form(self, name: str) -> str:
        wanted, known, places = [name], {name}, set[int]()
        for one in wanted:  # each name once: a hostile notebook has thousands of each other's
            for place in self._places.get(one, []):
                if place not in places:
                    places.add(place)
                    new = _uses(self._statements[place]) - known
                    known |= new
                    wanted += sorted(new)
        chosen = [self._statements[place] for place in sorted(places)]
        if all(map(_is_stub, chosen)) or len(chosen) > MAX_STATEMENTS:
            return ""
        outer = {one for one in wanted if one in self._places}
        numbers: dict[str, str] = {}
        try:
            return "\n".join(_Normalised(one, outer, numbers).text() for one in chosen)
        except RecursionError:
            return ""


def _names(statement: ast.stmt, context: type[ast.expr_context] = ast.expr_context) -> set[str]:
    found = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {node.id for node in found if isinstance(node.ctx, context)}


def _bound(statement: ast.stmt) -> set[str]:
    """Name what a function binds inside, or what a lambda in another statement does."""
    inside = [node for node in ast.walk(statement) if node is not statement]
    bound = {node.arg for node in inside if isinstance(node, ast.arg)}
    if isinstance(statement, ast.FunctionDef):
        bound |= _names(statement, ast.Store)
        bound |= {node.name for node in inside if isinstance(node, ast.FunctionDef)}
    return bound


def _uses(statement: ast.stmt) -> set[str]:
    """Name what a statement takes from the notebook around it."""
    return _names(statement) - _bound(statement)


def _is_stub(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.FunctionDef):
        return all(
            isinstance(part, ast.Raise | ast.Pass)
            or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            for part in statement.body
        )
    value = statement.value if isinstance(statement, ast.Assign) else None
    return isinstance(value, ast.Constant) and value.value in (..., None)


class _Normalised(ast.NodeTransformer):
    """A statement with its names numbered, without annotations and docstrings.

    `outer` are names of the notebook, whose `numbers` all its statements share.
    """

    def __init__(self, one: ast.stmt, outer: set[str], numbers: dict[str, str]) -> None:
        self._one, self._outer, self._numbers = copy.deepcopy(one), outer, numbers
        self._local: dict[str, str] = {}
        self._bound = _bound(one)
        if not isinstance(one, ast.FunctionDef):
            self._bound |= _names(one, ast.Store) - outer  # of comprehensions

    def text(self) -> str:
        return ast.dump(self.visit(self._one))

    def _numbered(self, name: str) -> str:
        if name in self._bound:
            return self._local.setdefault(name, f"local {len(self._local)}")
        if name in self._outer:
            return self._numbers.setdefault(name, f"outer {len(self._numbers)}")
        return name

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._numbered(node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(self._numbered(node.arg))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        value = node.value or ast.Constant(None)
        return self.visit(ast.Assign([node.target], value))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.returns = self._numbered(node.name), None
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        return self.generic_visit(node)


def same_answers(
    answers: Mapping[str, Mapping[str, str]], known: Collection[str]
) -> dict[str, dict[tuple[str, ...], list[str]]]:
    """Return, by submission, which of its answers are the same as those of which others.

    `answers` maps submissions to keys to `forms`; those in `known` are everybody's.
    """
    owners = defaultdict(list)
    for name, by_key in answers.items():
        for key, form in by_key.items():
            if form not in known:
                owners[key, form].append(name)
    shared: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (key, _), names in owners.items():
        for one, other in itertools.permutations(names, 2):
            shared[one][other].append(key)
    return {name: _by_keys(others) for name, others in shared.items()}


def _by_keys(others: Mapping[str, list[str]]) -> dict[tuple[str, ...], list[str]]:
    grouped = defaultdict(list)
    for other, keys in others.items():
        grouped[tuple(sorted(keys))].append(other)
    return dict(grouped)


# ---- nearly the same code ------------------------------------------------------------------------


def similar(
    submissions: Sequence[Submission], published: Iterable[Sequence[str]] = ()
) -> dict[str, list[str]]:
    """Return, by name, the submissions whose code is nearly the same but for names and values.

    One may hold more than the other. What stands in the `published` notebooks, lists of cells, is
    left aside: all may use that.
    """
    common = {shingle for cells in published for shingle in _shingles(cells)}
    own = {sub.name: _shingles(sub.cells) - common for sub in submissions}
    telling = {name: found for name, found in own.items() if len(found) >= MIN_SHINGLES}
    others: dict[str, list[str]] = {}
    for (one, mine), (other, theirs) in itertools.combinations(telling.items(), 2):
        if len(mine & theirs) >= MIN_SIMILARITY * min(len(mine), len(theirs)):
            others.setdefault(one, []).append(other)
            others.setdefault(other, []).append(one)
    return others


def pasted(
    submissions: Sequence[Submission],
    sources: Mapping[str, str],
    published: Iterable[Sequence[str]] = (),
) -> Names:
    """Return, by name, which of the `sources`, texts by their names, stand nearly whole in it.

    What stands in the `published` notebooks too is left aside, as by `similar`.
    """
    common = {shingle for cells in published for shingle in _shingles(cells)}
    wanted = {name: _shingles([textwrap.dedent(text)]) - common for name, text in sources.items()}
    wanted = {name: found for name, found in wanted.items() if len(found) >= MIN_SHINGLES}
    own = {sub.name: _shingles(sub.cells) for sub in submissions}
    return {
        sub: [n for n, found in wanted.items() if len(found & mine) >= MIN_SIMILARITY * len(found)]
        for sub, mine in own.items()
    }


def _shingles(cells: Sequence[str]) -> set[int]:
    """Return the hashes of all runs of tokens, cell by cell, whatever the names and values."""
    found, left = set(), MAX_ALL_CELLS
    for source in cells:
        tokens = _tokens(source[: min(MAX_CELL, left)])
        left -= min(len(source), MAX_CELL, left)
        found |= {hash(tuple(tokens[i : i + SHINGLE])) for i in range(len(tokens) - SHINGLE + 1)}
    return found


def _tokens(source: str) -> list[str]:
    tokens = []
    try:
        for kind, text, *_ in tokenize.generate_tokens(io.StringIO(source).readline):
            if kind == token.NAME and not keyword.iskeyword(text):
                tokens.append("name")
            elif kind == token.NUMBER:
                if tokens[-2:-1] in (["["], [","]) and tokens[-1] == "-":
                    tokens.pop()  # data differ in signs too
                tokens.append("number")
            elif kind == token.STRING:
                tokens.append("text")
            elif kind not in (token.COMMENT, token.NL):
                tokens.append(text)
    except (tokenize.TokenError, SyntaxError, ValueError):
        pass  # as far as it can be read
    return tokens
