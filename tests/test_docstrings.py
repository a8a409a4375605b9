"""Whatever is public shows how it is called: `pytest sltools` runs these examples."""

import ast
import builtins
import doctest
import importlib
import inspect
import pkgutil

import pytest

from sltools import attacks, data, defenses, detectors, metrics, models, protocol

ROOMS = (attacks, data, defenses, detectors, metrics, models, protocol)


def public(room):
    """Yield the classes and functions that a package exports or a module defines, by name."""
    for name in getattr(room, "__all__", vars(room)):
        value = getattr(room, name)
        defined = getattr(value, "__module__", "").startswith(room.__name__)
        kind = inspect.isclass(value) or inspect.isroutine(value)
        if kind and defined and not name.startswith("_"):
            yield name, value


def modules(room):
    """The room, and the modules in it if it is a package."""
    inner = pkgutil.iter_modules(getattr(room, "__path__", []), f"{room.__name__}.")
    return [room, *(importlib.import_module(module.name) for module in inner)]


def names(tree, kind):
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {node.id for node in found if isinstance(node.ctx, kind)}


def bound(tree):
    """The names that a program binds: by assignment, import, definition or as an argument."""
    found = names(tree, ast.Store)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_all_that_is_public_has_an_example(room):
    found = dict(public(room))
    assert found
    silent = [name for name, value in found.items() if ">>>" not in (value.__doc__ or "")]
    assert not silent


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_an_example_can_be_copied_for_it_imports_what_it_uses(room):
    finder = doctest.DocTestFinder()
    shown = [test for module in modules(room) for test in finder.find(module) if test.examples]
    assert shown
    for test in shown:
        tree = ast.parse("".join(example.source for example in test.examples))
        unknown = names(tree, ast.Load) - bound(tree) - set(dir(builtins))
        assert not unknown, test.name
