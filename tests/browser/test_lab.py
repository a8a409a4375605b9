"""A learner in a real browser: runs a lesson and moves a slider; solves an exercise with hints.

SLTOOLS_BROWSER_LESSON names another lesson, SLTOOLS_BROWSER_EXERCISE another topic,
SLTOOLS_SCREENSHOTS a folder that keeps the pictures.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from sltools import exercises, lessons
from sltools.errors import LessonError

pytestmark = pytest.mark.browser
LESSON = os.environ.get("SLTOOLS_BROWSER_LESSON", "04")
TOPIC = os.environ.get("SLTOOLS_BROWSER_EXERCISE", "04")
SOLUTIONS = Path(__file__).resolve().parents[2] / "solutions"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SLTOOLS = Path(sys.executable).with_name("sltools")
TOKEN = "secret"
START, RUN, REDRAW = 60_000, 180_000, 10_000  # patience in milliseconds, on a busy machine

# What the page knows about its notebook. The model is asked, for Lab draws only what is in sight.
OPEN = """async () => {
    const panel = jupyterapp.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
}"""
RUN_ALL = """patience => Promise.race([
    jupyterapp.commands.execute('notebook:run-all-cells'),
    new Promise((_, stop) => setTimeout(stop, patience, new Error('the lesson takes too long'))),
])"""
CELLS = """() => [...jupyterapp.shell.currentWidget.content.model.cells]
    .filter(cell => cell.type === 'code')
    .map(cell => ({
        source: cell.sharedModel.getSource(),
        count: cell.executionCount,
        outputs: cell.outputs.toJSON(),
    }))"""
EDIT = """async text => {
    const notebook = jupyterapp.shell.currentWidget.content;
    const index = [...notebook.model.cells].findIndex(
        cell => cell.type === 'code' && cell.sharedModel.getSource().includes(text));
    notebook.activeCellIndex = index;
    await notebook.scrollToItem(index, 'center');
    await jupyterapp.commands.execute('notebook:enter-edit-mode');
}"""
SHOW_WIDGET = """async () => {
    const notebook = jupyterapp.shell.currentWidget.content;
    const widget = 'application/vnd.jupyter.widget-view+json';  // with a picture: no progress bar
    const live = cell => cell.type === 'code' && cell.outputs.toJSON().some(
        output => output.data && widget in output.data && 'image/png' in output.data);
    const index = [...notebook.model.cells].findIndex(live);
    await notebook.scrollToItem(index, 'center');
    return index;
}"""


@pytest.fixture
def lesson() -> lessons.Lesson:
    try:
        return lessons.find(LESSON)
    except LessonError as error:
        pytest.skip(str(error))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of JupyterLab on a fresh copy of the course, with settings of its own."""
    if not SLTOOLS.exists():
        pytest.skip("sltools is not installed: pip install -e .")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    private = {
        f"JUPYTER{kind}_DIR": str(tmp_path / kind.strip("_").lower())
        for kind in ("_CONFIG", "_RUNTIME", "LAB_SETTINGS", "LAB_WORKSPACES")
    }
    live = {name: value for name, value in os.environ.items() if name != "SLTOOLS_STATIC"}
    options = [
        "--no-browser",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={TOKEN}",
        "--LabApp.expose_app_in_browser=True",
    ]
    copy = tmp_path / "my-course"
    server = subprocess.Popen([SLTOOLS, "lab", copy, *options], env={**live, **private})
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/api?token={TOKEN}")
        yield address
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def page() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if not CHROMIUM:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as browsers:
        # As root, as in a container, Chromium starts only without its sandbox.
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SLTOOLS_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_lesson_runs_and_its_slider_redraws(
    lesson: lessons.Lesson, lab: str, page: Any, screenshots: Path
) -> None:
    problems: list[str] = []
    elsewhere: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: elsewhere.append(request.url))

    page.goto(f"{lab}/lab/tree/course/{lesson.name}.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(".jp-NotebookPanel", timeout=START)
    page.evaluate(OPEN)
    page.screenshot(path=screenshots / f"{lesson.name}-opened.png")

    page.evaluate(RUN_ALL, RUN)
    for cell in page.evaluate(CELLS):
        assert cell["count"], f"not run:\n{cell['source']}"
        errors = [out["evalue"] for out in cell["outputs"] if out["output_type"] == "error"]
        assert not errors, f"{errors} in:\n{cell['source']}"

    assert page.evaluate(SHOW_WIDGET) >= 0, "no cell shows a widget"
    widget = page.locator(".jp-OutputArea-output", has=page.locator(".noUi-handle")).first
    handle, image = widget.locator(".noUi-handle").first, widget.locator("img").first
    handle.wait_for(timeout=START)
    image.wait_for(timeout=START)
    page.screenshot(path=screenshots / f"{lesson.name}-before.png")
    before = image.get_attribute("src")
    at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
    handle.focus()
    page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
    start = time.monotonic()
    while image.get_attribute("src") == before:
        assert time.monotonic() - start < REDRAW / 1000, "the slider moved, its picture did not"
        page.wait_for_timeout(20)
    print(f"the slider answered in {time.monotonic() - start:.2f} s")
    page.screenshot(path=screenshots / f"{lesson.name}-after.png")

    assert page.locator(".Toastify__toast").count() == 0, "a pop-up stands in the way"
    assert not problems
    assert not [url for url in elsewhere if not url.startswith((lab, "data:", "blob:", "ws:"))]


def test_an_exercise_goes_from_stub_to_full_marks_with_two_hints(
    lab: str, page: Any, screenshots: Path, tmp_path: Path
) -> None:
    [path] = SOLUTIONS.glob(f"{TOPIC}_*.ipynb")
    page.goto(f"{lab}/lab/tree/exercises/{path.name}?token={TOKEN}&reset")
    page.wait_for_selector(".jp-NotebookPanel", timeout=START)
    page.evaluate(OPEN)
    page.evaluate(RUN_ALL, RUN)
    tasks = exercises.tasks(TOPIC)
    for task in tasks:
        assert "not attempted" in _shown(page, f'check("{task.key}"')
    page.screenshot(path=screenshots / f"exercise-{TOPIC}-stubs.png")

    first = tasks[0]
    for number in (1, 2):
        _type(page, f'hint("{first.key}")', f'hint("{first.key}")')
        _until(page, f'hint("{first.key}")', first.hints[number - 1])
    page.screenshot(path=screenshots / f"exercise-{TOPIC}-hints.png")

    cells = nbformat.read(path, as_version=4).cells
    solved = [cell.source for cell in cells if cell.cell_type == "code"]
    for task in tasks:
        for part in (f"def {task.answer}(", f'check("{task.key}"'):  # of one cell, or of two
            [source] = [source for source in solved if part in source]
            _type(page, part, source)
        _until(page, part, f"{task.key}: right")
        page.screenshot(path=screenshots / f"exercise-{task.key}.png")
    _type(page, f'progress("{TOPIC}")', f'progress("{TOPIC}")')
    points = sum(task.points for task in tasks)
    _until(page, f'progress("{TOPIC}")', f"{points} of {points} points")
    page.screenshot(path=screenshots / f"exercise-{TOPIC}-done.png")
    kept = (tmp_path / "my-course" / "my-progress.json").read_text(encoding="utf-8")
    assert kept.count('"right"') == len(tasks) and '"hints": 2' in kept

    option = page.locator("details", has=page.locator("summary")).first
    option.scroll_into_view_if_needed()
    option.locator("summary").focus()
    page.keyboard.press("Enter")
    assert option.get_attribute("open") is not None, "the quiz does not open by keyboard"
    page.screenshot(path=screenshots / f"exercise-{TOPIC}-quiz.png")


def _type(page: Any, cell: str, text: str) -> None:
    """Replace the source of the cell that contains `cell` by typing `text`, and run it."""
    page.evaluate(EDIT, cell)
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)
    page.keyboard.press("Control+Enter")


def _shown(page: Any, cell: str) -> str:
    """Return what the code cell that contains `cell` shows, as plain text."""
    [found] = [known for known in page.evaluate(CELLS) if cell in known["source"]]
    return "".join(
        "".join(output.get("text") or output.get("data", {}).get("text/plain", ""))
        for output in found["outputs"]
    )


def _until(page: Any, cell: str, text: str) -> None:
    end = time.monotonic() + RUN / 1000
    while text not in (shown := _shown(page, cell)):
        assert time.monotonic() < end, f"{cell} shows {shown!r}, not {text!r}"
        page.wait_for_timeout(200)


def _wait_for(address: str) -> None:
    end = time.monotonic() + START / 1000
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise AssertionError(f"no answer from {address}")
