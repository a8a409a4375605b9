"""The lessons' library: reading, running, copying, opening."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sltools import lessons
from sltools.errors import LessonError
from sltools.lessons import Parameter


@pytest.fixture
def material(little_course: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder above a small course, which sltools takes for its own."""
    monkeypatch.setattr(lessons.catalog, "material", lambda: little_course.parent)
    (little_course / "results").mkdir()
    (little_course / "results" / "long.json").write_text("{}")
    (little_course / ".ipynb_checkpoints").mkdir()
    (little_course / ".ipynb_checkpoints" / "x.ipynb").write_text("{}")
    return little_course.parent


# ---- reading -------------------------------------------------------------------------------------


def test_lessons_are_listed_in_order_with_their_facts(little_course: Path) -> None:
    little, following = lessons.lessons(little_course)
    assert (little.number, little.name, little.title) == (3, "03_little", "A little lesson")
    assert (little.minutes, little.path) == (5, little_course / "03_little.ipynb")
    assert (following.number, following.minutes, following.parameters) == (4, 0, ())


def test_parameters_carry_type_default_help_and_choices(little_course: Path) -> None:
    dataset, budget, seed, noise, verbose = lessons.find("3", little_course).parameters
    assert dataset == Parameter(
        "dataset", "str", "digits", "one of: digits, mnist", ("digits", "mnist")
    )
    assert budget.choices == ("tiny", "quick", "full")
    assert seed == Parameter("seed", "int", 0, "the seed of everything")
    assert (noise.default, verbose.default, verbose.help) == (0.5, False, "")


@pytest.mark.parametrize("key", ["3", "03", " 03_little "])
def test_a_lesson_is_found_by_number_and_name(little_course: Path, key: str) -> None:
    assert lessons.find(key, little_course).name == "03_little"


@pytest.mark.parametrize("key", ["5", "little", "", "³"])
def test_an_unknown_lesson_is_refused_with_the_known_ones(little_course: Path, key: str) -> None:
    with pytest.raises(LessonError, match="03_little, 04_next"):
        lessons.find(key, little_course)


def test_a_path_means_the_file_there_and_not_the_lesson_of_that_name(
    little_course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine" / "03_little.ipynb"
    mine.parent.mkdir()
    shipped = (little_course / "03_little.ipynb").read_text()
    mine.write_text(shipped.replace("A little lesson", "As I edited it"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for key in (str(mine), "mine/03_little.ipynb", "~/mine/03_little.ipynb"):
        assert lessons.find(key, little_course).path.read_text() == mine.read_text()
        assert lessons.find(key, little_course).title == "As I edited it"
    assert lessons.find("03_little", little_course).title == "A little lesson"
    monkeypatch.chdir(mine.parent)
    assert lessons.find("03_little.ipynb", little_course).title == "As I edited it"


@pytest.mark.parametrize(
    "key", ["03_little.ipynb", "course/03_little", "../03", "nowhere/03_little.ipynb", "/3"]
)
def test_a_path_without_a_file_is_never_a_lesson_of_that_name(
    little_course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LessonError, match=r"there is no file .*03_little, 04_next"):
        lessons.find(key, little_course)


@pytest.mark.parametrize("name", ["mine.ipynb", "03_little.py", "3_little.ipynb"])
def test_a_file_that_is_no_lesson_is_named(little_course: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text((little_course / "03_little.ipynb").read_text())
    with pytest.raises(LessonError, match=rf"{name} is no lesson"):
        lessons.find(str(tmp_path / name), little_course)


@pytest.mark.parametrize(
    "cell", ["seed = 0", "seed: list = []", "import os", "seed: int = f()", "seed: int ="]
)
def test_a_parameters_cell_that_cannot_be_read_is_named(little_course: Path, cell: str) -> None:
    path = little_course / "03_little.ipynb"
    path.write_text(path.read_text().replace("verbose: bool = False", cell))
    with pytest.raises(LessonError, match="03_little.ipynb is not a lesson"):
        lessons.lessons(little_course)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": []}'])
def test_a_damaged_notebook_is_named(little_course: Path, content: str) -> None:
    (little_course / "03_little.ipynb").write_text(content)
    with pytest.raises(LessonError, match="03_little.ipynb is not a lesson"):
        lessons.find("4", little_course)


def test_the_course_is_found_beside_the_package() -> None:
    assert lessons.course() == Path(lessons.__file__).parents[2] / "course"


def test_an_installation_without_lessons_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons.catalog, "PACKAGE", tmp_path / "sltools")
    with pytest.raises(LessonError, match="without its lessons"):
        lessons.course()
    (tmp_path / "sltools" / "_material" / "course").mkdir(parents=True)
    (tmp_path / "course").mkdir()
    assert lessons.course() == tmp_path / "sltools" / "_material" / "course"


# ---- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ({"seed": " 12 "}, 12),
        ({"noise": "1e-3"}, 0.001),
        ({"noise": "2"}, 2.0),
        ({"verbose": "True"}, True),
        ({"verbose": "false"}, False),
        ({"dataset": "mnist"}, "mnist"),
    ],
)
def test_typed_settings_become_values(
    little_course: Path, typed: dict[str, str], value: object
) -> None:
    (parsed,) = lessons.find("3", little_course).parse(typed).values()
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("seed", "1.5", "give int"),
        ("seed", "", "give int"),
        ("noise", "much", "give float"),
        ("verbose", "1", "give bool"),
        ("dataset", "imagenet", "one of digits, mnist"),
        ("epoch", "9", "dataset, budget, seed, noise, verbose"),
    ],
)
def test_wrong_typed_settings_are_refused(
    little_course: Path, name: str, text: str, expected: str
) -> None:
    with pytest.raises(LessonError, match=expected):
        lessons.find("3", little_course).parse({name: text})


