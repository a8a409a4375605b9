"""The field map: what it says is about something, and no more than is known."""

import importlib
import inspect
import json
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from types import ModuleType

import nbformat
import pytest

from sltools import attacks, defenses, detectors, fieldmap, lessons, plots
from sltools.errors import SltoolsError
from sltools.fieldmap import Work

WORKS = fieldmap.works()
ADDRESS = re.compile(
    r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|doi\.org/10\.\d{4,9}/\S+|openreview\.net/forum\?id=\w+"
    r"|eprint\.iacr\.org/\d{4}/\d+|doaj\.org/article/\w{32}|www\.usenix\.org/conference/\S+)"
)
REPOSITORY = re.compile(r"https://github\.com/[\w-]+/[\w-]+")
# Nobody who wrote these cards has read more of these works than their titles.
TITLE_ONLY = {
    "amplitude-fl", "controlnet-sl-2025", "distance-lia", "flexsplit", "healthcare-partitioning",
    "ppsfl", "soft-label-lia", "visual-secrets",
}  # fmt: skip
ASKED = {
    "needs": fieldmap.NEEDS, "gets": fieldmap.GETS, "world": fieldmap.WORLDS,
    "kind": fieldmap.KINDS, "status": fieldmap.STATUSES,
}  # fmt: skip
BASES = {"Outgoing", "Compose", "Detector"}  # what others are made from

every = pytest.mark.parametrize("work", WORKS, ids=lambda work: work.id)


def ids(found: tuple[Work, ...]) -> set[str]:
    return {work.id for work in found}


# ---- the cards -----------------------------------------------------------------------------------


def test_no_work_is_there_twice() -> None:
    titles = [title for work in WORKS for title in (work.title, *work.other_titles)]
    links = [link for work in WORKS for link in work.sources]
    plain = [re.sub(r"\W", "", title).casefold() for title in titles]
    for names in ([w.id for w in WORKS], [(w.name, w.year) for w in WORKS], plain, links):
        assert [name for name, count in Counter(names).items() if count > 1] == []


@every
def test_a_card_uses_the_words_that_there_are(work: Work) -> None:
    assert set(work.kinds) <= fieldmap.KINDS.keys()
    assert set(work.worlds) <= fieldmap.WORLDS.keys()
    for threat in work.threats:
        assert re.fullmatch(r"(honest-but-curious|malicious) server|client|third party",
                            threat.attacker)  # fmt: skip
        assert set(threat.needs or ()) <= fieldmap.NEEDS.keys()
        assert threat.gets and set(threat.gets) <= fieldmap.GETS.keys()
    assert set(work.answers) <= ids(WORKS) - {work.id}
    assert re.fullmatch(r"[a-z0-9-]+", work.id) and "  " not in work.gist
    assert not work.gist or re.fullmatch(r"[A-Z].*\.", work.gist)


def test_no_word_is_there_for_nothing() -> None:
    assert {kind for work in WORKS for kind in work.kinds} == fieldmap.KINDS.keys()
    assert {world for work in WORKS for world in work.worlds} == fieldmap.WORLDS.keys()
    threats = [threat for work in WORKS for threat in work.threats]
    assert {need for threat in threats for need in threat.needs or ()} == fieldmap.NEEDS.keys()
    assert {got for threat in threats for got in threat.gets} == fieldmap.GETS.keys()
    assert {work.status for work in WORKS} == fieldmap.STATUSES.keys()


@every
def test_addresses_have_the_right_form(work: Work) -> None:
    assert all(ADDRESS.fullmatch(link) for link in work.sources), work.sources
    assert all(REPOSITORY.fullmatch(link) for link in work.code), work.code
    assert work.year is None or 1900 < work.year < 2100


@every
def test_what_is_said_of_a_work_can_be_looked_up(work: Work) -> None:
    found = work.sources or work.venue or work.code or work.runs
    assert found or work.id in TITLE_ONLY


