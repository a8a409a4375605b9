"""The command line, `sltools lab`, `check`, `doctor`, `run`, `attack`: it only calls the rest."""

import json
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sltools import __version__, fieldmap, storage
from sltools.errors import INTERRUPTED, Interrupted, SltoolsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
attack = typer.Typer(help="Run an attack and print what it found.", no_args_is_help=True)
app.add_typer(attack, name="attack")
assignment = typer.Typer(help="Homework that the solutions do not solve.", no_args_is_help=True)
app.add_typer(assignment, name="assignment")


class Budget(StrEnum):
    """How much to spend on an attack."""

    tiny = "tiny"
    quick = "quick"
    full = "full"
    published = "published"


class ArenaBudget(StrEnum):
    """How much to spend on the arena, where the published schedule would take weeks."""

    tiny = "tiny"
    quick = "quick"
    full = "full"


class Setting(StrEnum):
    """What the server of a label inference is supposed to have."""

    published = "published"
    closed_form = "closed-form"
    wire = "wire"


Salt = Annotated[Path, typer.Option(help="File of the course's secret; keep it to yourself.")]
LESSON = "A lesson's number or name, for example 04, or the path of a notebook."
Seed = Annotated[int, typer.Option(help="Changes victims, clones and data order together.")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Victims = Annotated[int, typer.Option(min=1, help="Victims to attack, of different seeds.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Save = Annotated[Path | None, typer.Option(help="New folder for the figure, arrays and facts.")]
Timeout = Annotated[float, typer.Option(help="Seconds for each cell, at most 1,000,000.")]
DataSet = Annotated[str, typer.Option(help="digits, mnist, fashion_mnist or cifar10")]


def _one_of(what: str, values: Iterable[str]) -> Any:
    """An option whose help names the values; what it is given to checks them."""
    return typer.Option(help=f"{what}, one of: {fieldmap.in_words(values)}.")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"sltools {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Attack split learning: the course and its tools."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where your copy of the course lives.")] = Path(
        "my-course"
    ),
    solutions: Annotated[
        bool, typer.Option("--with-solutions", help="Copy the solved exercises too.")
    ] = False,
) -> None:
    """Copy the course into FOLDER and open JupyterLab on it; more options go to JupyterLab."""
    from sltools import lessons

    print(lessons.copy_course(folder, solutions))
    lessons.open_lab(folder, context.args)


@app.command()
def check(
    topic: Annotated[str | None, typer.Argument(help="A topic, for example 04.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Your copy. Default: the one you are in, or my-course.")
    ] = None,
) -> None:
    """Show how far you are with the exercises; the file is kept on this machine only."""
    from sltools.exercises import record

    path = folder / record.NAME if folder else record.file() or Path("my-course") / record.NAME
    print(record.table(topic, path))
    print(path if path.exists() else f"nothing is kept yet in {path}")


@app.command()
def doctor() -> None:
    """Tell versions, devices, data found, and how long each lesson will take here."""
    from sltools import doctor as examine

    _print_table("versions", examine.versions())
    _print_table("devices", examine.devices())
    _print_table("data", examine.data_sets())
    here = examine.calibrate()
    predicted = examine.predicted_seconds(here)
    print(f"\ncalibration: 100 attack steps in {here:.2f} s; lessons at budget=quick would take")
    _print_table("", {name: f"{seconds:.0f} s" for name, seconds in predicted.items()})


@app.command()
def run(
    lesson: Annotated[str, typer.Argument(help=LESSON)],
    parameters: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", help="NAME=VALUE, as often as needed.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="New notebook, or the folder for it.")
    ] = None,
    timeout: Timeout = 600,
) -> None:
    """Run LESSON without a browser and keep the executed notebook, even if it fails."""
    from sltools import lessons

    found = lessons.find(lesson)
    pairs = [_pair(text) for text in parameters or []]
    if len(texts := dict(pairs)) < len(pairs):
        raise SltoolsError("a parameter is given twice: sltools sweep runs a lesson with several")
    values = found.parse(texts)
    try:
        print(lessons.run(found, values, output, timeout, progress=True))
    except KeyboardInterrupt:
        print(f"interrupted: what ran so far is in the notebook in {output or Path.cwd()}")
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def sweep(
    lesson: Annotated[str, typer.Argument(help=LESSON)],
    parameters: Annotated[
        list[str], typer.Option("-p", "--parameter", help="NAME=VALUE,VALUE, as often as needed.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for sweep.csv and the executed notebooks.")],
    jobs: Annotated[int, typer.Option(min=1, help="Processes at the same time.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask scheduler, tcp://HOST:PORT, to work on its workers.")
    ] = None,
    timeout: Timeout = 3600,
) -> None:
    """Run LESSON with every combination of values, into one CSV; goes on where it was stopped."""
    from sltools import lessons
    from sltools import sweep as sweeping

    found = lessons.find(lesson)
    grid: dict[str, list[Any]] = {}
    for name, values in map(_pair, parameters):  # the same name again adds values
        parsed = [found.parameter(name).parse(value) for value in values.split(",")]
        grid.setdefault(name, []).extend(parsed)
    try:
        rows = sweeping.sweep(found, grid, out, jobs=jobs, scheduler=scheduler, timeout=timeout)
    except KeyboardInterrupt:
        print(
            f"interrupted: {out / sweeping.FILE} has the runs that ended, the same command goes on"
        )
        raise typer.Exit(INTERRUPTED) from None
    failed = sum(row["status"] != sweeping.DONE for row in rows)
    print(f"{out / sweeping.FILE}: {len(rows)} runs")
    if failed:
        print(f"{failed} of {len(rows)} failed: see the column `error`, and run the command again")
        raise typer.Exit(1)
    settings = {parameter.name for parameter in found.parameters}
    if not {column for row in rows for column in row} - {*sweeping.FACTS, *settings}:
        print(f"lesson {found.name} offers no numbers: the rows say that it ran, and how long")


