"""The arena: attacks against defences, what each attack gains and what each defence costs.

    sltools arena my-arena --budget quick

A row of the CSV is one measure of one trial: `value`, and as `baseline` what somebody reaches who
attacks nobody. A trial that is in the file already is not run again.
"""

import csv
import io
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sltools import (
    data,
    defenses,
    devices,
    experiments,
    metrics,
    models,
    plots,
    protocol,
    seeds,
    storage,
)
from sltools.attacks import DecoderInversion, Hijacking, HijackingServer, LabelInference, UnSplit
from sltools.detectors import LabelGap
from sltools.errors import SltoolsError
from sltools.models import Architecture
from sltools.progress import bar

CUTS = ("pool1", "relu4")  # of a label-private client; a vanilla one is cut at the first alone
WATCHED = {"tiny": 128, "quick": 640, "full": 3840}  # first samples of a training, for their labels
SINGLES = {"tiny": 64, "quick": 320, "full": 1000}  # of those in batches of one
DECODER_STEPS = {"tiny": 30, "quick": 300, "full": 3000}
HIJACKED = {"tiny": 256, "quick": 14_000, "full": 120_000}  # samples that a hijacker is sent
PAIRED = 100  # images whose distances are compared
GUESS = 1000  # between the seed of a defence and that of an attacker who imitates it
HIJACKING = "hijacking"
CSV, FIGURE, SETTINGS = "arena.csv", "arena.png", "arena.json"

Options = Callable[[float, nn.Sequential, int], dict[str, Any]]


@dataclass(frozen=True)
class Defense:
    """A defence in several strengths; `options(strength, front, seed)` are given to the client.

    `label_private` says who holds the head. Some defences only make sense for a vanilla client.
    `response(strength, seed)` changes the labels once for all, before the client trains.
    """

    name: str
    options: Options
    strengths: tuple[float, ...] = (0.0,)
    label_private: bool = True
    response: Callable[[float, int], defenses.Outgoing] | None = None


def _sends(make: Callable[[float, int], defenses.Outgoing]) -> Options:
    return lambda strength, front, seed: {"outgoing": make(strength, seed)}


NONE = Defense("none", lambda *_: {})
DEFENSES = (
    NONE,
    Defense("Gaussian noise", _sends(defenses.GaussianNoise), (0.5, 2, 8)),
    Defense("Laplace noise", _sends(defenses.LaplaceNoise), (0.5, 2)),
    Defense(
        "local privacy",
        _sends(lambda strength, seed: defenses.LocalPrivacy(20.0, strength, seed)),
        (0.01, 0.1, 1),
    ),
    Defense(
        "quantisation", _sends(lambda bits, seed: defenses.Quantisation(int(bits), seed)), (4, 2, 1)
    ),
    Defense("top-k", _sends(defenses.TopK), (0.3, 0.1, 0.03)),
    Defense("NoPeek", lambda strength, *_: {"penalty": defenses.NoPeek(strength)}, (10, 30)),
    Defense("max-norm", _sends(lambda _, seed: defenses.MaxNorm(seed))),
    Defense(
        "Marvell",
        lambda strength, _, seed: {"returning": defenses.Marvell(strength, 0, seed)},
        (1, 4),
    ),
    Defense("none, vanilla", lambda *_: {}, label_private=False),
    Defense(
        "randomised response",
        lambda *_: {},
        (4, 2, 1),
        label_private=False,
        response=lambda epsilon, seed: defenses.RandomisedResponse(epsilon, 10, seed),
    ),
    Defense(
        "DP-SGD",
        lambda strength, front, seed: {
            "optimizer": defenses.PrivateOptimizer(front, 1.0, strength, seed=seed)
        },
        (1,),
        label_private=False,
    ),
)


@dataclass(frozen=True)
class Settings:
    """Settings of the arena: each of `victims` is attacked `clones` times, hijacked once."""

    dataset: str = "digits"
    budget: str = "quick"
    victims: int = 3
    clones: int = 3
    targets: int = 10
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """One measure of one trial. Image scores are medians over the targets; "best" is the least.

    `attack` is "service" for what the user loses, "wire" for what the messages say by themselves;
    `clone` numbers the attacks of one kind on one victim, -1 if there is but one.
    """

    dataset: str
    budget: str
    defense: str
    strength: float
    victim: int
    attack: str
    clone: int
    measure: str
    value: float
    baseline: float


