# ---
# jupyter:
#   sltools:
#     minutes: 35
#     alternative: {cut: pool2}
# ---

# %% [markdown]
# # Two machines: who is on the way, and who else is at the table
#
# So far client and server were two objects in one process. The clinic and its vendor are two hosts,
# with a network between them; and the vendor has other clinics. Both are new: somebody is on the
# way, and the clients share their layers. Who learns what by that?
#
# After this lesson you can run split learning between hosts, say what an eavesdropper, a server of
# many clients and a client among many can read, and what the distance costs.
#
# **Objectives.** You can
#
# * train over a network, and show that the result is that of one process;
# * take apart what crosses, and attack it from there;
# * say what many clients of one server change for the server, and for each other;
# * tell when the link, the server or the client sets the pace.
#
# **Prerequisites.** [Lesson 01](01_split_learning.ipynb) (the messages),
# [lesson 04](04_inversion_and_stealing.ipynb) (the attack *UnSplit*) and
# [lesson 07](07_label_inference.ipynb) (the label-private setting).
#
# **Time.** About 35 minutes (estimated).

# %% [markdown]
# ## Threat card
#
# | | eavesdropper | server of many clients | client among many |
# |---|---|---|---|
# | **who** | a router, an access point, a provider | honest but curious | honest but curious |
# | **sees** | all that crosses | all that crosses, of all clients | the layers handed on to it |
# | **may change** | nothing (here) | nothing | nothing |
# | **wants** | images, labels | images, a copy of the client | whose data came before its own |
# | **knows before** | nothing | the architecture | its own data and labels |
# | **does not need** | a part of either party | clients that know each other | a message more |
# | **simulated here** | two processes, and a tap between | ten clients in one process | the same |
# | **stops working** | in a tunnel | where UnSplit does | where all layers are averaged (V1) |
# | **answered by** | WireGuard, TLS | lessons 05 and 08 | a copy of the server for each, as in V1 |

# %% [markdown]
# ## The idea in one figure

# %%
from sltools import plots

plots.exchange(
    {"client": "images, the layers f", "on the way": "a tap", "server": "the layers g"},
    [
        ("client", "on the way", "a greeting: architecture, number of images"),
        ("on the way", "server", "the same"),
        ("client", "on the way", "labels; z = f(x), the smashed data"),
        ("on the way", "server", "the same"),
        ("server", "on the way", "dL/dz; at the end predictions"),
        ("on the way", "client", "the same"),
        ("on the way", "on the way", "keeps a copy of everything"),
    ],
)

# %% [markdown]
# ## Settings
#
# The text is about the settings shown. With others a claim may not hold: that is a result too.

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
cut: str = "pool1"  # the stage after which the network is cut
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim, attacks and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda; of the parties in this process

# %%
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import cross_entropy

from sltools import data, experiments, hosts, lessons, metrics, models, protocol, seeds
from sltools.attacks import UnSplit
from sltools.claims import Claims, compare
from sltools.hosts import Tap, commands
from sltools.messages import Message
from sltools.protocol.rounds import SCHEDULES
from sltools.view import View

torch.set_num_threads(1)  # small networks are faster so, whatever the number of cores
as_shown = (dataset, cut, budget, seed) == ("digits", "pool1", "quick", 0)
claim = Claims(as_shown)
of_record = Claims(as_shown=True)  # what was recorded is the same with any settings

