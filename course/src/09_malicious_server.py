# ---
# jupyter:
#   sltools:
#     minutes: 55
#     alternative: {cut: conv1}
# ---

# %% [markdown]
# # A server that lies
#
# So far the clinic's vendor has only read what the protocol sends it. What if the vendor's server
# lies, and would the clinic notice before it has the patient's image?
#
# After this lesson you can say what a server gains by changing one message, how such an attack is
# built, and what a client can notice of it.
#
# **Objectives.** You can
#
# * name the only message by which a server teaches the client, and show what follows from it;
# * build *feature-space hijacking* (FSHA) from its three networks, and say what each is for;
# * read its progress on images that the server never saw, beside baselines;
# * compare three detectors on honest, curious and malicious servers, with intervals;
# * say why a detector can find a malicious server and never an honest-but-curious one.
#
# **Prerequisites.** [Lesson 02](02_threat_model.ipynb) (who sees what) and
# [lesson 04](04_inversion_and_stealing.ipynb) (an attack by a curious server, and its digests).
#
# **Time.** About 55 minutes (estimated).

# %% [markdown]
# ## Threat card
#
# | | feature-space hijacking |
# |---|---|
# | **who** | a malicious server in split learning, vanilla or label-private |
# | **sees** | the smashed data $z$ of every batch |
# | **may change** | the cut-layer gradient $\partial L/\partial z$ that it returns |
# | **wants** | the private images, those of the training and all later ones |
# | **knows before** | public images of the same kind, without labels |
# | **does not need** | the client's weights, its architecture, its labels, its task |
# | **simulated here** | both parties in one process; public images from the same data set |
# | **stops working** | without similar public images; deep cuts take longer, see Limitations |
# | **answered by** | detectors on what the client receives; stopping the training at an alarm |

# %% [markdown]
# ## The idea in one figure
#
# The attacks of lessons 03 to 07 read. This one writes. A client trusts the gradient it gets, for
# how should it check it? So the server does not send the gradient of the task. It sends one that
# turns the client, step by step, into a network that the server can invert.

# %%
from sltools import plots