@dataclass(frozen=True)
class Outcome:
    """The rows that a folder has now; `interrupted` says that Ctrl-C left trials undone."""

    rows: list[Row]
    interrupted: bool = False


def run(settings: Settings, folder: Path, only: Sequence[str] = ()) -> Outcome:
    """Run the trials that `folder`/arena.csv lacks; return its rows and draw the figure.

    `only` names the defences to try (default: all). Ctrl-C keeps all finished trials, and so does a
    full disk: the same call goes on with the rest. Raises SltoolsError for an unknown defence or
    budget, for a folder of other settings (only `victims` may be more than before), and for one
    that cannot be written: the rows of a trial that it had no room for are in the message.
    """
    known = {defense.name: defense for defense in DEFENSES}
    if unknown := [name for name in only if name not in known]:
        raise SltoolsError(f"no defence is called {unknown[0]!r}; there are {', '.join(known)}")
    if settings.budget not in WATCHED:
        raise SltoolsError(f"a budget is one of {', '.join(WATCHED)}, not {settings.budget!r}")
    dataset = data.load(settings.dataset)
    folder = storage.writable_folder(folder)
    done = {_key(row) for row in read(folder / CSV)}
    with _room_for([], folder):
        _settle(settings, folder)
    trials = [
        _Trial(settings, dataset, known[name], strength, victim, malicious)
        for malicious in (False, True)
        for victim in range(settings.victims)
        for name in only or known
        for strength in known[name].strengths
    ]
    interrupted = False
    try:
        for trial in bar([trial for trial in trials if trial.key not in done], "arena"):
            start = time.process_time()
            found = trial.rows()
            with _room_for(found, folder):
                _append(folder / CSV, found)
                _note(folder, time.process_time() - start)
    except KeyboardInterrupt:
        interrupted = True
    rows = read(folder / CSV)
    if any(row.attack == "service" for row in rows):
        with _room_for([], folder):
            frontier(rows).save(folder / FIGURE)
    return Outcome(rows, interrupted)


