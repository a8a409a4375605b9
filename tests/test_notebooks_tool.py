"""The developer's tool that builds notebooks from percent scripts."""

from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import notebooks


def test_the_same_script_gives_the_same_notebook(little_course: Path) -> None:
    script = little_course / "src" / "03_little.py"
    one, two = notebooks.generate(script), notebooks.generate(script)
    assert nbformat.writes(one) == nbformat.writes(two)
    assert len({cell.id for cell in one.cells}) == len(one.cells)


def test_equal_cells_have_different_ids(tmp_path: Path) -> None:
    script = tmp_path / "01_twice.py"
    script.write_text("# %% [markdown]\n# # Twice\n\n# %%\n1\n\n# %%\n1\n")
    ids = [cell.id for cell in notebooks.generate(script).cells]
    assert len(set(ids)) == 3


def test_a_notebook_keeps_its_tags_and_facts_and_no_pairing(little_course: Path) -> None:
    notebook = nbformat.read(little_course / "03_little.ipynb", as_version=4)
    facts = {"minutes": 5, "number": 3, "title": "A little lesson"}
    measured = set(notebooks.MEASURED)
    assert {k: v for k, v in notebook.metadata.sltools.items() if k not in measured} == facts
    assert notebook.cells[1].metadata == {"tags": ["parameters"]}
    assert set(notebook.metadata) == {"kernelspec", "language_info", "sltools"}
    assert notebook.metadata.sltools.seconds >= 1
    assert notebook.metadata.sltools.calibration > 0


def test_check_accepts_what_build_made(little_course: Path) -> None:
    assert notebooks.main(["--folder", str(little_course), "--check"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("seed + 1", "seed + 2", "cell 2 differs in its source"),
        ('"quick"', '"full"', "cell 1 differs in its source"),
        ('tags=["parameters"]', "", "cell 1 differs in its metadata"),
        ("minutes: 5", "minutes: 6", "metadata differ"),
        ("import os, pathlib, sys", "import os\n\n# %%\nimport pathlib, sys", "its source 6"),
    ],
)
def test_check_says_what_differs(
    little_course: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, difference: str
) -> None:
    script = little_course / "src" / "03_little.py"
    text = script.read_text()
    assert old in text
    script.write_text(text.replace(old, new))
    assert notebooks.main(["--folder", str(little_course), "--check"]) == 1
    printed = capsys.readouterr().out
    assert difference in printed
    assert printed.count("03_little.ipynb: ") == printed.count("\n")


def test_check_misses_neither_notebook_nor_source(little_course: Path) -> None:
    (little_course / "03_little.ipynb").unlink()
    (little_course / "src" / "04_next.py").unlink()
    assert notebooks.differences(little_course) == [
        "04_next.ipynb has no source in src/",
        "src/03_little.py has not been built",
    ]


def test_new_prose_keeps_the_outputs(
    little_course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notebooks, "execute", lambda *_: pytest.fail("executed"))
    path = little_course / "03_little.ipynb"
    before = nbformat.read(path, as_version=4)
    script = little_course / "src" / "03_little.py"
    script.write_text(script.read_text().replace("# # A little lesson", "# # A better title"))
    assert notebooks.main(["--folder", str(little_course)]) == 0
    after = nbformat.read(path, as_version=4)
    assert after.cells[2] == before.cells[2] and after.cells[2].outputs
    assert after.metadata.sltools.title == "A better title"
    assert notebooks.differences(little_course) == []
    assert "kept its outputs" in capsys.readouterr().out


def test_new_code_is_executed(little_course: Path) -> None:
    script = little_course / "src" / "03_little.py"
    script.write_text(script.read_text().replace("seed + 1", "seed + 40"))
    assert notebooks.main(["--folder", str(little_course)]) == 0
    notebook = nbformat.read(little_course / "03_little.ipynb", as_version=4)
    assert notebook.cells[2].outputs[0].text == "digits quick 40 0.5 False\n"
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3, 4]


def test_a_failing_lesson_is_not_written(
    little_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (little_course / "03_little.ipynb").read_bytes()
    script = little_course / "src" / "03_little.py"
    script.write_text(script.read_text().replace("seed: int = 0", "seed: int = 7"))
    assert notebooks.main(["--folder", str(little_course)]) == 1
    assert "seven is too much" in capsys.readouterr().out
    assert (little_course / "03_little.ipynb").read_bytes() == before


def test_a_script_without_a_title_is_refused(tmp_path: Path) -> None:
    (tmp_path / "01_x.py").write_text("# %%\n1\n")
    with pytest.raises(notebooks.BuildError, match="heading"):
        notebooks.generate(tmp_path / "01_x.py")


def test_an_unknown_name_is_refused(little_course: Path) -> None:
    with pytest.raises(SystemExit):
        notebooks.main(["--folder", str(little_course), "05_none"])


def test_clean_leaves_what_a_reader_can_see() -> None:
    widget = {notebooks.WIDGET: {"model_id": "x"}, "image/png": "aa", "text/plain": "a picture"}
    notebook = _notebook(
        new_output("stream", name="stdout", text="a"),
        new_output("stream", name="stdout", text="b"),
        new_output("stream", name="stderr", text="c"),
        new_output("display_data", data=widget, metadata={"image/png": {"alt": "a picture"}}),
    )
    notebook.metadata.widgets = {"state": {}}
    notebooks.clean(notebook)
    streams = [o.text for o in notebook.cells[0].outputs if o.output_type == "stream"]
    assert streams == ["ab", "c"]
    assert set(notebook.cells[0].outputs[-1].data) == {"image/png", "text/plain"}
    assert notebook.cells[0].outputs[-1].metadata == {"image/png": {"alt": "a picture"}}
    assert "widgets" not in notebook.metadata


@pytest.mark.parametrize(
    "text",
    [
        "saved in /home/ada/x",
        "/tmp/ipykernel_7/1.py:3: UserWarning",
        r"C:\Users\ada",
        str(notebooks.COURSE / "results"),
    ],
)
def test_clean_refuses_a_path_of_this_machine(text: str) -> None:
    with pytest.raises(notebooks.BuildError, match="absolute path"):
        notebooks.clean(_notebook(new_output("stream", name="stdout", text=text)))


def test_clean_accepts_addresses_and_rates() -> None:
    text = "https://example.org/home/x, 3 images/s, course/results/x.json, 1/2"
    notebooks.clean(_notebook(new_output("stream", name="stdout", text=text)))


@pytest.mark.parametrize(
    ("words", "lines", "pictures", "minutes"),
    [(0, 0, 0, 10), (3000, 120, 4, 35), (3000, 120, 3, 35), (3000, 96, 4, 30), (300, 0, 20, 20)],
)
def test_minutes_are_words_and_lines_and_figures(
    words: int, lines: int, pictures: int, minutes: int
) -> None:
    picture = new_output("display_data", data={"image/png": "aa", "text/plain": "a picture"})
    notebook = _notebook(*[picture] * pictures, new_output("stream", text="12 words"))
    notebook.cells[0].source = "x = 1\n\n" * lines
    notebook.cells.append(new_markdown_cell("word " * words))
    assert notebooks.minutes(notebook) == minutes


def test_a_picture_in_the_prose_is_a_figure_too() -> None:
    prose = '![one](1.png)\n\n<img src="2.png" alt="two">\n\n' * 10
    assert notebooks.minutes(new_notebook(cells=[new_markdown_cell(prose)])) == 20


def _notebook(*outputs: NotebookNode) -> NotebookNode:
    return new_notebook(cells=[new_code_cell("1", outputs=list(outputs))])