@app.command()
def arena(
    folder: Annotated[Path, typer.Argument(help="Folder for arena.csv and arena.png.")],
    dataset: DataSet = "digits",
    budget: Annotated[ArenaBudget, typer.Option(help="How much to spend.")] = ArenaBudget.quick,
    victims: Victims = 3,
    clones: Annotated[int, typer.Option(min=1, help="Attackers for each victim.")] = 3,
    defense: Annotated[
        list[str] | None, typer.Option(help="A defence to try, as often as needed. Default: all.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Try all attacks on all defences, into a CSV and a figure; goes on where it was stopped."""
    from sltools import arena as contest

    settings = contest.Settings(dataset, budget.value, victims, clones, device=device)
    found = contest.run(settings, folder, defense or ())
    if found.rows:
        print(contest.table(found.rows))
        written = (folder / name for name in (contest.CSV, contest.FIGURE))
        print(", ".join(str(path) for path in written if path.expanduser().exists()))
    if found.interrupted:
        print("interrupted: the same command goes on with the trials that are missing")
        raise typer.Exit(INTERRUPTED)


class Schedule(StrEnum):
    """How several clients train with one server."""

    in_turn = "in-turn"
    splitfed_v1 = "splitfed-v1"
    splitfed_v2 = "splitfed-v2"


class Parts(StrEnum):
    """How the data are divided among several clients."""

    even = "even"
    by_class = "class"


Cut = Annotated[str, typer.Option(help="Stage after which the client's front ends.")]
Head = Annotated[
    str | None, typer.Option(help="Stage before the client's head, which keeps the labels there.")
]
Patience = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")]
By = Annotated[Parts, typer.Option(help="How the images are divided among the clients.")]


@app.command()
def serve(
    clients: Annotated[int, typer.Option(min=1, help="Clients to wait for.")] = 1,
    host: Annotated[
        str, typer.Option(help="This machine's address on the network of the clients.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the first client; the next have the next.")
    ] = 29500,
    dataset: DataSet = "digits",
    cut: Cut = "pool1",
    head: Head = None,
    schedule: Annotated[
        Schedule, typer.Option(help="Layers are handed on, or averaged.")
    ] = Schedule.in_turn,
    by: By = Parts.even,
    epochs: Annotated[int, typer.Option(min=1, help="For each client.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the server's layers.")] = 0,
    out: Annotated[Path, typer.Option(help="New folder for messages and layers.")] = Path("served"),
    timeout: Patience = 60,
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the clients.")] = 600,
) -> None:
    """Be the server of clients on other hosts, and print what to type there.

    Nothing that crosses is encrypted.
    """
    from sltools.hosts import commands

    served = commands.serve(
        commands.Setting(dataset, cut, head, seed), out, clients=clients,
        schedule=schedule.value.replace("-", " "), by=by.value, epochs=epochs, host=host, port=port,
        timeout=timeout, wait=wait,
    )  # fmt: skip
    if served.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command()
def join(
    server: Annotated[str, typer.Option(help="HOST:PORT, as `sltools serve` prints it.")],
    dataset: DataSet = "digits",
    cut: Cut = "pool1",
    head: Head = None,
    part: Annotated[str, typer.Option(help="The part of the training images to use.")] = "1/1",
    by: By = Parts.even,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 64,
    share_layers: Annotated[
        bool, typer.Option("--share-layers", help="Let the server read and replace your layers.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of this client's layers and data order.")] = 0,
    out: Annotated[Path, typer.Option(help="New folder for messages and layers.")] = Path("joined"),
    timeout: Patience = 60,
    device: Device = "cpu",
) -> None:
    """Be a client of a server on another host.

    Nothing that crosses is encrypted.
    """
    from sltools.hosts import commands

    session = commands.join(
        commands.Setting(dataset, cut, head, seed), server, out, part=part, by=by.value,
        batch_size=batch_size, share_layers=share_layers, timeout=timeout, device=device,
    )  # fmt: skip
    if session.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command(name="map")
def field_map(
    needs: Annotated[str | None, _one_of("What the attacker needs", fieldmap.NEEDS)] = None,
    gets: Annotated[str | None, _one_of("What the attacker gets", fieldmap.GETS)] = None,
    world: Annotated[str | None, _one_of("Where", fieldmap.WORLDS)] = None,
    kind: Annotated[str | None, _one_of("Kind of work", fieldmap.KINDS)] = None,
    status: Annotated[str | None, _one_of("In this course", fieldmap.STATUSES)] = None,
    text: Annotated[str | None, typer.Option(help="Words that occur in what is said.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find works on attacks and defences: a table, or the whole card if there is but one."""
    found = fieldmap.find(needs, gets, world, kind, status, text)
    if as_json:
        print(json.dumps({"works": [fieldmap.facts(work) for work in found]}, indent=1))
    else:
        print(fieldmap.card(found[0]) if len(found) == 1 else fieldmap.table(found))


@app.command()
def audit(
    out: Annotated[
        Path, typer.Option(help="New folder for the report, or that of the same audit.")
    ],
    client: Annotated[str | None, typer.Option(help="FILE.py:FUNCTION builds it.")] = None,
    images: Annotated[Path | None, typer.Option(help="Images or rows: arrays or a folder.")] = None,
    labels: Annotated[Path | None, typer.Option(help="One whole number for each image.")] = None,
    rest: Annotated[
        str | None, typer.Option(help="FILE.py:FUNCTION builds the server's part.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Of the trained client, safetensors.")
    ] = None,
    smashed: Annotated[Path | None, typer.Option(help="Recorded activations.")] = None,
    public: Annotated[Path | None, typer.Option(help="Samples that the attacker has.")] = None,
    public_labels: Annotated[Path | None, typer.Option(help="Their labels.")] = None,
    view: Annotated[Path | None, typer.Option(help="A saved view or transcript instead.")] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="FILE.py:FUNCTION builds another cut of the network.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Audit the paper's network on this data set instead.")
    ] = None,
    cut: Annotated[
        str | None, typer.Option(help="Stage after which it is cut.", show_default="pool1")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0, help="About so long.")] = 5.0,
    targets: Annotated[int, typer.Option(min=1, help="Samples that attacks are scored on.")] = 10,
    seed: Seed = 0,
) -> None:
    """Audit a split of your own: who gets what of it, as a page; goes on where it was stopped.

    Give --client and --images with --weights, or with --rest and --labels to train both here; or
    --smashed with what is known beside it. Files of Python that you name are run.
    """
    from sltools import audit as auditing
    from sltools.audit import parts

    files: dict[str, Any] = {
        "client": client, "rest": rest, "images": images, "labels": labels, "weights": weights,
        "smashed": smashed, "public": public, "public_labels": public_labels, "view": view,
    }  # fmt: skip
    given = [name for name, value in (files | {"also": also}).items() if value]
    if dataset is None and cut is not None:
        raise SltoolsError("--cut is of the paper's network: give --dataset, or leave it out")
    if dataset is not None and given:
        raise SltoolsError(f"--dataset brings its own network and images: leave out --{given[0]}")
    command = shlex.join(["sltools", *sys.argv[1:]])
    try:
        if dataset is None:
            known = parts.from_files(**files, also=also or ())
        else:
            known = parts.of_paper(dataset, cut or "pool1", seed)
        report = auditing.run_parts(
            known, minutes=minutes, targets=targets, seed=seed, folder=out, command=command
        )
    except KeyboardInterrupt:
        raise Interrupted("interrupted before anything was found out") from None
    print(f"{report}\n{out / auditing.PAGE}")
    if report.interrupted:
        print("interrupted: the same command goes on with the rest")
        raise typer.Exit(INTERRUPTED)


@app.command()
def grade(
    submissions: Annotated[
        Path,
        typer.Argument(help="Folder with one notebook, folder of them, or zip file per learner."),
    ],
    salt: Salt,
    out: Annotated[
        Path, typer.Option(help="Folder for scores and feedback pages, not inside SUBMISSIONS.")
    ],
    topic: Annotated[str, typer.Option(help="The exercises of this topic.")] = "04",
    roster: Annotated[
        Path | None, typer.Option(help="Grade the homework of the topic, made for this roster.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Grade only this learner, submission or task anew, as often as needed."),
    ] = None,
    adjustments: Annotated[
        Path | None, typer.Option(help="CSV: learner, task, points set by hand, reason.")
    ] = None,
    late: Annotated[
        str | None, typer.Option(help="DAYS:SHARE,...: what is left of points of so late.")
    ] = None,
    challenges: Annotated[
        bool, typer.Option(help="Judge the challenges too, which take a minute each.")
    ] = True,
    jobs: Annotated[int | None, typer.Option(min=1, help="Default: one for each core.")] = None,
    isolation: Annotated[
        bool, typer.Option(help="Refuse to run submissions that cannot be isolated.")
    ] = True,
) -> None:
    """Grade SUBMISSIONS with fresh data into scores.csv, scores.json and feedback pages.

    Expected are SUBMISSIONS/ann.ipynb or SUBMISSIONS/ann/ANY_NAME.ipynb; every notebook gets a row.
    Its topic is known by its calls of `check` and its names: one of another topic has the status
    "other topic" and no points, not zero. Without --roster a salt that is missing is made. Late
    work, by the roster's columns `deadline` or `days_late`, costs nothing without --late.
    """
    from sltools.grading import adjusting, sandbox, secrets
    from sltools.grading import assignment as homework
    from sltools.grading import grade as grading
    from sltools.grading import roster as rosters
    from sltools.grading.submissions import check_folder

    plan: grading.Plan
    check_folder(submissions.expanduser())  # before a salt is made for nothing
    if late and not roster:
        raise SltoolsError("--late goes by the deadlines in a roster: give --roster as well")
    people = rosters.read(roster) if roster else rosters.Roster(())
    policy = grading.Policy(
        people,
        adjusting.read_adjustments(adjustments) if adjustments else (),
        adjusting.LatePolicy.parse(late) if late else None,
    )
    if roster:
        plan = homework.Assignment(secrets.read(salt), people.ids, topic.zfill(2))
    else:
        plan = grading.HomeTasks(_read_or_make(salt), topic.zfill(2), challenges)
    private = [path.expanduser().resolve() for path in (salt, roster, adjustments) if path]
    box = sandbox.Sandbox(isolation, hidden=tuple(map(str, private)))
    if not isolation:
        print(f"warning: {sandbox.UNSAFE}", file=sys.stderr)
    results = grading.grade(submissions, out, plan, box, jobs, only or (), policy)
    not_enforced = out.expanduser() / grading.NOT_ENFORCED
    for missing in not_enforced.read_text(encoding="utf-8").splitlines():
        print(f"NOTE: not enforced: {missing}", file=sys.stderr)
    if policy.late:
        print(f"late policy: {policy.late}")
    print(f"{out / 'scores.csv'}: {grading.summary(results)}")


@app.command()
def gradebook(
    scores: Annotated[list[Path], typer.Argument(help="Folders that `sltools grade` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for totals.csv, moodle.csv and canvas.csv.")],
    roster: Annotated[
        Path | None, typer.Option(help="CSV file with a column `id`, names and addresses.")
    ] = None,
    nbgrader: Annotated[
        Path | None, typer.Option(help="The file gradebook.db of an nbgrader course.")
    ] = None,
) -> None:
    """Add up the points of several topics, and write them for Moodle, Canvas and nbgrader.

    Points that are not known yet stay empty, and are no zero.
    """
    from sltools.grading import gradebooks
    from sltools.grading import roster as rosters

    people = rosters.read(roster) if roster else None
    book = gradebooks.read(scores, people)
    for path in gradebooks.write(book, out):
        print(path)
    if nbgrader:
        print(f"{nbgrader}: {gradebooks.to_nbgrader(book, nbgrader)} submissions")


@assignment.command()
def new(
    salt: Salt,
    roster: Annotated[Path, typer.Option(help="CSV file with a column `id`.")],
    out: Annotated[Path, typer.Option(help="Folder for the notebooks, one for each id.")],
    topic: Annotated[str, typer.Option(help="A topic that has exercises.")] = "04",
) -> None:
    """Write the homework of a topic for everyone on a roster; makes the salt if there is none.

    Constants and data are drawn for each id; index.csv says which notebook is whose.
    """
    from sltools.exercises.homework import title
    from sltools.grading import assignment as homework
    from sltools.grading import roster as rosters

    people = rosters.read(roster)
    title(topic.zfill(2))  # before a salt is made for nothing
    plan = homework.Assignment(_read_or_make(salt), people.ids, topic.zfill(2))
    print(f"{out}: {len(homework.write(plan, out, people))} notebooks")


@attack.command()
def inversion(
    dataset: DataSet = "digits",
    cut: Annotated[str, typer.Option(help="Stage after which the network is cut.")] = "pool1",
    targets: Annotated[
        int | None,
        typer.Option(help="Private test images to attack.", show_default="10, of cifar10 50"),
    ] = None,
    budget: Annotated[Budget, typer.Option(help="How much to spend.")] = Budget.quick,
    victims: Victims = 1,
    clones: Annotated[int, typer.Option(min=1, help="Clones for each victim.")] = 3,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
    save: Save = None,
) -> None:
    """Attack 1: recover inputs and a copy of the client from smashed data (UnSplit)."""
    from sltools import experiments

    _prepare(save)
    settings = experiments.InversionSettings(
        dataset, cut, targets, budget.value, victims, clones, seed, device
    )
    _report(experiments.run_inversion(settings), as_json, save)


@attack.command()
def labels(
    dataset: DataSet = "digits",
    cut: Annotated[str, typer.Option(help="Stage after which the client's front ends.")] = "pool1",
    head: Annotated[
        str | None,
        typer.Option(help="Stage before the client's head. Default: the last, a one-layer head."),
    ] = None,
    targets: Annotated[
        int | None, typer.Option(help="Training samples to watch. Default: depends on the budget.")
    ] = None,
    budget: Annotated[Budget, typer.Option(help="How much to spend.")] = Budget.quick,
    setting: Annotated[Setting, typer.Option(help="What the server has.")] = Setting.published,
    victims: Victims = 3,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
    save: Save = None,
) -> None:
    """Attack 2: infer the labels of a label-private client at the start of its training."""
    from sltools import experiments

    _prepare(save)
    settings = experiments.LabelSettings(
        dataset, cut, head, targets, budget.value, setting.value, victims, seed, device
    )
    _report(experiments.run_labels(settings), as_json, save)


def _read_or_make(salt: Path) -> bytes:
    """Read the salt, or make one and say so: a misspelt name would else go unnoticed."""
    from sltools.grading import secrets

    if salt.expanduser().exists():
        return secrets.read(salt)
    made = secrets.make(salt)
    print(
        f"NOTE: made a new salt at {salt.expanduser().absolute()}. Keep it to yourself, and use it "
        "from now on. If you have one already, delete this one and name the old: with another salt "
        "the data are others, and so may the points be.",
        file=sys.stderr,
    )
    return made


def _prepare(save: Path | None) -> None:
    """Refuse a folder that cannot be used now, not after the work; leave nothing if that fails."""
    if save is not None:
        folder = storage.new_folder(save)
        with suppress(OSError):  # it may be where a disk is mounted, or hold what a kill left
            folder.rmdir()


def _report(outcome: Any, as_json: bool, save: Path | None) -> None:
    print(json.dumps(outcome.facts, indent=1) if as_json else outcome, flush=True)
    # After the print: a disk that is full now takes nothing away.
    if save is not None:
        outcome.save(save)
    elif not as_json:
        kind = outcome.facts["attack"].split(",")[0].replace(" ", "-")
        print(outcome.picture.save(storage.new_file(Path.cwd(), f"{kind}.png")))
    if outcome.facts["interrupted"]:
        raise typer.Exit(INTERRUPTED)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SltoolsError(f"a parameter is given as NAME=VALUE, not {text!r}")
    return name.strip(), value


def _print_table(title: str, rows: dict[str, str]) -> None:
    if title:
        print(f"\n{title}")
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        print(f"  {name.ljust(width)}  {value}")


def main() -> None:
    """Run the command line; an error of ours is one sentence on stderr and exit code 1.

    Of Ctrl-C the exit code is 130.
    """
    try:
        app()
    except SltoolsError as error:
        print(f"error: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        raise SystemExit(INTERRUPTED if isinstance(error, Interrupted) else 1) from None