@dataclass(frozen=True)
class _Trial:
    """One victim with one defence, before a curious server or before a `malicious` one."""

    settings: Settings
    dataset: data.Dataset
    defense: Defense
    strength: float
    victim: int
    malicious: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        return _key(self._row(HIJACKING if self.malicious else "", "", 0, 0))

    @cached_property
    def _train(self) -> data.Split:
        """What the client trains on; its labels may be answers that it gave once for all."""
        train = self.dataset.train
        if self.defense.response is None:
            return train
        response = self.defense.response(self.strength, self.victim)
        return data.Split(train.images, response("labels", train.labels))

    def rows(self) -> list[Row]:
        """Train the victim and attack it in every way; all of it or nothing."""
        return self._hijacking() if self.malicious else self._curious()

    def _hijacking(self) -> list[Row]:
        """Feature-space hijacking, and whether the gap between labels gives it away.

        The baseline of "seen" is the same detector's alarm in an honest training as long.
        """
        honest = self._watched(protocol.Server)
        hijacked = self._watched(self._hijacker)
        truth = self._targets()
        found = hijacked.server.invert(hijacked.observe(truth))
        seen, falsely = (
            float(run.client.detector.raised_at is not None) for run in (hijacked, honest)
        )
        return [
            *self._images(HIJACKING, found.inputs, truth),
            self._row(HIJACKING, "seen", seen, falsely),
        ]

    def _hijacker(self, model: nn.Sequential, **options: Any) -> HijackingServer:
        return HijackingServer(model, self._public(), Hijacking(seed=self.victim), **options)

    def _watched(self, server: Callable[..., protocol.Server]) -> Any:
        """Train with a detector, before a server made by `server(model, label_private=...)`."""
        samples, train = HIJACKED[self.settings.budget], self._train
        net = models.for_images(train.images.shape, self.victim)
        private = self.defense.label_private
        front, middle, *head = models.cut(net, CUTS if private else CUTS[0])
        client = self.client(front, *head)
        client.detector = LabelGap()
        session = protocol.train(
            client,
            server(middle, label_private=private),
            train[: min(samples, len(train))],
            epochs=max(1, samples // len(train)),
            seed=self.victim,
            device=self.settings.device,
        )
        if session.interrupted:
            raise KeyboardInterrupt
        return session

    def _public(self) -> Tensor:
        rows = experiments.public_rows(self.dataset, self.settings.targets)
        return self.dataset.test.images[rows].to(self.settings.device)

    def _curious(self) -> list[Row]:
        start = time.process_time()
        session = experiments.train_victim(
            replace(self.dataset, train=self._train),
            CUTS if self.defense.label_private else CUTS[0],
            budget=self.settings.budget,
            seed=self.victim,
            device=self.settings.device,
            client=self.client,
        )
        if session.interrupted:
            raise KeyboardInterrupt
        seconds = time.process_time() - start
        return [
            *self._service(session, seconds),
            self._dependence(session),
            *self._unsplit(session),
            *self._decoder(session),
            *self._labels(),
        ]

    def client(self, front: nn.Sequential, *head: nn.Sequential) -> protocol.Client:
        """A client with this defence."""
        options = self.defense.options(self.strength, front, self.victim)
        return protocol.Client(front, *head, **options)

    def _row(
        self, attack: str, measure: str, value: float, baseline: float, clone: int = -1
    ) -> Row:
        settings, name = self.settings, self.defense.name
        trial = (settings.dataset, settings.budget, name, float(self.strength), self.victim)
        return Row(*trial, attack, clone, measure, value, baseline)

    def _targets(self) -> Tensor:
        found = experiments.first_targets(self.dataset, self.settings.targets)
        return found.images.to(self.settings.device)

    def _service(self, session: protocol.Session, seconds: float) -> list[Row]:
        """What the user gets: accuracy, bytes of an image on the wire, seconds of the training."""
        test = self.dataset.test
        most = test.labels.bincount().max().item() / len(test)
        plain = session.client.front(self._targets()).detach()
        sent = getattr(session.client.outgoing, "nbytes", lambda tensor: tensor.nbytes)
        return [
            self._row("service", "accuracy", session.accuracy(test), most),
            self._row("service", "bytes", sent(plain) / len(plain), plain.nbytes / len(plain)),
            self._row("service", "cpu_seconds", seconds, float("nan")),
        ]

    def _dependence(self, session: protocol.Session) -> Row:
        """Distance correlation of images and their messages; the baseline, with those of others."""
        images = self.dataset.test.images[:PAIRED].to(self.settings.device)
        sent = session.observe(images).smashed
        value, floor = (
            defenses.distance_correlation(images, other).item() for other in (sent, sent.roll(1, 0))
        )
        return self._row("wire", "distance_correlation", value, floor)

    def _unsplit(self, session: protocol.Session) -> list[Row]:
        truth, budget = self._targets(), self.settings.budget
        attack = UnSplit(
            steps=experiments.STEPS[budget], restarts=self.settings.clones, seed=self.victim
        )
        rows = []
        for number, found in enumerate(_whole(attack.runs(session.observe(truth)))):
            rows += self._images("UnSplit", found.inputs, truth, number)
            rows += self._theft(session, found.clone, number)
        return rows

    def _decoder(self, session: protocol.Session) -> list[Row]:
        """An inverse network, trained on public images that went through the same defence."""
        truth = self._targets()
        view = session.observe(truth, grants=["client_model"])
        rows = []
        for number, seed in self._attackers():
            steps = DECODER_STEPS[self.settings.budget]
            attack = DecoderInversion(steps=steps, batch=32, seed=seed)
            # The attacker knows the defence and not its random numbers.
            options = self.defense.options(self.strength, session.client.front, GUESS + seed)
            found = attack(view, self._public(), defense=options.get("outgoing"))
            rows += self._images("decoder", _whole([found])[0].inputs, truth, number)
        return rows

    def _attackers(self) -> list[tuple[int, int]]:
        """Numbers and seeds of the attackers of this victim."""
        clones = self.settings.clones
        return [(number, self.victim * clones + number) for number in range(clones)]

    def _images(self, attack: str, inputs: Tensor, truth: Tensor, clone: int = -1) -> list[Row]:
        mean = self.dataset.train.images.mean(0).to(truth.device).expand_as(truth)
        found, floor = metrics.score_images(inputs, truth), metrics.score_images(mean, truth)
        measures: dict[str, Callable[[metrics.ImageScores], Tensor]] = {
            "raw_mse": lambda scores: scores.mse.median(),
            "aligned_mse": lambda scores: scores.aligned_mse.median(),
            "best_mse": lambda scores: scores.mse.min(),
        }
        if found.ssim is not None:
            measures["ssim"] = lambda scores: cast(Tensor, scores.ssim).median()
        return [
            self._row(attack, name, measure(found).item(), measure(floor).item(), clone)
            for name, measure in measures.items()
        ]

    def _theft(self, session: protocol.Session, clone: nn.Sequential, number: int) -> list[Row]:
        front, head = session.client.front, session.client.head
        parts = [session.server.model] if head is None else [session.server.model, head]
        shape = self.dataset.train.images.shape[1:]
        random = Architecture.of(front, shape).build(self.victim, f"random clone {number}")
        random = random.to(self.settings.device)
        report = metrics.score_clone(clone, front, nn.Sequential(*parts), self.dataset.test, random)
        pairs = {
            "clone_accuracy": (report.clone_accuracy, report.random_accuracy),
            "agreement": (report.clone_agreement, report.random_agreement),
        }
        return [self._row("UnSplit", name, *pair, number) for name, pair in pairs.items()]

    def _labels(self) -> list[Row]:
        """The labels of a fresh client's first samples: read, or clustered and matched."""
        watched, singles = WATCHED[self.settings.budget], SINGLES[self.settings.budget]
        first = self._watch(watched, batch_size=64).transcript.view()
        if not self.defense.label_private:
            read = self._score(watched, first.labels.cpu())
            return [self._row("labels read", "label_accuracy", *_right(read))]
        second = self._watch(singles, batch_size=1)
        view = second.transcript.view("server", ["head_weight_gradients"])
        rows = []
        for number, seed in self._attackers():
            clusters = LabelInference("wire", seed=seed)(first).clusters
            wire = self._score(watched, clusters=clusters)
            assert wire.cluster_accuracy is not None and wire.random_partition is not None
            pair = (wire.cluster_accuracy, wire.random_partition)
            rows.append(self._row("labels, wire", "cluster_accuracy", *pair, number))
            match = LabelInference("published", seed=seed, device=self.settings.device)
            found = self._score(singles, match(view).labels)
            rows.append(self._row("labels, published", "label_accuracy", *_right(found), number))
        return rows

    def _score(self, count: int, labels: Tensor | None = None, **found: Any) -> metrics.LabelReport:
        """Score what was found of the first `count` samples, in the order that they were sent."""
        order = torch.randperm(count, generator=seeds.generator(self.victim, "order"))
        truth = self.dataset.train.labels[:count][order]
        return metrics.score_labels(truth, len(self.dataset.classes), labels, **found)

    def _watch(self, count: int, batch_size: int) -> protocol.Session:
        """Train a fresh client for one epoch on `count` samples, on record."""
        net = models.for_images(self.dataset.train.images.shape, self.victim)
        at = CUTS if self.defense.label_private else CUTS[0]
        client, server = experiments.parties(net, at, self.client)
        session = protocol.train(
            client,
            server,
            self._train[:count],
            epochs=1,
            batch_size=batch_size,
            seed=self.victim,
            record=True,
            device=self.settings.device,
        )
        if session.interrupted:
            raise KeyboardInterrupt
        return session


def _right(found: metrics.LabelReport) -> tuple[float, float]:
    assert found.label_accuracy is not None
    return found.label_accuracy, found.majority


def _whole(results: list[Any]) -> list[Any]:
    """Return `results`; half an attack is no trial."""
    if any(result.interrupted for result in results):
        raise KeyboardInterrupt
    return results


# ---- the file and the figure ---------------------------------------------------------------------


def read(path: Path) -> list[Row]:
    """Read the rows of an arena's CSV file, none if there is no file; SltoolsError if damaged."""
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


def _settle(settings: Settings, folder: Path) -> None:
    """Keep the settings beside the rows; raise SltoolsError if there are rows of others."""
    wanted = {name: value for name, value in asdict(settings).items() if name != "victims"}
    if not (folder / CSV).exists():
        facts = {"settings": wanted, "versions": devices.versions(), "cpu_seconds": 0.0}
        _write_facts(folder, facts)
    elif (found := _facts(folder).get("settings")) != wanted:
        raise SltoolsError(
            f"{folder} holds an arena with the settings {found}, and these are {wanted}; name "
            "another folder"
        )


def _note(folder: Path, seconds: float) -> None:
    """Add the time of a trial."""
    facts = _facts(folder)
    _write_facts(folder, facts | {"cpu_seconds": round(facts["cpu_seconds"] + seconds, 1)})


def _facts(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    storage.replace(folder / SETTINGS, json.dumps(facts, indent=1) + "\n")


def _key(row: Row) -> tuple[Any, ...]:
    malicious = row.attack == HIJACKING
    return (row.dataset, row.budget, row.defense, row.strength, row.victim, malicious)


def _append(path: Path, rows: list[Row]) -> None:
    """Add the rows of one trial in one step, so that whatever ends it leaves whole trials."""
    before = path.read_bytes() if path.exists() else b""
    storage.replace(path, before + _lines(rows, header=not before).encode())


def _lines(rows: Sequence[Row], header: bool = False) -> str:
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
def _room_for(rows: Sequence[Row], folder: Path) -> Iterator[None]:
    """Say what a full disk means, with the `rows` that found no room: they took long."""
    try:
        yield
    except OSError as error:
        unkept = f". Its last trial, if it is not there:\n{_lines(rows)}" if rows else ""
        raise SltoolsError(
            f"the arena had to stop: {error}. The rows of all trials that ended are in "
            f"{folder / CSV}; put that right and run the same again{unkept}"
        ) from None


def medians(
    rows: Iterable[Row], attack: str, measure: str, field: str = "value"
) -> dict[tuple[str, float], list[float]]:
    """The values (or baselines) of a measure, all victims and clones, by defence and strength."""
    found: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        if (row.attack, row.measure) == (attack, measure):
            found.setdefault((row.defense, row.strength), []).append(getattr(row, field))
    return found


COLUMNS: dict[str, tuple[str, ...]] = {
    "accuracy": ("service", "accuracy"),
    "bytes": ("service", "bytes"),
    "seconds": ("service", "cpu_seconds"),
    "dCor": ("wire", "distance_correlation"),
    "UnSplit": ("UnSplit", "aligned_mse"),
    "decoder": ("decoder", "aligned_mse"),
    "clone": ("UnSplit", "clone_accuracy"),
    "clusters": ("labels, wire", "cluster_accuracy"),
    "published": ("labels, published", "label_accuracy"),
    "read": ("labels read", "label_accuracy"),
    "hijacking": (HIJACKING, "aligned_mse"),
    "seen": (HIJACKING, "seen"),
    "falsely": (HIJACKING, "seen", "baseline"),
}


def table(rows: Iterable[Row]) -> str:
    """The Markdown table of the medians: what the user keeps, what each attack gains.

    "seen" and "falsely": does a hijacker raise an alarm in LabelGap (1) or not (0), does an honest
    server?
    """
    rows = list(rows)
    columns = {name: medians(rows, *measure) for name, measure in COLUMNS.items()}
    lines = [f"| defence | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for defense, strength in columns["accuracy"]:
        cells = [f"{defense} {strength:g}" if strength else defense]
        for found in columns.values():
            values = found.get((defense, strength))
            cells.append(_brief(statistics.median(values)) if values else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _brief(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def frontier(
    rows: Iterable[Row],
    attacks: Sequence[str] = ("UnSplit", "decoder"),
    measure: str = "aligned_mse",
) -> plots.Picture:
    """Draw privacy against utility: the least image error of `attacks` over the accuracy kept.

    Medians over victims and attackers, from the least to the greatest; strengths of one defence are
    joined. Up and right is better for the user.
    """
    rows = list(rows)
    accuracy = medians(rows, "service", "accuracy")
    errors = [medians(rows, attack, measure) for attack in attacks]
    series: dict[str, list[tuple[float, float, float, float]]] = {}
    for key, values in accuracy.items():
        better = min((error[key] for error in errors), key=statistics.median)
        point = (statistics.median(values), statistics.median(better), min(better), max(better))
        series.setdefault(key[0], []).append(point)
    floor = statistics.median(row.baseline for row in rows if row.measure == measure)
    ylabel = f"{measure.replace('_mse', '')} image error, {' or '.join(attacks)}"
    return plots.frontier(series, "accuracy of the service", ylabel, {"mean image": floor})