@pytest.mark.parametrize(
    ("kind", "value"),
    [("int", "3"), ("int", 3.0), ("int", True), ("float", False), ("str", 3), ("bool", 1)],
)
def test_values_of_the_wrong_type_are_refused(kind: str, value: object) -> None:
    with pytest.raises(LessonError, match=f"give {kind}"):
        Parameter("x", kind, None).check(value)


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.booleans()))
def test_what_is_shown_can_be_typed(value: object) -> None:
    parameter = Parameter("x", type(value).__name__, value)
    assert parameter.check(value) == value
    expected = value.strip() if isinstance(value, str) else value
    assert parameter.parse(str(value)) == expected


# ---- running -------------------------------------------------------------------------------------


def test_run_puts_the_parameters_to_work_in_a_new_file(
    little_course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "jupyter" / "kernels" / "python3"  # must not be used
    elsewhere.mkdir(parents=True)
    (elsewhere / "kernel.json").write_text('{"argv": ["false"], "display_name": "x"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    before = (little_course / "03_little.ipynb").read_bytes()
    folder = tmp_path / "a {folder}"
    folder.mkdir()
    output = lessons.run(lessons.find("3", little_course), {"seed": 4, "budget": "tiny"}, folder)
    assert output.parent == folder
    assert output.match("run-03_little-*.ipynb")
    notebook = nbformat.read(output, as_version=4)
    assert "digits tiny 5 0.5 False" in [o.text.strip() for c in notebook.cells for o in _out(c)]
    assert "widgets" not in notebook.metadata
    assert (folder / "written.txt").read_text() == f"{sys.executable} 1"
    assert (little_course / "03_little.ipynb").read_bytes() == before


def test_a_device_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(LessonError, match="parameter device: .*'cuda:99'"):
        lessons.run(lessons.find("04"), {"device": "cuda:99"}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_run_keeps_the_notebook_of_a_failed_lesson(little_course: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    with pytest.raises(LessonError) as error:
        lessons.run(lessons.find("3", little_course), {"seed": 7}, output)
    assert "cell [4] with RuntimeError: seven is too much" in str(error.value)
    assert str(output) in str(error.value)
    errors = [o.evalue for c in nbformat.read(output, 4).cells for o in _out(c, "error")]
    assert errors == ["seven is too much"]


def test_run_stops_a_lesson_that_takes_too_long(little_course: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    with pytest.raises(LessonError, match=r"cell \[4\], which took longer than 1.5 s"):
        lessons.run(lessons.find("3", little_course), {"seed": 8}, output, timeout=1.5)
    assert "digits quick 9" in output.read_text()


def test_run_says_when_the_kernel_dies(little_course: Path, tmp_path: Path) -> None:
    path = little_course / "03_little.ipynb"
    path.write_text(path.read_text().replace("import time", "os._exit(1)"))
    with pytest.raises(LessonError, match=r"cell \[4\], where its process died"):
        lessons.run(lessons.find("3", little_course), {"seed": 8}, tmp_path / "out.ipynb")


def test_run_refuses_before_it_touches_the_disk(little_course: Path, tmp_path: Path) -> None:
    little = lessons.find("3", little_course)
    for wrong in ({"epoch": 9}, {"seed": "0"}, {"dataset": "imagenet"}):
        with pytest.raises(LessonError):
            lessons.run(little, wrong, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_run_never_overwrites(little_course: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.ipynb"
    mine.write_text("mine")
    with pytest.raises(LessonError, match="exists and stays"):
        lessons.run(lessons.find("3", little_course), {}, mine)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["file/out.ipynb", "out.txt"])
def test_run_refuses_an_output_it_cannot_write(
    little_course: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(LessonError, match=r"another place|name in \.ipynb"):
        lessons.run(lessons.find("3", little_course), {}, tmp_path / name)


def _out(cell: nbformat.NotebookNode, kind: str = "stream") -> list[nbformat.NotebookNode]:
    return [output for output in cell.get("outputs", []) if output.output_type == kind]


# ---- copying -------------------------------------------------------------------------------------


def test_copy_brings_the_lessons_and_not_their_sources(material: Path, tmp_path: Path) -> None:
    report = lessons.copy_course(tmp_path / "mine")
    expected = ("course/03_little.ipynb", "course/04_next.ipynb", "course/results/long.json")
    assert report.added == expected
    there = [p.relative_to(tmp_path / "mine").as_posix() for p in _files(tmp_path / "mine")]
    assert set(there) == {*expected, ".sltools-course.json"}
    assert "3 files new" in str(report)


def test_a_second_copy_changes_nothing(material: Path, tmp_path: Path) -> None:
    lessons.copy_course(tmp_path / "mine")
    before = _contents(tmp_path / "mine")
    report = lessons.copy_course(tmp_path / "mine")
    assert (report.added, report.updated, report.kept, report.beside) == ((), (), (), ())
    assert _contents(tmp_path / "mine") == before


def test_an_untouched_file_follows_the_release(material: Path, tmp_path: Path) -> None:
    lessons.copy_course(tmp_path / "mine")
    (material / "course" / "04_next.ipynb").write_text("release 2")
    report = lessons.copy_course(tmp_path / "mine")
    assert report.updated == ("course/04_next.ipynb",)
    assert (tmp_path / "mine" / "course" / "04_next.ipynb").read_text() == "release 2"


def test_an_edited_file_is_kept_and_the_release_placed_beside_it(
    material: Path, tmp_path: Path
) -> None:
    lessons.copy_course(tmp_path / "mine")
    shipped = material / "course" / "04_next.ipynb"
    mine = tmp_path / "mine" / "course" / "04_next.ipynb"
    beside = mine.with_name("04_next.new.ipynb")
    mine.write_text("my notes")

    assert lessons.copy_course(tmp_path / "mine").kept == ("course/04_next.ipynb",)
    assert not beside.exists()

    shipped.write_text("release 2")
    report = lessons.copy_course(tmp_path / "mine")
    assert report.beside == ("course/04_next.new.ipynb",)
    assert "04_next.new.ipynb" in str(report)
    assert (mine.read_text(), beside.read_text()) == ("my notes", "release 2")

    shipped.write_text("release 3")
    assert lessons.copy_course(tmp_path / "mine").beside == ("course/04_next.new.ipynb",)
    assert (mine.read_text(), beside.read_text()) == ("my notes", "release 3")

    beside.unlink()  # merged by hand: this release is not offered again
    assert lessons.copy_course(tmp_path / "mine").kept == ("course/04_next.ipynb",)
    assert not beside.exists()


def test_an_edited_new_file_is_kept_too(material: Path, tmp_path: Path) -> None:
    lessons.copy_course(tmp_path / "mine")
    shipped = material / "course" / "04_next.ipynb"
    mine = tmp_path / "mine" / "course" / "04_next.ipynb"
    beside = mine.with_name("04_next.new.ipynb")
    mine.write_text("my notes")
    beside.write_text("more notes")
    shipped.write_text("release 2")
    report = lessons.copy_course(tmp_path / "mine")
    assert (report.kept, report.beside) == (("course/04_next.new.ipynb",), ())
    assert (mine.read_text(), beside.read_text()) == ("my notes", "more notes")
    beside.unlink()  # now there is room for the release that could not be placed
    assert lessons.copy_course(tmp_path / "mine").beside == ("course/04_next.new.ipynb",)


def test_files_of_the_user_are_left_alone(material: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "course"
    mine.mkdir(parents=True)
    (mine / "03_little.ipynb").write_text("no copy of ours")
    (mine / "thesis.txt").write_text("mine")
    report = lessons.copy_course(tmp_path / "mine")
    assert report.beside == ("course/03_little.new.ipynb",)
    assert (mine / "03_little.ipynb").read_text() == "no copy of ours"
    assert (mine / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("manifest", ["", "[]", "\x00"])
def test_without_its_manifest_every_difference_counts_as_an_edit(
    material: Path, tmp_path: Path, manifest: str
) -> None:
    lessons.copy_course(tmp_path / "mine")
    (tmp_path / "mine" / ".sltools-course.json").write_text(manifest)
    (material / "course" / "04_next.ipynb").write_text("release 2")
    report = lessons.copy_course(tmp_path / "mine")
    assert report.beside == ("course/04_next.new.ipynb",) and not report.updated


def test_a_deleted_file_comes_back(material: Path, tmp_path: Path) -> None:
    lessons.copy_course(tmp_path / "mine")
    (tmp_path / "mine" / "course" / "04_next.ipynb").unlink()
    assert lessons.copy_course(tmp_path / "mine").added == ("course/04_next.ipynb",)


def test_copy_refuses_a_place_it_cannot_use(material: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LessonError, match="cannot copy the course"):
        lessons.copy_course(tmp_path / "file")
    for own in (material, material / "course"):
        with pytest.raises(LessonError, match="is the course itself"):
            lessons.copy_course(own)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in _files(folder)}


# ---- JupyterLab ----------------------------------------------------------------------------------


def test_lab_options_open_the_copy_on_its_first_lesson(tmp_path: Path) -> None:
    assert not any("default_url" in option for option in lessons.lab._lab_options(tmp_path))
    (tmp_path / "course").mkdir()
    (tmp_path / lessons.START).write_text("{}")
    options = lessons.lab._lab_options(tmp_path)
    assert f"--ServerApp.root_dir={tmp_path.resolve()}" in options
    assert "--LabApp.default_url=/lab/tree/course/00_start_here.ipynb" in options


@pytest.mark.parametrize(("uid", "root"), [(0, True), (1000, False)])
def test_lab_runs_as_root_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, root: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid, raising=False)
    assert ("--allow-root" in lessons.lab._lab_options(tmp_path)) is root
    monkeypatch.delattr(os, "geteuid")
    assert "--allow-root" not in lessons.lab._lab_options(tmp_path)


def test_open_lab_adds_the_users_arguments_and_keeps_their_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[list[str]] = []
    monkeypatch.setattr("jupyterlab.labapp.LabApp.launch_instance", launched.append)
    monkeypatch.setattr(os, "environ", {**os.environ, "JUPYTER_CONFIG_PATH": "/theirs"})
    lessons.open_lab(tmp_path, ["--no-browser", "--port=8899"])
    assert launched[0][-2:] == ["--no-browser", "--port=8899"]
    first, ours = os.environ["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert first == "/theirs"
    assert (Path(ours) / "labconfig" / "default_setting_overrides.json").is_file()


@pytest.mark.parametrize(("theirs", "used"), [(None, "1"), ("4", "4")])
def test_a_lesson_has_one_thread_unless_the_user_says_more(
    monkeypatch: pytest.MonkeyPatch, theirs: str | None, used: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if theirs:
        monkeypatch.setenv("OMP_NUM_THREADS", theirs)
    assert lessons.headless_kernel()().kernel_spec.env["OMP_NUM_THREADS"] == used
    assert lessons.lab._lab_environment()["OMP_NUM_THREADS"] == used


def test_the_appendix_is_found_by_name_and_named_where_a_lesson_is_missing() -> None:
    deeper = lessons.appendix()
    assert lessons.find(deeper[0].name) == deeper[0]
    for key in ("99", "nowhere/04_x.ipynb"):
        with pytest.raises(LessonError, match=f"in the appendix: {deeper[0].name}"):
            lessons.find(key)
    with pytest.raises(LessonError, match="is a folder"):
        lessons.find(str(lessons.course()))
