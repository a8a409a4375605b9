"""The rows of an arena: their file, written a whole trial at a time, their table and figure."""

import csv
import io
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sltools import devices, plots, storage
from sltools.arena.trial import HIJACKING, Row, Settings
from sltools.errors import SltoolsError

CSV, FIGURE, SETTINGS = "arena.csv", "arena.png", "arena.json"


def read(path: Path) -> list[Row]:
    """Read the rows of an arena's CSV file, none if there is no file; SltoolsError if damaged.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sltools import arena
    >>> from sltools.arena.report import append
    >>> row = arena.Row("digits", "tiny", "none", 0.0, 0, "service", -1, "accuracy", 0.87, 0.1)
    >>> with TemporaryDirectory() as folder:
    ...     append(Path(folder) / arena.CSV, [row])
    ...     arena.read(Path(folder) / arena.CSV) == [row]
    True
    """
    if not path.exists():
        return []
    kinds: dict[Any, Callable[[str], Any]] = {str: str, int: int, float: float}
    try:
        text = path.read_text(encoding="utf-8")
        return [
            Row(**{field.name: kinds[field.type](line[field.name]) for field in fields(Row)})
            for line in csv.DictReader(io.StringIO(text))
        ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SltoolsError(
            f"{path} is no file of an arena ({error!r}); name another folder"
        ) from None


def check_settings(settings: Settings, with_data: dict[str, Any], folder: Path) -> None:
    """Keep the settings beside the rows; raise SltoolsError if there are rows of others.

    `with_data` are those of the attackers with data. A folder from before there were such attackers
    takes any.
    """
    wanted = {name: value for name, value in asdict(settings).items() if name != "victims"}
    rows = read(folder / CSV)
    if not rows:
        facts = {"settings": wanted, "with_data": with_data, "versions": devices.versions()}
        _write_facts(folder, facts | {"cpu_seconds": 0.0})
        return
    facts = _facts(folder)
    if (found := facts.get("settings")) != wanted:
        raise SltoolsError(
            f"{folder} holds an arena with the settings {found}, and these are {wanted}; name "
            "another folder"
        )
    if not any(row.attack in with_data["attacks"] for row in rows):
        _write_facts(folder, facts | {"with_data": with_data})
    elif (had := facts.get("with_data")) != with_data:
        told = had or "settings it does not tell"
        raise SltoolsError(
            f"{folder} holds rows of attackers with data with {told}, and these would be with "
            f"{with_data}; name another folder"
        )


def add_time(folder: Path, seconds: float) -> None:
    """Add the time of a trial."""
    facts = _facts(folder)
    _write_facts(folder, facts | {"cpu_seconds": round(facts.get("cpu_seconds", 0.0) + seconds, 1)})


def _facts(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    storage.write_atomic(folder / SETTINGS, json.dumps(facts, indent=1) + "\n")


def append(path: Path, rows: list[Row]) -> None:
    """Add the rows of one trial in one step, so that whatever ends it leaves whole trials."""
    before = path.read_bytes() if path.exists() else b""
    storage.write_atomic(path, before + _csv_lines(rows, header=not before).encode())


def _csv_lines(rows: Sequence[Row], header: bool = False) -> str:
    """The rows as lines of the file."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, [field.name for field in fields(Row)])
    if header:
        writer.writeheader()
    for row in rows:
        values = asdict(row)
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()})
    return file.getvalue()


@contextmanager
def explain_full_disk(rows: Sequence[Row], folder: Path) -> Iterator[None]:
    """Say what a full disk means, with the `rows` that found no room: they took long."""
    try:
        yield
    except OSError as error:
        unsaved = f". Its last trial, if it is not there:\n{_csv_lines(rows)}" if rows else ""
        raise SltoolsError(
            f"the arena had to stop: {error}. The rows of all trials that ended are in "
            f"{folder / CSV}; put that right and run the same again{unsaved}"
        ) from None


def medians(
    rows: Iterable[Row], attack: str, measure: str, field: str = "value"
) -> dict[tuple[str, float], list[float]]:
    """The values (or baselines) of a measure, all victims and clones, by defence and strength.

    >>> from sltools.arena import Row, medians
    >>> trial = ("digits", "tiny", "top-k", 0.1)
    >>> rows = [Row(*trial, victim, "UnSplit", 0, "aligned_mse", 0.03, 0.05) for victim in range(2)]
    >>> medians(rows, "UnSplit", "aligned_mse")
    {('top-k', 0.1): [0.03, 0.03]}
    >>> medians(rows, "UnSplit", "aligned_mse", field="baseline")
    {('top-k', 0.1): [0.05, 0.05]}
    """
    found: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        if (row.attack, row.measure) == (attack, measure):
            found.setdefault((row.defense, row.strength), []).append(getattr(row, field))
    return found


IMAGE_ATTACKS = ("UnSplit", "decoder", "SDAR", "PCAT", "FORA")
AFFORDABLE = 0.1  # of the accuracy, that a defence may cost
PROTECTED = 0.5  # of the mean image's error, that it must leave the best attack

COLUMNS: dict[str, tuple[str, ...]] = {
    "accuracy": ("service", "accuracy"),
    "bytes": ("service", "bytes"),
    "seconds": ("service", "cpu_seconds"),
    "dCor": ("wire", "distance_correlation"),
    "UnSplit": ("UnSplit", "aligned_mse"),
    "decoder": ("decoder", "aligned_mse"),
    "SDAR": ("SDAR", "aligned_mse"),
    "PCAT": ("PCAT", "aligned_mse"),
    "FORA": ("FORA", "aligned_mse"),
    "clone": ("UnSplit", "clone_accuracy"),
    "clusters": ("labels, wire", "cluster_accuracy"),
    "published": ("labels, published", "label_accuracy"),
    "inferred": ("PCAT", "label_accuracy"),
    "read": ("labels read", "label_accuracy"),
    "hijacking": (HIJACKING, "aligned_mse"),
    "seen": (HIJACKING, "seen"),
    "falsely": (HIJACKING, "seen", "baseline"),
}


def table(rows: Iterable[Row]) -> str:
    """The Markdown table of the medians: what the user keeps, what each attack gains.

    "seen" and "falsely": does a hijacker raise an alarm in LabelGap (1) or not (0), does an honest
    server?

    >>> from sltools.arena import Row, table
    >>> trial = ("digits", "tiny", "top-k", 0.1, 0)
    >>> rows = [
    ...     Row(*trial, "service", -1, "accuracy", 0.87, 0.1),
    ...     Row(*trial, "UnSplit", 0, "aligned_mse", 0.0307, 0.0459),
    ... ]
    >>> header, _, values = table(rows).splitlines()
    >>> header.split(" | ")[:6]
    ['| defence', 'accuracy', 'bytes', 'seconds', 'dCor', 'UnSplit']
    >>> values.split(" | ")[:6]
    ['| top-k 0.1', '0.87', '', '', '', '0.0307']
    """
    rows = list(rows)
    columns = {name: medians(rows, *measure) for name, measure in COLUMNS.items()}
    lines = [f"| defence | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for defense, strength in columns["accuracy"]:
        cells = [f"{defense} {strength:g}" if strength else defense]
        for found in columns.values():
            values = found.get((defense, strength))
            cells.append(_short(statistics.median(values)) if values else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def best_attacks(
    rows: Iterable[Row], attacks: Sequence[str] = IMAGE_ATTACKS, measure: str = "aligned_mse"
) -> dict[tuple[str, float], tuple[str, list[float]]]:
    """Of `attacks`, the one with the least median error at each strength, with all its values.

    >>> from sltools.arena import Row, best_attacks
    >>> trial = ("digits", "tiny", "top-k", 0.1, 0)
    >>> rows = [
    ...     Row(*trial, "UnSplit", 0, "aligned_mse", 0.03, 0.05),
    ...     Row(*trial, "FORA", -1, "aligned_mse", 0.02, 0.05),
    ... ]
    >>> best_attacks(rows)
    {('top-k', 0.1): ('FORA', [0.02])}
    """
    rows, best = list(rows), dict[tuple[str, float], tuple[str, list[float]]]()
    for attack in attacks:
        for key, values in medians(rows, attack, measure).items():
            if key not in best or statistics.median(values) < statistics.median(best[key][1]):
                best[key] = attack, values
    return best


def working(
    rows: Iterable[Row], attacks: Sequence[str] = IMAGE_ATTACKS, measure: str = "aligned_mse"
) -> list[tuple[str, float]]:
    """The defences, with their strengths, that work: the best of `attacks` fails, at a fair price.

    Half of the mean image's error is left, and the service loses at most ten points of accuracy;
    medians over victims and attackers. An attack without rows at a setting does not count there,
    and nobody has shown that a better one would fail.

    >>> from sltools.arena import Row, working
    >>> trial = ("digits", "tiny", "top-k", 0.1, 0)
    >>> rows = [
    ...     Row(*trial, "service", -1, "accuracy", 0.9, 0.1),
    ...     Row(*trial, "UnSplit", 0, "aligned_mse", 0.03, 0.05),
    ...     Row(*trial, "FORA", -1, "aligned_mse", 0.02, 0.05),
    ... ]
    >>> working(rows), working(rows, ["UnSplit"])
    ([], [('top-k', 0.1)])
    """
    rows = list(rows)
    lost = _accuracy_lost(rows)
    enough = PROTECTED * _mean_image_error(rows, measure)
    return [
        key
        for key, (_, errors) in best_attacks(rows, attacks, measure).items()
        if lost[key] <= AFFORDABLE and statistics.median(errors) >= enough
    ]


def _accuracy_lost(rows: Sequence[Row]) -> dict[tuple[str, float], float]:
    """Against no defence, or, where that was not tried, against the best one."""
    accuracy = medians(rows, "service", "accuracy")
    kept = {key: statistics.median(values) for key, values in accuracy.items()}
    free = kept.get(("none", 0.0), max(kept.values()))
    return {key: free - share for key, share in kept.items()}


def _mean_image_error(rows: Sequence[Row], measure: str) -> float:
    return statistics.median(row.baseline for row in rows if row.measure == measure)


def frontier(
    rows: Iterable[Row],
    attacks: Sequence[str] = IMAGE_ATTACKS,
    measure: str = "aligned_mse",
) -> plots.Picture:
    """Draw privacy against utility: the least image error of `attacks` over the accuracy lost.

    Medians over victims and attackers, from the least to the greatest; strengths of one defence are
    joined and stand at their points. Accuracy is lost against no defence, or, where that was not
    tried, against the best one. Up and left is better for the user: a defence is in the shaded
    corner if it is `working`.
    """
    rows = list(rows)
    best = best_attacks(rows, attacks, measure)
    series: dict[str, list[plots.Point]] = {}
    for (defense, strength), lost in _accuracy_lost(rows).items():
        _, errors = best[defense, strength]
        error = statistics.median(errors), min(errors), max(errors)
        name = f"{strength:g}" if strength else ""
        series.setdefault(defense, []).append((100 * lost, *error, name))
    floor = _mean_image_error(rows, measure)
    by = " or ".join(attacks) if len(attacks) < 3 else f"best of {len(attacks)} attackers"
    ylabel = f"{measure.replace('_mse', '')} image error, {by}"
    xlabel = "accuracy of the service that is lost, in points"
    corner = 100 * AFFORDABLE, PROTECTED * floor
    return plots.frontier(series, xlabel, ylabel, {"mean image": floor}, corner)
