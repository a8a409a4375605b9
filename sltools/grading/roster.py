"""Who is in the course: a CSV file with a column `id`, and whatever else is known of them."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sltools.errors import ExerciseError

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # that stand in files for commas


@dataclass(frozen=True)
class Roster:
    """The learners' ids, in their order, and the other `columns` of each of them.

    >>> from sltools.grading.roster import Roster
    >>> roster = Roster(("ann",), ("name",), {"ann": {"name": "Ann"}})
    >>> roster.known("ann", "Name"), roster.known("ann", "email")
    ('Ann', '')
    """

    ids: tuple[str, ...]
    columns: tuple[str, ...] = ()
    rows: Mapping[str, Mapping[str, str]] | None = None

    def known(self, learner: str, *columns: str) -> str:
        """Return what stands in the first of `columns` that is not empty there, or ""."""
        row = (self.rows or {}).get(learner, {})
        values = {name.strip().lower(): value for name, value in row.items()}
        return next(filter(None, (values.get(name.lower(), "") for name in columns)), "")

    def row(self, learner: str) -> list[str]:
        """Return what stands in all its columns but the id."""
        return [(self.rows or {}).get(learner, {}).get(name, "") for name in self.columns]


def read(path: Path) -> Roster:
    """Read a roster.

    Raises ExerciseError if there is no column `id`, or an id is empty or there twice.
    """
    rows = list(read_table(path, "roster", ("id",)))
    ids = tuple(row["id"] for row in rows)
    if not ids or not all(ids) or len(set(ids)) < len(ids):
        raise ExerciseError(f"the roster {path} needs ids that are not empty and all different")
    columns = tuple(name for name in rows[0] if name != "id")
    return Roster(ids, columns, dict(zip(ids, rows, strict=True)))


def read_table(path: Path, what: str, needed: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file, `what`; raise ExerciseError if it lacks a `needed` column."""
    asked = f"give a CSV file with {_columns(needed)}"
    try:
        with path.expanduser().open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="")
            rows, names = list(reader), [name for name in reader.fieldnames or () if name]
    except (OSError, ValueError, csv.Error) as error:
        raise ExerciseError(f"the {what} {path} cannot be read ({error}); {asked}") from None
    for column in needed:
        if rows and column not in names:
            head = ",".join(names)
            found = next((name for mark, name in SEPARATORS.items() if mark in head), "")
            raise ExerciseError(
                f"the {what} {path} has no column `{column}`: its first line is {head!r}"
                + (f", with {found} between the columns" if found else "")
                + f"; put commas between the columns and call one of them {column}"
            )
    for row in rows:
        yield {name: (row[name] or "").strip() for name in names}


def _columns(needed: Iterable[str]) -> str:
    names = [f"`{name}`" for name in needed]
    return f"a column {names[0]}" if len(names) == 1 else f"the columns {', '.join(names)}"