plots.exchange(
    {"client": "private images x, the layers f", "server": "public images; pilot, decoder, critic"},
    [
        ("server", "server", "pilot and decoder learn to hide and to find public images"),
        ("client", "server", "z = f(x), the smashed data"),
        ("server", "server", "the critic learns to tell z from what the pilot makes"),
        ("server", "client", "in place of dL/dz: the gradient that makes the critic fail"),
        ("client", "client", "learns, as always; f comes to resemble the pilot"),
        ("client", "server", "z of later batches, which the decoder now reads"),
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
seed: int = 0  # changes victim, attacker and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %%
import json
import math
import re
import statistics
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy

from sltools import data, experiments, lessons, metrics, models, protocol, seeds, widgets
from sltools.attacks import Hijacking, HijackingServer, UnSplit, networks
from sltools.claims import Claims, compare
from sltools.detectors import Scrutinizer, SplitGuard, SplitOut
from sltools.transcript import Transcript

torch.set_num_threads(1)  # small networks are faster so, whatever the number of cores
as_shown = (dataset, cut, budget, seed) == ("digits", "pool1", "quick", 0)


claim = Claims(as_shown)
source = data.load(dataset)
limit = {"tiny": 300, "quick": 1437, "full": len(source.train)}[budget]
order = torch.randperm(len(source.train), generator=seeds.generator(seed, "private or public"))
private, public = (source.train[half] for half in order[:limit].chunk(2))
images = experiments.first_targets(source, 10).images  # nobody trains on these
unseen = source.test.images[: {"tiny": 50, "quick": 200, "full": 1000}[budget]]
mean_image = public.images.mean(0, keepdim=True)
print(f"private: {private}; public: {public}")


def fresh(client_seed=seed):
    """A network that nobody has trained, cut in two."""
    return models.cut(models.for_images(private.images.shape, client_seed), cut)


# %% [markdown]
# ## What a server may change
#
# A vanilla client receives one kind of message in training: $\partial L/\partial z$, a tensor of
# the shape of $z$. It takes it for the gradient of the loss, goes back through its own layers with
# it and takes a step. So whoever chooses this tensor chooses the **loss** the client minimises.
#
# To see how far that goes, let a server send the gradient of $\frac{1}{2B}\|z\|^2$, which has
# nothing to do with any task. It is $z/B$.


# %%
class Silencer(protocol.Server):
    """Teaches the client to say nothing."""

    def reply(self, message):
        if message.kind == "smashed":
            self.seen = message.payload.clone()
        answer = super().reply(message)
        if answer is not None and answer.kind == "cut_gradient":
            answer = replace(answer, payload=self.seen / len(self.seen))
        return answer


def loudness(server_type):
    """The mean size of z after every pass over some of the private images."""
    front, rest = fresh()
    client, server, sizes = protocol.Client(front), server_type(rest), []
    for number in range(5):
        session = protocol.train(
            client, server, private[:256], seed=number, epochs=1, device=device
        )
        sizes.append(session.observe(images).smashed.abs().mean().item())
    return sizes


volume = {"honest server": loudness(protocol.Server), "Silencer": loudness(Silencer)}
plots.lines(range(1, 6), volume, "passes over 256 images", "mean size of z")

# %%
quiet, honest_volume = volume["Silencer"][-1], volume["honest server"][-1]
claim(
    "the Silencer's client sends this share of what the other sends",
    quiet / honest_volume,
    "<",
    0.5,
)

# %% [markdown]
# The client followed the protocol to the letter. Nothing in it says that the gradient must be the
# right one.
#
# ## Step 1: a hiding place one can read
#
# The server wants the client to speak a language that it understands. It invents one, with public
# images: a **pilot** $\tilde f$ makes of an image something of the shape of $z$, and a **decoder**
# $\tilde f^{-1}$ turns it back. Both are trained together to lose as little as possible,
#
# $$\min_{\tilde f, \tilde f^{-1}}\; \operatorname{loss}\big(\tilde f^{-1}(\tilde f(x_{pub})),\,
#   x_{pub}\big) .$$
#
# It does not know the client's architecture. But the sizes tell it something: from the size of an
# image to the size of $z$, how far apart are the places the client looks at? The pilot should look
# at the same places. (If it does not, what is decoded later comes out enlarged or shifted.)

# %%
front, rest = fresh()
front = front.to(device)
with torch.no_grad():
    z = front(private.images[:64].to(device)).cpu()
z_shape, rectified = tuple(z.shape[1:]), bool((z >= 0).all())
image_shape = tuple(public.images.shape[1:])

pilot = networks.pilot(image_shape, z_shape, rectified=rectified, seed=seed)
decoder = networks.decoder(z_shape, image_shape, seed=seed)
print(f"image {image_shape}, smashed data {z_shape}")
print(pilot)

# %%
optimizer = torch.optim.Adam([*pilot.parameters(), *decoder.parameters()], lr=1e-3)
draw_public = seeds.generator(seed, "public, by hand")


def public_batch():
    return public.images[torch.randint(len(public), (64,), generator=draw_public)]


for _ in range({"tiny": 5, "quick": 80, "full": 1000}[budget]):
    x = public_batch()
    loss = binary_cross_entropy(decoder(pilot(x)), x)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    by_pilot = decoder(pilot(images))
    by_client = decoder(front.cpu()(images))
titles = {"pilot's z, decoded": by_pilot, "client's z, decoded": by_client}
plots.reconstructions(images, titles)

# %%
error = {name: metrics.mse(x, images).mean().item() for name, x in titles.items()}
blind = metrics.mse(mean_image.expand_as(images), images).mean().item()
claim("the pilot's z is read, with this share of the mean image's error",
      error["pilot's z, decoded"] / blind, "<", 0.5)  # fmt: skip
claim("the client's is not", error["client's z, decoded"] / blind, ">", 1)

# %% [markdown]
# The decoder reads the pilot, also on images it has never seen. It does not read the client, who
# speaks another language. So far nothing has been sent.
#
# ## Step 2: somebody who can tell the two apart
#
# A **critic** gives each tensor a score. It is trained to score the client's $z$ high and the
# pilot's low:
#
# $$\max_{\mathrm{critic}}\; \operatorname{mean} \mathrm{critic}(f(x_{priv}))
#   - \operatorname{mean} \mathrm{critic}(\tilde f(x_{pub})) - \lambda\, \mathrm{GP}$$
#
# where the gradient penalty
# $\mathrm{GP} = \operatorname{mean}\big[(\|\nabla\, \mathrm{critic}\| - 1)^2\big]$,
# taken between the two kinds of data, keeps the critic's slope near 1. Without it the critic would
# be right and useless: a cliff with flat land on both sides, where no gradient says which way to
# go.

# %%
critic = networks.critic(z_shape, seed=seed)
critic_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
mixing = seeds.generator(seed, "mixing, by hand")
with torch.no_grad():
    z = front(private.images[:64])

gaps = []
for _ in range({"tiny": 5, "quick": 40, "full": 200}[budget]):
    with torch.no_grad():
        piloted = pilot(public_batch())[: len(z)]
    share = torch.rand((len(z), *[1] * len(z_shape)), generator=mixing)
    mixed = (share * z + (1 - share) * piloted).requires_grad_()
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    gap = critic(z).mean() - critic(piloted).mean()
    critic_optimizer.zero_grad()
    (10 * penalty - gap).backward()
    critic_optimizer.step()
    gaps.append(gap.item())

claim("the critic learns to tell them apart: the gap of its mean scores grows by",
      gaps[-1] - gaps[0], ">", 1)  # fmt: skip

# %% [markdown]
# ## Step 3: the lie
#
# The gradient that is sent is the critic's own, $\nabla_z \operatorname{mean} \mathrm{critic}(z)$.
# A client that follows it down makes $z$ that the critic takes for the pilot's. Look at one step:
# send it, let the client learn, and score the same images again.
#
# **Try it.** Write the message before you see it. (Nothing below needs it.)


# %%
from sltools.exercises import check


def my_lie(critic, z):  # a network and (B, C, H, W), to a tensor of the shape of z
    # Hint: z comes from the wire without a graph; z.detach().requires_grad_() starts one.
    raise NotImplementedError("your code here")


check("09.lie", my_lie)


# %%
taught = protocol.adam(front.parameters())
z = front(private.images[:64])
heard = z.detach().requires_grad_()  # all that the server has of z
(lie,) = torch.autograd.grad(critic(heard).mean(), heard)
before = critic(heard).mean().item()
for _ in range(3):
    taught.zero_grad()
    front(private.images[:64]).backward(lie)  # the client's own work, three steps of it
    taught.step()
with torch.no_grad():
    after = critic(front(private.images[:64])).mean().item()
print("the lie has the shape of z, as an honest gradient has:", lie.shape == z.shape)
claim("a few steps lower the critic's score of the client", after, "<", before)

# %% [markdown]
# ## The attack as a server
#
# The library does these three steps at every message. `HijackingServer` is a `Server`: it even
# trains its own layers on the task, so that the service works. It overrides one payload.
#
# We let it train with a client and stop now and then to look at ten images that neither party
# trains on. A client that is asked for an inference sends $z$; the server decodes it.
#
# The client has brought three **detectors**, which we look at later. (They sit on a panel, so that
# one training serves all three. Only one of them ever sends something, and all pass on the rest.)
#
# Before you run it: what share of the mean image's error will the hijacker have in the end?

# %%
guess_hijacked = None  # your guess; above 1 is worse than the mean image


# %%
class Panel:
    """Several detectors on one client. Only SplitGuard sends batches of its own."""

    def __init__(self, number):
        own = models.for_images(private.images.shape, seeds.derive(number, "SplitOut's network"))
        warmup, classes = {"tiny": 2, "quick": 20, "full": 50}[budget], len(source.classes)
        self.members = {
            "SplitGuard": SplitGuard(0.2, warmup, classes=classes, seed=number),
            "Scrutinizer": Scrutinizer(warmup),
            "SplitOut": SplitOut(own, private, share=1.0, epochs=3, seed=number),
        }

    def probe(self, labels):
        return self.members["SplitGuard"].probe(labels)

    def watch(self, *seen, probe):
        for member in self.members.values():
            member.watch(*seen, probe=probe)


def guarded(number, make_server):
    """A client with a panel, and the server of its choice."""
    front, rest = fresh(number)
    return protocol.Client(front, detector=Panel(number)), make_server(rest)


thorough = Hijacking(seed=seed, warmup_steps=10 if budget == "tiny" else 100)


def hijacker(settings):
    return lambda rest: HijackingServer(rest, public.images, settings)


client, server = guarded(seed, hijacker(thorough))
rounds, epochs = {"tiny": (2, 1), "quick": (7, 2), "full": (10, 2)}[budget]
snapshots, steps, curve = [], [], []
for number in range(rounds):
    session = protocol.train(
        client, server, private, epochs=epochs, seed=seeds.derive(seed, str(number)), device=device
    )
    snapshots.append(server.invert(session.observe(images)).inputs.cpu())
    found = server.invert(session.observe(unseen)).inputs.cpu()
    steps.append(server.steps)
    curve.append(metrics.mse(found, unseen).mean().item())
snapshots = torch.stack(snapshots)


# %%
def flat(values):
    return [metrics.mse(values.expand_as(unseen), unseen).mean().item()] * len(steps)


baselines = {"mean image": flat(mean_image), "blank image": flat(torch.zeros(1, *image_shape))}
plots.lines(
    steps, {"hijacking": curve} | baselines, "batches seen", "MSE on unseen images", log=True
)

print("looked after", ", ".join(map(str, steps)), "batches")
claim("MSE on unseen images at the end, as a share of the mean image's",
      curve[-1] / baselines["mean image"][0], "<", 0.5)  # fmt: skip
claim("and of that at the first look", curve[-1] / curve[0], "<", 1)
compare(guess_hijacked, curve[-1] / baselines["mean image"][0], "share of the mean image's error")

# %% [markdown]
# Choose an image, and see the client being led.


# %%
def draw(image):
    return plots.over_time(snapshots, steps, images, image)


widgets.show(draw, {"image": 3}, image=(0, len(images) - 1))

# %% [markdown]
# Without the slider: what is decoded first is a grey blur; the shape comes next, the contrast last.
#
# And the task? The client might ask how well the service works. Compare with a client of the same
# seed that was trained by an honest server for as long.

# %%
honest = protocol.train(*fresh(), private, epochs=rounds * epochs, seed=seed, device=device)
works, should = session.accuracy(source.test), honest.accuracy(source.test)
claim("the hijacked service has an accuracy of", works, ">", 0.8)
claim("which is less than after honest training by", should - works, ">", 0)

# %% [markdown]
# A client that looks at the accuracy alone sees a service that works, if not quite as well. The
# server's layers have learnt the task *on the pilot's language*: what one can read images from, one
# can also classify.
#
# ## Recorded: MNIST
#
# The same attack on MNIST: half of the training images private, the other half public, three
# victims with three attackers. It takes minutes, so it is recorded.

# %%
recorded = json.loads((lessons.course() / "results" / "hijacking_mnist.json").read_text())
kept = np.load(lessons.course() / "results" / "hijacking_mnist.npz")
print("recorded with:", recorded["command"])
runs = recorded["runs"]
shorter = min(len(run["steps"]) for run in runs)
series = {f"victim {run['seed']}": run["validation"]["attack"][:shorter] for run in runs} | {
    "mean image": [runs[0]["validation"]["mean image"]] * shorter
}
plots.lines(runs[0]["steps"][:shorter], series, "batches seen", "MSE (recorded)", log=True)

# %%
truth, last = torch.from_numpy(kept["truth"]), torch.from_numpy(kept["inputs"])[:, -1]
plots.reconstructions(
    truth, {f"victim {run['seed']}": x for run, x in zip(runs, last, strict=True)}
)

# %%
final = [run["validation"]["attack"][-1] for run in runs]
print("MSE on 500 images that nobody trained on, each victim:", [f"{value:.4f}" for value in final])
own = [run["private"]["attack"][-1] for run in runs]
print("MSE on 500 of the client's own training images:", [f"{value:.4f}" for value in own])
print(f"mean image: {runs[0]['validation']['mean image']:.4f}")
print("test accuracy of the service:", [f"{run['accuracy']:.1%}" for run in runs])
claim("MSE on images that nobody trained on, all victims", final, "<", 0.008)

# %% [markdown]
# The authors' notebook ends at 0.0193 on MNIST, with pixels from −1 to 1: a squared error is four
# times as large there, so this is 0.0048 on our scale, for a deeper client and after 9,500 batches.
# Nobody needed the client's weights, its architecture or a label.
#
# This was the cut after `pool1`. The same attack against clients that keep the second pooling to
# themselves, too, and one pass over their images:

# %%
deeper = json.loads((lessons.course() / "results" / "hijacking_mnist_pool2.json").read_text())
print("recorded with:", deeper["command"])
one_pass = deeper["runs"][0]["steps"][-1]
deep = [run["validation"]["attack"][-1] for run in deeper["runs"]]
shallow = [run["validation"]["attack"][run["steps"].index(one_pass)] for run in runs]
print(f"MSE after {one_pass} batches, cut after pool2:", [f"{value:.4f}" for value in deep])
print(f"MSE after {one_pass} batches, cut after pool1:", [f"{value:.4f}" for value in shallow])
print(f"mean image: {deeper['runs'][0]['validation']['mean image']:.4f}")
claim("least MSE after pool2, beside the greatest after pool1", min(deep), ">", max(shallow))
worse = sum(value > deeper["runs"][0]["validation"]["mean image"] for value in deep)
print(f"cut after pool2, worse than the mean image: {worse} of {len(deep)}")

# %% [markdown]
# So after one pass, cut after `pool2`, the attack has mostly failed.
#
# ## Can the client notice?
#
# An honest gradient depends on the **labels**, and it gets smaller and steadier as the task is
# learnt. The critic's gradient knows no labels. Three detectors use this, in three ways:
#
# * **SplitGuard** now and then sends a batch with false labels, a **probe**. An honest server
#   answers with a gradient of another size and direction; a hijacker does not care.
# * The **gradients scrutinizer** compares the gradients of a batch two by two. Those of one class
#   should be alike, those of two classes should not.
# * **SplitOut** trains a whole network of its own for a moment, remembers what gradients of the
#   first layer look like, and calls out what does not.
#
# **Try it.** The second idea takes five lines: the mean cosine of the gradients of pairs of one
# label, minus that of pairs of two.


# %%
def my_label_gap(gradients, labels):  # (B, C, H, W) and (B,), to one number
    # Hint: torch's normalize(gradients.flatten(1)) has rows of length 1. No sample is its own pair.
    raise NotImplementedError("your code here")


check("09.gap", my_label_gap)

# %% [markdown]
# Each gives a score, where more is more suspicious, and an alarm above a limit, its **threshold**.
# Here are
# servers to judge: honest ones, hijackers, and honest-but-curious ones, who run *UnSplit* on what
# they receive while they train, and send what an honest server sends. The training is short, so
# SplitGuard probes more often here than published, and SplitOut practises on all of the client's
# images for three epochs. (It needs gradients to compare with: the cell says how many it has.)
#
# Which share of the honest servers will at least one detector accuse? And which share of the
# hijackers will all three see?

# %%
guess_accused = None  # your guess, 0 to 1
guess_seen = None  # your guess, 0 to 1


# %%
class Curious(protocol.Server):
    """Honest in every message, and attacks each twentieth batch while the client waits."""

    loot = ()

    def reply(self, message):
        if message.kind == "smashed" and message.phase == "training" and message.step % 20 == 0:
            view = Transcript(known_architecture, messages=[message.copy()]).view("server")
            self.loot = (*self.loot, UnSplit(steps=5, seed=seed)(view).inputs)
        return super().reply(message)


known_architecture = honest.transcript.client


def in_haste(number):
    return hijacker(
        Hijacking(seed=number, warmup_steps=thorough.warmup_steps // 2, critic_steps=1, batch=32)
    )


passes = {"tiny": 2, "quick": 7, "full": 20}[budget]
short = budget == "tiny"
clients = {"honest": 2 if short else 5, "curious": 1, "hijacker": 1 if short else 2}
makers = {"honest": lambda n: protocol.Server, "curious": lambda n: Curious, "hijacker": in_haste}

watched, digests = {name: [] for name in clients}, {}
for name, count in clients.items():
    for number in range(seed + 200, seed + 200 + count):  # nothing was tuned on these
        pair = guarded(number, makers[name](number))
        trained = protocol.train(
            *pair, private, epochs=passes, seed=number, device=device,
            record=number == seed + 200 and name != "hijacker",
        )  # fmt: skip
        watched[name].append(pair[0].detector.members)
        if number == seed + 200:
            digests[name] = trained.transcript.digests("client")
watched["hijacker"].append(client.detector.members)  # the long run from above
batches = passes * math.ceil(len(private) / 64)
used = watched["honest"][0]["SplitOut"]
print(f"SplitOut practises on {used.share:.0%} of the client's images, epochs: {used.epochs}; "
      f"it compares with {used.gradients} gradients")  # fmt: skip


# %%
def course(name, detector):
    """The scores of one client, NaN before the first."""
    member = watched[name][0][detector]
    scores = np.full(batches, np.nan)
    for batch, score in zip(member.batches, member.scores, strict=True):
        if batch < batches:
            scores[batch] = score
    return scores


def draw_scores(detector):
    series = {name: course(name, detector) for name in clients}
    series["alarm above"] = np.full(batches, watched["honest"][0][detector].threshold)
    return plots.lines(range(batches), series, "batch", f"score of {detector}")


draw_scores("SplitGuard")

# %%
draw_scores("Scrutinizer")

# %%
draw_scores("SplitOut")

# %% [markdown]
# One client of each kind is a story, not a measurement. Count clients: how many saw an alarm within
# the first batches of their training? With few clients a share says little, so give it the interval
# that would cover the truth in 95 of 100 such studies (Wilson's).


# %%
def wilson(hits, count, z=1.96):
    """The 95% interval of a share."""
    share, width = hits / count, z * z / count
    middle = (share + width / 2) / (1 + width)
    half = z / (1 + width) * math.sqrt(share * (1 - share) / count + width / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def alarmed(members, detector):
    return any(batch < batches for batch in members[detector].alarms)


hits = {
    (name, detector): sum(alarmed(members, detector) for members in several)
    for name, several in watched.items()
    for detector in ("SplitGuard", "Scrutinizer", "SplitOut")
}

# %% tags=["nbval-ignore-output"]
# not compared: near the threshold an alarm may depend on the machine
print(f"clients with an alarm in their first {batches} batches, 95% interval")
for (name, detector), count in hits.items():
    total = len(watched[name])
    low, high = wilson(count, total)
    print(f"{name:10}{detector:13}{count} of {total}   {low:4.0%} to {high:4.0%}")

# %%
seen_by = {name: hits["hijacker", name] for name in ("SplitGuard", "Scrutinizer", "SplitOut")}
claim("hijackers seen by each detector", list(seen_by.values()), "==", len(watched["hijacker"]))
falsely = [hits["honest", name] / len(watched["honest"]) for name in seen_by]
claim("share of honest servers that each accuses", falsely, "<", 0.25)
first_alarms = {
    name: statistics.median(member[name].raised_at or batches for member in watched["hijacker"])
    for name in seen_by
}
claim("first batch with an alarm, median: SplitOut", first_alarms["SplitOut"], "<", 20)
claim("and the other two", [first_alarms[name] for name in ("SplitGuard", "Scrutinizer")], ">", 20)
first_curious, first_honest = watched["curious"][0], watched["honest"][0]
same = all(first_curious[name].scores == first_honest[name].scores for name in first_honest)
print("the curious server's scores are those of the honest one, to the last bit:", same)
assert same or not as_shown
print("messages to the client: all equal:", digests["curious"] == digests["honest"])
assert digests["curious"] == digests["honest"] or device != "cpu"


def share_of(kind, enough):
    """The share of the clients of a kind of which `enough` (any or all) detectors saw an alarm."""
    return statistics.fmean(enough(alarmed(m, d) for d in seen_by) for m in watched[kind])


compare(guess_accused, share_of("honest", any), "share of honest servers accused by one or more")
compare(guess_seen, share_of("hijacker", all), "share of hijackers seen by all three")

# %% [markdown]
# The messages are the reason for the equal scores. A detector computes from what the client
# receives. The messages of a curious server are those of an honest one, bit for bit (see [lesson
# 04](04_inversion_and_stealing.ipynb)), so every detector says the same of both. No better detector
# will change this. A **malicious** server has to send something else, and that can be seen; a
# **curious** one cannot be seen, only be given less.
#
# And an alarm comes after the fact: SplitOut's after ten batches or so, those of the other two
# after thirty or more, and all these the hijacker has had. A client that stops at the alarm keeps
# what it has not sent yet.

# %% [markdown]
# ## Recorded: forty honest clients
#
# Now with enough clients to say something: forty digits clients of an honest server, ten of a
# hijacker, for 15 passes over their images. All seeds are new: thresholds and windows were chosen
# on others. The first column is the share of **batches** with an alarm. The batches of one client
# depend on each other, so the 95% interval counts each client once, and is wide.
#
# Some lines are not in the cells above. *Each batch for itself* is the scrutinizer as we read its
# paper, without our mean over ten batches. *LabelGap* is ours: only the first of the scrutinizer's
# three quantities, by how much the gradients of one class are more alike than those of two.
# *SplitOut as published* practises for one pass over one image in a hundred. Of MNIST's 60,000 that
# makes ten gradients. Here it gets as many; our client has half of the images, so that is about one
# in fifty. Of the digits it would be nearly all, so it stands with MNIST. And there is one more
# hijacker, who gives its gradients the size of honest ones.

# %%
detection = json.loads((lessons.course() / "results" / "detection.json").read_text())
print("recorded with:", detection["command"])
servers = {name: one["servers"] for name, one in detection["studies"].items()}


def rates(name, kind):
    """What each detector found with one kind of server."""
    return servers[name][kind]["detectors"]


for name, study in detection["studies"].items():
    for detector, settings in zip(rates(name, "honest"), study["settings"], strict=True):
        if facts := re.search(r"share=([\d.]+), epochs=(\d+), gradients=(\d+)", settings):
            print(f"{name}: {detector} practises on {float(facts[1]):.1%} of the client's images, "
                  f"epochs: {facts[2]}; it compares with {facts[3]} gradients")  # fmt: skip
for name in servers:
    print(f"\n{name}: false alarms of honest servers   batches (95% interval)   clients")
    for detector, found in rates(name, "honest").items():
        rate, runs = found["batches"], found["runs"]
        interval = f"{rate['rate']:7.2%} ({rate['low']:4.0%} to {rate['high']:4.0%})"
        print(f"{detector:40}{interval:26}{runs['alarms']} of {runs['of']}")

# %%
for name in servers:
    print(f"\n{name}: clients that saw their hijacker    plain     of honest size")
    for detector in rates(name, "honest"):
        plain, sized = (
            rates(name, kind)[detector]["runs"]
            for kind in ("FSHA", "FSHA, gradients of honest size")
        )
        counts = f"{plain['alarms']} of {plain['of']}"
        print(f"{detector:40}{counts:10}{sized['alarms']} of {sized['of']}")
    for kind in ("FSHA", "FSHA, gradients of honest size"):
        ends = sorted(one["mse"] for one in servers[name][kind]["attacker"])
        guess = servers[name][kind]["attacker"][0]["mean_image_mse"]
        print(f"{kind}: MSE median {statistics.median(ends):.4f}, worst {ends[-1]:.4f}, "
              f"mean image {guess:.4f}")  # fmt: skip

# %%
three = ("SplitGuard", "Scrutinizer", "SplitOut")
seen = [rates("digits", "FSHA")[detector]["raised_at"] for detector in three]
witnesses = [sum(batch is not None for batch in run) for run in zip(*seen, strict=True)]
print("of SplitGuard, Scrutinizer and SplitOut, each hijacker was seen by", witnesses)
claim("recorded: witnesses of each hijacker", witnesses, ">=", 2)
alone = rates("digits", "honest")["Scrutinizer, each batch for itself, ½"]["runs"]
assert alone["alarms"] == alone["of"]
accused = rates("mnist", "honest")["SplitOut as published, window 10"]["batches"]
least, most, of = min(accused["alarms"]), max(accused["alarms"]), max(accused["of"])
print(f"SplitOut as published accuses honest servers in {least} to {most} of {of} batches")
claim("recorded: least share of batches", least / of, ">", 0.9)
unseen_attacks = [
    run for one in detection["studies"].values() for run in one["unsplit_is_invisible"]
]
print(
    "UnSplit at work, digests and scores as honest:", [r["equal_digests"] for r in unseen_attacks]
)
assert all(run["equal_digests"] and run["equal_scores"] for run in unseen_attacks)

# %% [markdown]
# * The scrutinizer that judges single batches of 64 accuses **every** honest server sooner or
#   later. The mean over ten batches mends that, and then it misses some hijackers. A detector is
#   two numbers, never one. Whoever reports only how many attackers were caught has reported half.
# * Look at the worst hijacker. On digits some of them fail: their images are no better than the
#   mean image when the training ends. They are counted above as seen, for they lied all the same.
# * SplitOut as published accuses every honest server on MNIST, in more than nine of ten batches. It
#   practises on few batches of a network that has learnt nothing yet. The authors' notebook
#   practises on the first batches of the very training that it then watches, which supposes that
#   the server is honest until then.

# %%
# what `sltools sweep` keeps of this lesson
collected = {
    "hijacking_mse": curve[-1],
    "mean_image_mse": baselines["mean image"][0],
    "accuracy_hijacked": works,
    "accuracy_honest": should,
} | {
    f"alarms_{name}_{detector}": count / len(watched[name])
    for (name, detector), count in hits.items()
}

# %% [markdown]
# **The clinic** can answer: the vendor's server gets the patient's image by changing one message,
# and then a detector at the clinic may see it, early or late, and sometimes accuse the honest.
# Against a vendor that only reads no detector helps, and what remains is to send less.
#
# ## Limitations
#
# * **Public images of the very same kind.** Private and public images are two halves of one data
#   set. With public images of another kind the attack is worse; we did not measure how much.
# * **Our settings are not the authors'.** Their learning rates are a hundred times smaller, their
#   penalty heavier and their clients deeper. Ours let pilot and decoder rehearse before the first
#   reply, and give the critic two steps for each batch. They were tuned on the cut after `pool1`.
# * **The grid helps.** Our pilot takes the client's stride and window from the sizes, supposing
#   that strides are powers of two. A pilot on another grid gave images of the right shape at the
#   wrong scale.
# * **Deep cuts.** After the second pooling the attack takes much longer, and after a dense layer
#   we saw it fail on digits within a few hundred batches. That is not a proof that it cannot.
# * **Few clients** make wide intervals. Read them, not the shares.
# * **The hijacker makes little effort to hide**: one of ours scales its gradients. It could mix the
#   honest gradient into its own, or answer probes honestly once it has learnt to recognise them
#   (*SplitSpy*). Detectors tested on a careless attacker say little about a careful one.
# * **The thresholds** are set by us, for the published code of some detectors decides nothing.
# * **SplitOut depends on how long it practises.** Its three epochs here were chosen after one had
#   failed: with one, on so few images, it takes every later honest gradient for an outlier. See the
#   first suggestion below.
#
# ## Try it
#
# * Give SplitOut `epochs=1`. What becomes of its false alarms, and why?
# * Set `cut = "pool2"`, and give it more rounds. Does the curve still fall?
# * Give the hijacker public images of another kind, for instance `1 - public.images`. What does it
#   reconstruct?
# * Make the server send the mean of the honest gradient and its own. Who notices now, and how much
#   does the attack lose?
# * Hand the hijacker only 20 public images.
# * Use label-private training: cut at two stages and pass `label_private=True` to the server.
#
# ## Review questions
#
# **1.** Which message makes this attack possible, and why can the client not simply refuse it?
#
# <details><summary>Answer</summary>
#
# The gradient with respect to $z$. It is the only thing a vanilla client learns from: without it
# its layers stay as they are. The client cannot compute it itself, for that would take the server's
# layers.
#
# </details>
#
# **2.** Why does the decoder, trained on public images and the pilot only, work on the private
# images of a client it has never seen?
#
# <details><summary>Answer</summary>
#
# Because the client has been steered until its smashed data have the distribution of the pilot's.
# The decoder inverts what comes from that distribution, whoever made it. As long as the two differ,
# it fails, as the figure of step 1 shows.
#
# </details>
#
# **3.** A vendor offers a detector that finds "all attacks on split learning, including UnSplit".
# What do you answer?
#
# <details><summary>Answer</summary>
#
# UnSplit changes no message. Whatever the detector computes from the messages is the same with and
# without the attack. If it raises an alarm, it would also raise one on the honest server; that is a
# false alarm. Only attacks that send something else can be found.
#
# </details>
#
# ## Further reading
#
# * D. Pasquini, G. Ateniese, M. Bernaschi: *Unleashing the Tiger: Inference Attacks on Split
#   Learning*, CCS 2021. [arXiv 2012.02670](https://arxiv.org/abs/2012.02670). The attack.
# * E. Erdoğan, A. Küpçü, A. E. Çiçek: *SplitGuard: Detecting and Mitigating Training-Hijacking
#   Attacks in Split Learning*, WPES 2022. [arXiv 2108.09052](https://arxiv.org/abs/2108.09052).
# * E. Erdoğan, U. Tekşen, M. S. Çeliktenyıldız, A. Küpçü, A. E. Çiçek: *SplitOut: Out-of-the-Box
#   Training-Hijacking Detection in Split Learning via Outlier Detection*, CANS 2024.
#   [arXiv 2302.08618](https://arxiv.org/abs/2302.08618).
# * J. Fu and others: *Focusing on Pinocchio's Nose: A Gradients Scrutinizer to Thwart
#   Split-Learning Hijacking Attacks Using Intrinsic Attributes*, NDSS 2023. The scrutinizer, and
#   SplitSpy.
# * I. Gulrajani and others: *Improved Training of Wasserstein GANs*, NeurIPS 2017.
#   [arXiv 1704.00028](https://arxiv.org/abs/1704.00028). The gradient penalty.
#
# **Next:** [lesson 10](10_attackers_with_data.ipynb), on a server that does not lie and has images
# of its own.