source = data.load(dataset)
setting = commands.Setting(dataset, cut, seed=seed)  # what both hosts must agree on
share = max(2, len(source.train) // 700)  # the clinic has one of so many parts of the images
patients = data.parts(source.train, share)[0]
epochs = {"tiny": 1, "quick": 4, "full": 10}[budget]
print(f"the clinic has {patients}")

# %% [markdown]
# ## Two processes
#
# The server runs here. The client is another process: the command `sltools join`, as one would type
# it on another machine. Between them is a `Tap`: it listens at a port of its own, and carries on
# what comes. The client is told the tap's address in place of the server's, as a router would have
# it. Nothing else changes.
#
# The engine is `torch.distributed`. What a message is, and who sends which, is as in
# [lesson 01](01_split_learning.ipynb). Afterwards we train the same two parties in this process.
# How far apart will the weights be?

# %%
guess_apart = None  # your guess: the largest difference of a weight


# %%
def join_elsewhere(address, folder):
    """Start the client as another host would, with as many threads as here."""
    command = [sys.executable, "-m", "sltools", "join", "--server", address, "--out", folder]
    command += ["--part", f"1/{share}", "--seed", f"{seed}", "--timeout", "300"]
    command += [*setting.options.split()]
    alike = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=alike, stdout=subprocess.DEVNULL)


def train_between_hosts(server, folder):
    """Serve one client that joins through a tap; return the tap, and what each party kept."""
    started = []

    def announce(addresses):
        started.append(Tap(addresses[0]))
        started.append(join_elsewhere(started[0].address, folder / "client"))

    hosts.serve(server, epochs=epochs, seed=seed, port=0, timeout=300,
                journals=folder / "server", announce=announce)  # fmt: skip
    tap, client = started
    client.wait()
    tap.close()
    kept = commands.open_layers(folder / "client" / commands.LAYERS)
    return tap, kept["front"], hosts.read_journal(folder / "server" / "client-1.journal")


_, server_there = setting.parties(source)
with TemporaryDirectory() as folder:
    tap, front_there, journal = train_between_hosts(server_there, Path(folder))

client_here, server_here = setting.parties(source)
session = protocol.train(client_here, server_here, patients, epochs=epochs, seed=seed)