def test_nothing_is_said_of_works_whose_title_alone_is_known() -> None:
    assert {work.id for work in WORKS if not work.gist} == TITLE_ONLY
    assert ids(fieldmap.find(status="unread")) == TITLE_ONLY
    known = {"id", "name", "title", "authors", "year", "venue", "sources"}
    claims = {field.name for field in fields(Work)} - known
    for work in WORKS:
        if work.id in TITLE_ONLY:
            assert [name for name in claims if getattr(work, name)] == [], work.id
            assert not work.answered_by
        else:
            assert work.kinds and work.worlds, work.id


@every
def test_an_attack_says_what_it_gets(work: Work) -> None:
    named = {"attack", "detector", "defence"} & set(work.kinds)
    assert work.threats or not named or "cryptography" in work.kinds


# ---- what the course does with them --------------------------------------------------------------


def text_of(name: str) -> str:
    """All cells of a notebook, white space as single blanks."""
    notebook = nbformat.read(lessons.find(name).path, as_version=4)
    return " ".join(" ".join(cell.source for cell in notebook.cells).split())


@pytest.mark.parametrize("work", fieldmap.find(status="runs"), ids=lambda work: work.id)
def test_what_runs_exists_and_a_lesson_shows_it(work: Work) -> None:
    shown = " ".join(map(text_of, work.lessons))
    for name in work.runs:
        found = pkgutil.resolve_name(name)
        assert inspect.isclass(found) and found.__module__.startswith("sltools.")
        in_words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", found.__name__).lower()
        assert found.__name__ in shown or in_words in shown.lower(), name


@pytest.mark.parametrize("work", fieldmap.find(status="explained"), ids=lambda work: work.id)
def test_what_is_explained_is_named_in_each_of_its_lessons(work: Work) -> None:
    for name in work.lessons:
        shown = text_of(name).casefold()
        assert work.name.casefold() in shown or work.title.casefold() in shown, name


@every
def test_lessons_are_named_by_their_full_names(work: Work) -> None:
    assert [lessons.find(name).name for name in work.lessons] == list(work.lessons)


def exported(room: ModuleType) -> Iterator[str]:
    for name in room.__all__:
        is_method = inspect.isclass(getattr(room, name)) and name not in BASES
        if is_method and not name.endswith("Result"):
            yield f"{room.__name__}.{name}"


@pytest.mark.parametrize("room", [attacks, defenses, detectors], ids=lambda room: room.__name__)
def test_every_attack_defence_and_detector_of_the_library_is_on_the_map(room: ModuleType) -> None:
    mapped = {name for work in WORKS for name in work.runs}
    assert set(exported(room)) - mapped == set()
    kind = {attacks: "attack", defenses: "defence", detectors: "detector"}[room]
    for work in WORKS:
        if any(name.startswith(f"{room.__name__}.") for name in work.runs):
            assert kind in work.kinds, work.id


# ---- finding -------------------------------------------------------------------------------------


def values_of(work: Work, name: str) -> set[str]:
    """What a work offers to a filter."""
    if name in ("needs", "gets"):
        return {value for threat in work.threats for value in getattr(threat, name) or ()}
    return {"world": set(work.worlds), "kind": set(work.kinds), "status": {work.status}}[name]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, known in ASKED.items() for value in known]
)
def test_a_filter_lets_pass_what_has_the_value_and_nothing_else(name: str, value: str) -> None:
    expected = {work.id for work in WORKS if value in values_of(work, name)}
    assert ids(fieldmap.find(**{name: value})) == expected != set()


def test_filters_are_all_to_be_met() -> None:
    for world, kind in product(fieldmap.WORLDS, fieldmap.KINDS):
        both = ids(fieldmap.find(world=world)) & ids(fieldmap.find(kind=kind))
        assert ids(fieldmap.find(world=world, kind=kind)) == both


