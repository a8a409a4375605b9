"""`sltools serve` and `sltools join`: the paper's network on several hosts, and what to type."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from sltools import data, hosts, models, protocol, saved, storage
from sltools.errors import HostError, SltoolsError
from sltools.experiments import parties
from sltools.hosts.client import parse
from sltools.hosts.server import Served
from sltools.protocol.rounds import check_schedule

LAYERS, JOURNAL = "layers", "server.journal"  # what is written into a folder


@dataclass(frozen=True)
class Setting:
    """What all hosts must agree on; the seed of a party's first layers is its own."""

    dataset: str
    cut: str
    head: str | None = None
    seed: int = 0

    @property
    def options(self) -> str:
        """How it is typed."""
        head = f" --head {self.head}" if self.head else ""
        return f"--dataset {self.dataset} --cut {self.cut}{head}"

    def parties(self, source: data.Dataset) -> tuple[protocol.Client, protocol.Server]:
        """The two parties, of which each host uses one."""
        net = models.for_images(source.train.images.shape, self.seed)
        return parties(net, (self.cut, self.head) if self.head else self.cut)


def serve(
    setting: Setting,
    folder: Path,
    *,
    clients: int,
    schedule: str,
    by: str,
    epochs: int,
    host: str,
    port: int,
    timeout: float,
    wait: float,
) -> Served:
    """Serve in the setting, say what to type elsewhere, and write journals and layers to `folder`.

    Raises what `hosts.serve` does, and SltoolsError if the folder holds anything.
    """
    check_schedule(schedule, clients)
    server = setting.parties(data.load(setting.dataset))[1]
    folder = storage.new_folder(folder)

    def announce(addresses: list[str]) -> None:
        print("On the other hosts, type:\n")
        print("\n".join(join_lines(setting, addresses, by)))
        print(f"\nwaiting {wait:g} s at most; nothing that crosses is encrypted", flush=True)

    served = hosts.serve(
        server, clients=clients, schedule=schedule, epochs=epochs, seed=setting.seed, host=host,
        port=port, timeout=timeout, wait=wait, journals=folder, announce=announce,
    )  # fmt: skip
    keep_layers(folder / LAYERS, model=server.model)
    for number, (losses, journal) in enumerate(zip(served.losses, served.journals, strict=True)):
        print(f"client {number + 1}: losses {_numbers(losses)}; messages in {journal}")
    print(f"the server's layers are in {folder / LAYERS}")
    return served


def join_lines(setting: Setting, addresses: Sequence[str], by: str) -> list[str]:
    """What to type on the clients' hosts, one line for each."""
    count = len(addresses)
    lines = []
    for number, address in enumerate(addresses, 1):
        several = f" --part {number}/{count} --by {by} --share-layers" if count > 1 else ""
        lines.append(f"  sltools join --server {address} {setting.options}{several}")
    return lines


def join(
    setting: Setting,
    address: str,
    folder: Path,
    *,
    part: str,
    by: str,
    batch_size: int,
    share_layers: bool,
    timeout: float,
    device: str,
) -> protocol.Session:
    """Join the server at `address` with a part of the data; write journal and layers to `folder`.

    Raises what `hosts.join` does, and SltoolsError for a part that there is not and for a folder
    that holds anything. If there is no server, the error says what to type there.
    """
    host, port = parse(address)
    source = data.load(setting.dataset)
    client = setting.parties(source)[0]
    split = _part(source.train, part, by)
    folder = storage.new_folder(folder)
    train = partial(
        hosts.join, address, client, split, batch_size=batch_size, seed=setting.seed,
        device=device, share_layers=share_layers, timeout=timeout, journal=folder / JOURNAL,
        finish=lambda session: print(f"test accuracy: {session.accuracy(source.test):.1%}"),
    )  # fmt: skip
    try:
        session = train()
    except HostError as error:
        if not (folder / JOURNAL).exists():  # they never met
            error.add_note(f"  sltools serve --host {host} --port {port} {setting.options}")
        raise
    head = {} if client.head is None else {"head": client.head}
    keep_layers(folder / LAYERS, front=client.front, **head)
    print(f"losses {_numbers(session.losses)}; messages in {folder / JOURNAL}")
    print(f"this client's layers are in {folder / LAYERS}")
    return session


def keep_layers(folder: Path, **networks: nn.Sequential) -> None:
    """Write networks by name into a new folder."""
    packed = {name: saved.pack(name, network) for name, network in networks.items()}
    tensors = {key: value for found, _ in packed.values() for key, value in found.items()}
    storage.write(folder, tensors, {name: facts for name, (_, facts) in packed.items()})


def open_layers(folder: str | Path) -> dict[str, saved.Network]:
    """Read what `keep_layers` wrote; raise SltoolsError if it is missing or damaged."""
    tensors, facts = storage.read(folder)
    try:
        return {name: saved.unpack(name, tensors, fact) for name, fact in facts.items()}
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise SltoolsError(f"{folder} holds no layers or is damaged: {error!r}") from None


def _part(split: data.Split, part: str, by: str) -> data.Split:
    """Return the part "NUMBER/COUNT" of a split; raise SltoolsError if there is none."""
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise SltoolsError(f"a part is NUMBER/COUNT, for example 1/2, not {part!r}")
    return data.parts(split, int(count), by)[int(number) - 1]


def _numbers(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:.3f}" for loss in losses) or "none"