def apart(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


difference = max(
    apart(front_there, client_here.front), apart(server_there.model, server_here.model)
)
compare(guess_apart, difference, "largest difference of a weight, between hosts and in process")
claim("largest difference", difference, "==", 0)

# %% [markdown]
# Not a bit. The distance changes who can listen, how long it takes, and what can break; it does not
# change what is learned. (With as many threads on both sides and processors of one kind.)

# %% [markdown]
# ## What is on the way
#
# The engine sends its own small heads between the pieces; the tap drops them. What is left are
# *notes*, by which the hosts run the training, and *messages* of split learning. The server keeps a
# journal of the messages it sent and got. How many of these does somebody on the way miss?

# %%
guess_missed = None  # your guess: the number of messages that the tap did not see

# %%
for item in tap.items[:7]:
    print(item if isinstance(item, Message) else f"the note {item.kind!r}")
overheard = tap.transcript()
seen = {message.digest() for message in overheard.messages}
missed = sum(message.digest() not in seen for message in journal.messages)
greeting = next(item for item in tap.items if not isinstance(item, Message)).facts
print("...\nthe greeting tells:", ", ".join(greeting))
print("so the eavesdropper knows:", overheard.client)

# %%
compare(guess_missed, missed, f"of {len(journal.messages)} messages, missed by the tap")
claim("missed", missed, "==", 0)
claim("labels in the clear", sum(len(m.payload) for m in overheard.messages if m.kind == "labels"),
      "==", epochs * len(patients))  # fmt: skip

# %% [markdown]
# None: **whoever is on the way reads what the server reads**, labels and all. The greeting even
# tells the architecture, which the server needs to know and nobody else does. Two things only are
# missing: the layers of the server, and any control over its answers. (Somebody on the way could
# take that as well, for nothing is signed. Ours does not.)
#
# After training the clinic asked for predictions on test images. Ten of those that crossed, one of
# each class, go to UnSplit. What error is left, as a share of that of the mean image?

# %%
guess_error = None  # your guess, 0 to 1

# %%
asked = torch.cat([m.payload for m in overheard.messages
                   if (m.kind, m.phase) == ("smashed", "inference")])  # fmt: skip
rows = [(source.test.labels == label).nonzero()[0, 0].item() for label in range(10)]
truth = source.test.images[rows]
steps = experiments.STEPS[budget]
view = View.of_activations(asked[rows], overheard.client)
found = UnSplit(steps=steps, seed=seed, **experiments.priors(dataset, budget))(view)
mean_image = source.train.images.mean(0).expand_as(truth)
print("knew:", ", ".join(found.knowledge))
names = [source.classes[label] for label in source.test.labels[rows]]
plots.reconstructions(truth, {"overheard": found.inputs, "mean image": mean_image}, names)


# %%
def error(images):
    return metrics.mse(images.cpu(), truth).median().item()


compare(guess_error, error(found.inputs) / error(mean_image), "error, divided by the mean image's")
claim("error, divided by the mean image's", error(found.inputs) / error(mean_image), "<", 0.3)

# %% [markdown]
# ## What answers an eavesdropper
#
# Encryption does, and it is a solved problem: put both hosts into a tunnel (WireGuard, or any VPN),
# and let the parties use the tunnel's addresses. `docs/hosts.md` of the course's repository has the
# settings, tried between network namespaces: somebody on the way sees packets of noise, their
# sizes and their times. The engine has a TLS of its own in some builds; in the wheel that this
# course installs it is missing, and its rendezvous would stay plain.
#
# What no tunnel answers is the other end of it. **The server is where the traffic is decrypted.**
# "All traffic is encrypted" is an answer to the first column of the threat card, and to no other.

# %% [markdown]
# ## Many clients
#
# With several clients there is one server, and each client needs a front that fits it. Published
# are two ways to have that:
#
# | schedule | the clients' layers | the server's layers |
# |---|---|---|
# | **in turn** (Gupta and Raskar) | handed on to the next client after each turn | one model |
# | **SplitFed V1** (Thapa et al.) | averaged after each round | a copy for each, averaged |
# | **SplitFed V2** | averaged after each round | one model, clients in random order |
#
# In all three, layers of clients cross, which split learning was said not to need. In `sltools`
# they cross by way of the server's host, which can read them: who hands layers on in the clear has
# *granted* the known weights, and images come back as far as these allow, which is further than any
# theft (lesson 04). Let us suppose from here on that clients encrypt them, so that the server does
# not get them.
#
# ### What a curious server gets from ten clients
#
# UnSplit looks for images and one clone at once. Ten clients that share one front send ten times as
# many activations **through the same weights**. Does the attack profit? **Recorded** at `pool2`:
# ten images of the first client attacked alone, or with those of all ten and one clone for all;
# also when each client has trained for an epoch since the average, so that ten fronts differ.

# %%
guess_profit = None  # your guess: error with ten clients, divided by that alone

# %%
record = json.loads((lessons.course() / "results/clients_digits.json").read_text("utf-8"))
kinds = dict.fromkeys((row["fronts"], row["clients"]) for row in record["rows"])
runs = {kind: [row for row in record["rows"] if (row["fronts"], row["clients"]) == kind]
        for kind in kinds}  # fmt: skip


def middle(kind, name):
    return statistics.median(row[name] for row in runs[kind])


print(f"{len(runs[next(iter(kinds))])} trainings; medians    {'clients':>20}{'error':>9}"
      f"{'mean image':>12}{'clone right':>13}{'victim':>8}")  # fmt: skip
for fronts, count in kinds:
    kind = fronts, count
    print(
        f"{fronts:34}{count:9}{middle(kind, 'raw_mse'):9.4f}{middle(kind, 'mean_image_mse'):12.4f}"
        f"{middle(kind, 'clone_accuracy'):13.1%}{middle(kind, 'victim_accuracy'):8.1%}"
    )

# %%
alone, pooled, differing = (
    torch.tensor([row["raw_mse"] for row in of_kind]) for of_kind in runs.values()
)
profit = (pooled / alone).mean().item()
compare(guess_profit, profit, "error with ten clients of one front, divided by that alone")
of_record("the same, in each training", pooled / alone, ">", 0.7)
of_record("ten fronts that differ, in each training", differing / alone, ">", 0.7)

# %% [markdown]
# It does not, in these runs: neither the images nor the clone come out better when ten times as
# many activations pass through one front. What stops UnSplit at this depth is not that it sees too
# few of them. Nor does it harm the attack that the fronts differ by an epoch: they had just been
# one. (Every attack had the same number of steps; more of them for more images were not tried.)
#
# ### What a client gets from the one before
#
# Now the label-private setting, in which no label leaves a client: each has the first layers and
# the last one, and both are handed on. Ten clients have **one class each**, as specialists might.
# A client gets the layers, and before it trains, it looks: *whose were they?* It may
#
# * run its own images through the whole, as in its first batch: which class but its own comes out?
# * compare the bias of the last layer with the one that it handed on itself, a round ago;
# * compare the front with that one: for images of which class has its output changed most?
#
# A guess among the other nine classes is right one time in nine. How often is the first one?

# %%
guess_turn = None  # your guess: share of turns at which the client before is named, 0 to 1


# %%
class Curious(protocol.Trainee):
    """A client of one class that looks at the layers it is given before it trains."""

    def __init__(self, number, part, log):
        front, _, head = models.cut(network(), LABEL_PRIVATE)
        super().__init__(protocol.Client(front, head), part, batch_size=BATCH, seed=seed,
                         number=number)  # fmt: skip
        self.own, self.log, self.last, self.named = int(part.labels[0]), log, self.weights(), []

    def train(self, server):
        if self.log:
            self.named.append((self.log[-1], *self.look(server)))
        self.log.append(self.own)
        loss = super().train(server)
        self.last = self.weights()
        return loss

    def look(self, server):
        """The class that the client before had, guessed in three ways."""
        whole = protocol.Session.of(self.client, server, self.split.images)
        outputs = whole.predict(self.split.images[:BATCH]).softmax(1).mean(0)
        bias = self.weights()[BIAS] - self.last[BIAS]
        return [self.other(signal) for signal in (outputs, bias, self.change())]

    def change(self):
        """How much the front's output has changed, for images of each class."""
        now, before = self.client.front, models.cut(network(), LABEL_PRIVATE)[0]
        before.load_state_dict({name: self.last[f"front.{name}"] for name in now.state_dict()})
        with torch.no_grad():
            moved = (now(public.images) - before(public.images)).flatten(1).norm(dim=1)
        return torch.stack([moved[public.labels == label].mean() for label in range(10)])

    def other(self, signal):
        return signal.index_fill(0, torch.tensor([self.own]), -torch.inf).argmax().item()


def network():
    return models.for_images(source.train.images.shape, seed)


LABEL_PRIVATE, BATCH = ("pool1", "relu4"), 6
BIAS = list(Curious(0, patients, []).weights())[-1]
public = experiments.first_targets(source, 100)
specialists = data.parts(source.train[: {"tiny": 200, "quick": 1437, "full": 5000}[budget]], 10,
                         by="class")  # fmt: skip
rounds = {"tiny": 2, "quick": 3, "full": 5}[budget]


def named_right(schedule):
    """How often each of the three guesses is right, with a schedule, and how many there were."""
    log = []
    clients = [Curious(number, part, log) for number, part in enumerate(specialists)]
    server = protocol.Server(models.cut(network(), LABEL_PRIVATE)[1], label_private=True)
    with seeds.scope(seed, "training"):
        for _ in SCHEDULES[schedule](clients, server, rounds, seed):
            pass
    truth, *guesses = zip(*(named for client in clients for named in client.named), strict=True)
    return [sum(map(int.__eq__, truth, guess)) / len(truth) for guess in guesses], len(truth)


named = {schedule: named_right(schedule) for schedule in SCHEDULES}

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
print(f"{'the client before is named by':32}{'outputs':>9}{'bias':>9}{'front':>9}")
for schedule, (shares, count) in named.items():
    told = f"{schedule} ({count} turns)"
    print(f"{told:32}" + "".join(f"{share:9.0%}" for share in shares))
print(f"{'a guess among the others':32}{1 / 9:9.0%}{1 / 9:9.0%}{1 / 9:9.0%}")

# %%
in_turn, v1, v2 = (named[schedule][0] for schedule in SCHEDULES)
compare(guess_turn, in_turn[0], "in turn: share of turns at which the outputs name the one before")
claim("in turn, by the outputs", in_turn[0], ">", 0.3)
claim("in turn, by the front alone", in_turn[2], "<", 0.35)
claim("SplitFed V1, by the outputs", v1[0], "<", 0.35)

# %% [markdown]
# The network has just been taught one class for a whole turn, and says it to whatever comes next:
# it forgets the others. So **labels that no server ever saw are read by the next client**, from its
# first honest batch, without a message more. The layers alone say little: a client gets them back
# after nine others had their turns, and what the last one did is not told apart from what the rest
# did. Averaging the clients' layers is hardly an answer: in V2 the server's one model still goes
# from client to client, and it is the server's answers that tell. In V1 nobody is answered by a
# model that another has just left, and the outputs say nothing.
#
# And single images: can the next client tell which ones the client before was trained on? Deal the
# images out evenly, hand on in turn, and let the last client sort the images of the one before, and
# as many test images, by the loss of the whole.

# %%
guess_members = None  # your guess: AUC, 0.5 is chance

# %%
half = {"tiny": 200, "quick": 720, "full": 1437}[budget]
dealt = data.parts(source.train[:half], 10)
clients = [Curious(number, part, []) for number, part in enumerate(dealt)]
server = protocol.Server(models.cut(network(), LABEL_PRIVATE)[1], label_private=True)
with seeds.scope(seed, "training"):
    for _ in SCHEDULES["in turn"](clients, server, 2 * rounds, seed):
        pass
whole = protocol.Session.of(clients[-1].client, server, source.test.images)


def confidence(split):
    return -cross_entropy(whole.predict(split.images), split.labels, reduction="none")


others = source.test[: 3 * len(dealt[-2])]
asked_of = torch.cat([confidence(dealt[-2]), confidence(others)])
auc = metrics.leak_auc(asked_of, torch.arange(len(asked_of)) < len(dealt[-2]))
compare(guess_members, auc, f"AUC of {len(dealt[-2])} members and {len(others)} others")
claim("AUC", auc, "<", 0.65)

# %% [markdown]
# Next to nothing, as in [the appendix on members](appendix/10_attributes_and_members.ipynb): a
# network that was not trained too long treats both alike. A null result of one attack on one small
# training, and no proof.

# %% [markdown]
# ## What the distance costs
#
# The parties take turns: while one computes, the other waits, and both wait for the link. So the
# time of an epoch is a sum, of client, server, engine and link. **Recorded** on digits, batches of
# 64: at which cut, and on which way, does the link take most?

# %%
guess_binds = None  # your guess: of five ways, at how many is it the link, for the cut at pool1?

# %%
cost = json.loads((lessons.course() / "results/hosts.json").read_text("utf-8"))


def epoch(row, way):
    """Seconds of an epoch in each place, with a way of that delay and rate between the hosts."""
    computers = row["client"] + row["server"]
    return {
        "client": row["client"],
        "server": row["server"],
        "engine": (statistics.median(row["ratios"]) - 1) * computers,
        "link": 2 * way["delay"] * row["turns"] + 8 * row["bytes"] / way["rate"],
    }


at_cuts = "".join(f"{row['cut']:>16}" for row in cost["cuts"])
print(f"{'seconds of an epoch, and what takes most':42}{at_cuts}")
binds = {}
for name, way in cost["ways"].items():
    cells = []
    for row in cost["cuts"]:
        parts = epoch(row, way)
        binds[row["cut"], name] = max(parts, key=parts.get)
        cells.append(f"{sum(parts.values()):.2f} {binds[row['cut'], name]}")
    told = f"{name} ({1000 * way['delay']:g} ms, {way['rate'] / 1e6:,.0f} Mbit/s)"
    print(f"{told:42}" + "".join(f"{cell:>16}" for cell in cells))
print("\nover loopback, times as long as in process:",
      {row["clients"]: f"{statistics.median(row['ratios']):.2f}" for row in cost["clients"]},
      "clients")  # fmt: skip

# %%
at_pool1 = sum(binds["pool1", name] == "link" for name in cost["ways"])
compare(guess_binds, at_pool1, "pool1: ways on which the link takes most")
of_record("pool1: ways on which the link takes most", at_pool1, ">", 1)
of_record("payload of an epoch at pool1, divided by that at fc1",
          cost["cuts"][0]["payload"] / cost["cuts"][-1]["payload"], ">", 5)  # fmt: skip

# %% [markdown]
# In a building the computers set the pace, and a deeper cut moves work to the client. From the next
# city on the link does: over fibre by its round trips, one for each batch, which no cut saves; on a
# slow line by its rate, which a deeper cut relieves. Larger batches save round trips.

# %%
# what `sltools sweep` keeps of this lesson
collected = {
    "largest_difference": difference,
    "missed_messages": missed,
    "overheard_mse": error(found.inputs),
    "mean_image_mse": error(mean_image),
    "named_in_turn": in_turn[0],
    "named_splitfed_v1": v1[0],
    "members_auc": auc,
}

# %% [markdown]
# ## Limitations
#
# * **One machine.** Two processes on loopback are two hosts in all but distance; the links of the
#   table are a sum, checked against two that were put in the way as delays.
# * **The tap sits on the machine of the parties**, and only listens. An attacker who also changes
#   what crosses has the powers of a malicious server ([lesson 09](09_malicious_server.ipynb)).
# * **One class for each client is the extreme.** What clinics have lies between this and an
#   even deal.
# * **Clients train one after another**, in V1 too; nobody hides a link behind work.
#
# ## Try it
#
# * Cut at `pool2`. Does the eavesdropper still see anything?
# * Deal two classes to each of five clients. What can the next client name now?
# * Type it on two machines, if you have them: `sltools serve --host ADDRESS` prints what to type on
#   the other.
#
# ## Review questions
#
# **1.** A vendor: "Your data are safe with us: everything that your clinic sends is encrypted with
# TLS 1.3." Which row of a threat card is missing?
#
# <details><summary>Answer</summary>
#
# *Who*: TLS ends at the vendor. Against somebody on the way it is an answer, against the server
# none; and the smashed data are as readable there as without.
#
# </details>
#
# **2.** "We share no labels, so no other clinic learns what we treat." Two clinics train in turn.
# What do you ask?
#
# <details><summary>Answer</summary>
#
# What is handed on, and on what the receiver can run it. A network that was taught one class for a
# whole turn answers with it. Averaging after each round, shorter turns, or clients of mixed data
# take the difference away; a promise about labels alone does not.
#
# </details>
#
# ## Further reading
#
# * O. Gupta, R. Raskar: *Distributed learning of deep neural network over multiple agents*, 2018.
#   [arXiv 1810.06060](https://arxiv.org/abs/1810.06060). In turn.
# * C. Thapa et al.: *SplitFed: When Federated Learning Meets Split Learning*, AAAI 2022.
#   [arXiv 2004.12088](https://arxiv.org/abs/2004.12088).
# * J. A. Donenfeld: *WireGuard: Next Generation Kernel Network Tunnel*, NDSS 2017.
#
# **Next:** [lesson 12](12_poison.ipynb), where it is clients who cheat.