def test_need_and_loot_are_asked_of_one_attacker() -> None:
    assert "unsplit" in ids(fieldmap.find(needs="weight gradients", gets="labels"))
    assert "unsplit" not in ids(fieldmap.find(needs="weight gradients", gets="inputs"))


def test_words_are_found_in_any_order_and_case() -> None:
    assert ids(fieldmap.find(text="LEARNING unsplit")) == {"unsplit"}
    assert "prism" in ids(fieldmap.find(text="weak clients"))  # its other title
    assert "fsha" in ids(fieldmap.find(text="malicious"))
    assert fieldmap.find(text="no such word") == ()
    assert fieldmap.find() == fieldmap.find(text="  ") == WORKS


@pytest.mark.parametrize("name", ASKED)
def test_an_unknown_value_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(SltoolsError, match=f"{name} cannot be 'x'; choose one of: ") as error:
        fieldmap.find(**{name: "x"})
    assert str(error.value).endswith(fieldmap.in_words(ASKED[name]))


def test_answered_by_is_the_other_side_of_answers() -> None:
    pairs = {(work.id, key) for work in WORKS for key in work.answers}
    assert pairs == {(key, work.id) for work in WORKS for key in work.answered_by}
    assert ("splitguard", "fsha") in pairs and ("urvfl", "splitguard") in pairs


# ---- in print ------------------------------------------------------------------------------------


def test_a_table_has_eighty_columns_and_all_works() -> None:
    printed = fieldmap.table(WORKS)
    assert max(map(len, printed.splitlines())) <= 80
    flowing = " ".join(line[:22].strip() for line in printed.splitlines())
    assert [work.name for work in WORKS if work.name not in flowing] == []
    assert printed.endswith(f"{len(WORKS)} works")
    assert fieldmap.table(()).endswith("0 works")


@every
def test_a_card_says_all_that_is_known(work: Work) -> None:
    printed = fieldmap.card(work)
    flowing = " ".join(printed.split())
    for text in (work.title, *work.other_titles, work.authors, work.venue, work.gist, work.status):
        assert text in flowing
    for text in (*work.sources, *work.code, *work.runs, *work.lessons):
        assert text in printed
    assert all(len(line) <= 80 or "https://" in line for line in printed.splitlines())
    assert (fieldmap.UNKNOWN in printed) >= (work.id in TITLE_ONLY)


def test_facts_are_json_with_what_follows_from_the_map() -> None:
    facts = json.loads(json.dumps([fieldmap.facts(work) for work in WORKS]))
    assert [card["id"] for card in facts] == [work.id for work in WORKS]
    unsplit = facts[0]
    assert unsplit["status"] == "runs" and "simple-transformation" in unsplit["answered_by"]


def test_needs_and_loot_are_counted() -> None:
    found = fieldmap.find(kind="attack")
    counted = fieldmap.needs_and_gets(found)
    for need, row in counted.items():
        if need in fieldmap.NEEDS:
            assert row == {
                get: len(fieldmap.find(needs=need, gets=get, kind="attack")) for get in row
            }
    unknown = [w for w in found if any(t.needs is None and "inputs" in t.gets for t in w.threats)]
    assert counted[fieldmap.UNKNOWN]["inputs"] == len(unknown) > 0
    nothing = fieldmap.needs_and_gets(fieldmap.find(text="warner"))
    assert nothing == {fieldmap.NOTHING: {"labels": 1}}
    assert fieldmap.needs_and_gets(()) == {}
    assert "weight gradients: labels" in plots.heat_map(counted, "gets", "needs").alt


def test_the_map_needs_nothing_of_the_library_that_it_maps() -> None:
    for part in ("catalog", "table"):
        source = inspect.getsource(importlib.import_module(f"sltools.fieldmap.{part}"))
        imported = set(re.findall(r"^from (sltools[\w.]*) import", source, re.M))
        assert imported <= {"sltools.errors", "sltools.fieldmap.catalog"}
