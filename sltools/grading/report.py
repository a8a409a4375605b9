"""Writes scores and feedback; what submissions said is text in them, and never code."""

import csv
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltools import storage
from sltools.checking.judging import MARKS

if TYPE_CHECKING:
    from sltools.grading.results import Result, TaskResult

FEEDBACK = "feedback"
# Where a spreadsheet looks for one: in a cell, or after what it may take for the end of a cell.
FORMULA = re.compile(r"(?<![^;])(?=\s*[=+\-@\uff0b\uff0d\uff1d\uff20|%])")
# Nothing that ends a line, moves the cursor, or turns the direction of writing.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ border-bottom: 1px solid #bbb; padding: 6px; text-align: left; vertical-align: top; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{graded}</p>
<p><b>{total}</b></p>
{remarks}
{tasks}
{cells}
</body>
</html>
"""
TABLE = """\
<table>
<tr><th scope="col">Task</th><th scope="col">Outcome</th><th scope="col">Points</th>
<th scope="col">What the check says</th></tr>
{rows}
</table>
"""
PAGE_NAME = re.compile(r"[A-Za-z0-9-]*-[0-9a-f]{8}\.html")


def write(out: Path, title: str, results: Sequence["Result"]) -> None:
    """Write `scores.csv`, `scores.json` and a page for each submission into the folder `out`.

    Who handed in nothing has a row, and no page.

    `title` says on the pages what was graded. Pages of submissions that are gone are deleted.
    """
    (out / FEEDBACK).mkdir(parents=True, exist_ok=True)
    _write(out / "scores.csv", _csv(results))
    facts = [asdict(r) | {"points": r.points, "out_of": r.out_of} for r in results]
    _write(out / "scores.json", json.dumps(facts, indent=1) + "\n")
    graded = f"{title[:1].upper()}{title[1:]}, graded on {date.today().isoformat()}"
    handed_in = [result for result in results if result.submission]
    pages = {page_name(result.submission): _page(result, graded) for result in handed_in}
    for name, page in pages.items():
        _write(out / FEEDBACK / name, page)
    for path in (out / FEEDBACK).iterdir():
        if PAGE_NAME.fullmatch(path.name) and path.name not in pages:
            path.unlink()


def page_name(submission: str) -> str:
    """Name the page of a submission: readable, and no other's, whatever the submission is called"""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", submission.removesuffix(".ipynb")).strip("-")[:60]
    digest = hashlib.sha256(submission.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{slug}-{digest[:8]}.html"


def safe_cell(value: Any) -> Any:
    """Return a value for a CSV file that no spreadsheet takes for a formula, in one line."""
    return FORMULA.sub("'", CONTROL.sub(" ", value)) if isinstance(value, str) else value


def _write(path: Path, text: str) -> None:
    storage.write_atomic(path, text.encode(errors="replace"))


def _csv(results: Sequence["Result"]) -> str:
    keys = list(dict.fromkeys(task.task for result in results for task in result.tasks))
    file = StringIO()
    writer = csv.writer(file)
    head = ["submission", "learner", "status", "points", "out_of"]
    writer.writerow([*head, *keys, "seconds", "flags", "notes", "feedback", "counts"])
    for result in results:
        points = {task.task: _number(task.points) for task in result.tasks}
        row = [
            *(result.submission, result.learner, result.status),
            *(_number(result.points), result.out_of or ""),
            *(points.get(key, "") for key in keys),
            *(result.seconds, " / ".join(result.flags), " / ".join(result.notes)),
            page_name(result.submission) if result.submission else "",
            "yes" if result.counts else "no",
        ]
        writer.writerow([safe_cell(value) for value in row])
    return file.getvalue()


def _number(points: float | None) -> str:
    return "" if points is None else f"{points:g}"


def _page(result: "Result", graded: str) -> str:
    return PAGE.format(
        title=html.escape(f"Feedback for {result.submission}"),
        graded=html.escape(graded),
        total=html.escape(_total(result)),
        remarks=_list(result.remarks),
        tasks=TABLE.format(rows="\n".join(map(_row, result.tasks))) if result.tasks else "",
        cells=_failed(result.cells),
    )


def _total(result: "Result") -> str:
    if not result.tasks:
        return f"Not graded here ({result.status})"
    points = "not known yet" if result.points is None else f"{result.points:g}"
    return f"{points} of {result.out_of} points ({result.status})"


def _row(task: "TaskResult") -> str:
    points = "?" if task.points is None else f"{task.points:g}"
    return (
        f'<tr><th scope="row">{html.escape(task.task)}<br>{html.escape(task.title)}</th>'
        f"<td>{MARKS.get(task.outcome, '?')} {html.escape(task.outcome)}</td>"
        f"<td>{points} of {task.out_of}</td><td>{_text(task)}</td></tr>"
    )


def _text(task: "TaskResult") -> str:
    text = html.escape(task.message)
    return f"<pre>{text}</pre>" if task.outcome == "error" else text.replace("\n", "<br>")


def _failed(cells: dict[str, str]) -> str:
    items = "\n".join(
        f"<li>cell {html.escape(number)}:<pre>{html.escape(text)}</pre></li>"
        for number, text in cells.items()
    )
    return f"<h2>Code cells that failed</h2>\n<ul>\n{items}\n</ul>" if cells else ""


def _list(texts: Sequence[str]) -> str:
    items = "\n".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f"<ul>\n{items}\n</ul>" if texts else ""
