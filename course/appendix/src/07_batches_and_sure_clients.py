# ---
# jupyter:
#   sltools:
#     minutes: 25
#     alternative: {seed: 1}
# ---

# %% [markdown]
# # Large batches, and clients that have become sure
#
# [Lesson 07](../07_label_inference.ipynb) solves for a whole batch while it is small, and reads the
# wire until the client grows sure. Here you see what is left of a leaked gradient beyond the rank
# of the features, and what a server can still do when the gradients have faded.
#
# **Time.** About 25 minutes (estimated).

# %% [markdown]
# ## Settings

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim, clone and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda
# %%
import json
import statistics
import textwrap
from functools import partial

import torch
from torch.nn.functional import normalize

from sltools import data, lessons, metrics, models, plots, protocol, widgets
from sltools.attacks import LabelInference
from sltools.claims import Claims, compare
from sltools.errors import AttackError
from sltools.experiments import cluster_features, head_cut, record_epoch

torch.set_num_threads(1)  # small batches are faster so, whatever the number of cores
as_shown = (dataset, budget, seed, device) == ("digits", "quick", 0, "cpu")
claim = Claims(as_shown)
heavy = dataset == "cifar10"  # its network takes much more time

count = {"tiny": 320, "quick": 320 if heavy else 1500, "full": 6000}[budget]
victims = {"tiny": 1, "quick": 1 if heavy else 3, "full": 5}[budget]
online = {"tiny": 40, "quick": 350, "full": 1400}[budget]  # batches of one, from the first step on
at_rest = {"tiny": 30, "quick": 100, "full": 300}[budget]  # batches of one, at a moment of training
watched = {"tiny": 320, "quick": 320 if heavy else 640, "full": 1280}[budget]  # samples clustered
epochs = {
    "tiny": [0, 1, 2],
    "quick": [0, 1, 2] if heavy else [0, 1, 3, 10, 30],
    "full": [0, 1, 2, 3, 5, 10, 20, 30, 40, 60],
}[budget]

source = data.load(dataset)
train, classes = source.train[:count], len(source.classes)
shape = train.images.shape
seeds = [seed * victims + number for number in range(victims)]
print(f"training: {train}, {classes} classes, {victims} victims")

still = partial(torch.optim.SGD, lr=0.0)  # an optimiser that changes nothing
HEADS = [1, 2]  # layers in the client's head
blind = metrics.score_labels(train.labels, classes, guess=torch.zeros_like(train.labels))


# %%
record = partial(record_epoch, seed=seed, device=device)


def recorded_at_rest(net, layers):
    """Record what the server gets of a client that stands still, in batches of 64."""
    head = head_cut(net, layers)
    transcript, truth = record(net, train[:watched], head, batch_size=64, optimizer=still)
    return transcript.view("server", grants=["anchor_labels"]), truth


fresh, trained = models.for_images(shape, seeds[0]), models.for_images(shape, seeds[0])
front, middle, head = models.cut(trained, at=("pool1", head_cut(trained)))
client, server = protocol.Client(front, head), protocol.Server(middle, label_private=True)
moments = {(0, layers): recorded_at_rest(trained, layers) for layers in HEADS}
for before, epoch in zip(epochs, epochs[1:], strict=False):
    settings = {"epochs": epoch - before, "seed": seeds[0], "device": device}
    protocol.train(client, server, train, **settings)
    moments |= {(epoch, layers): recorded_at_rest(trained, layers) for layers in HEADS}

# %% [markdown]
# ## Larger batches, beyond the closed form
#
# With the granted $G = \tfrac1B (P - Y)^\top U$ and the known $U$ ($B$ rows), the closed form gives
# $B\,(G\,U^+)^\top = P - Y$ while $\mathrm{rank}(U) = B$. Now let the batch grow.

# %%
guess_untrained = None  # your guess: the share found in 256 samples of an untrained client


# %%
def closed_form(U, G):
    """Return a label for each row of U (B, D), from the gradient G (K, D) of the weights."""
    U, G = U.double().cpu(), G.double().cpu()
    return (len(U) * (G @ torch.linalg.pinv(U)).T).argmin(1)


sizes = [8, 128] if budget == "tiny" else [4, 8, 16, 32, 48, 64, 96, 128, 256]
solved = {state: [] for state in ("untrained", "trained")}
ranks = {state: [] for state in solved}
for state, net in {"untrained": fresh, "trained": trained}.items():
    for size in sizes:
        batch, its_labels = record(net, train[:size], batch_size=size, optimizer=still)
        leak = batch.view("server", grants=["head_weight_gradients"])
        U, (G,) = leak.features, leak.head_weight_gradients
        solved[state].append((closed_form(U, G) == its_labels).double().mean().item())
        ranks[state].append(int(torch.linalg.matrix_rank(U.cpu())))

full_rank = {
    state: [
        share for size, rank, share in zip(sizes, ranks[state], shares, strict=True) if rank == size
    ]
    for state, shares in solved.items()
}
compare(guess_untrained, solved["untrained"][-1], "share found in the largest batch, untrained")
claim("rank(U) = B, untrained client, labels found", full_rank["untrained"], "==", 1)
claim("rank(U) = B, trained client, labels found", full_rank["trained"], ">", 0.75)
claim("256 samples, untrained client", solved["untrained"][-1], ">", 0.9)
claim("256 samples, trained client", solved["trained"][-1], "<", 0.6)
# %% tags=["nbval-ignore-output"]
# not compared: ranks of features depend on rounding
print(f"{'batch':>6}{'rank, untrained':>18}{'found':>8}{'rank, trained':>16}{'found':>8}")
columns = [values[state] for state in solved for values in (ranks, solved)]
for size, *four in zip(sizes, *columns, strict=True):
    print("{:6}{:18}{:8.1%}{:16}{:8.1%}".format(size, *four))

# %%
plots.lines(
    sizes,
    {
        "untrained client": solved["untrained"],
        "trained client": solved["trained"],
        "rank / batch size": torch.tensor(ranks["trained"]) / torch.tensor(sizes),
    },
    "batch size",
    "share of labels found",
)

# %% [markdown]
# Up to the rank the algebra is exact. (Where labels of a trained client are lost all the same, it
# is float32: the rows of $P - Y$ of which the client is surest are smaller than the rounding of
# $G$.) Beyond the rank, $U U^+$ is no longer the identity but a **projection** $\Pi$ onto what
# linear functions of $u$ can express, and the server gets $\Pi\,(P - Y)$. It is worth a second look
# why the two clients differ.
#
# * **Untrained:** $P$ is nearly constant, so $\Pi\,(P - Y)$ is, up to sign and a constant, the
#   *least-squares fit of the labels by the features*: a linear classifier, fitted to labels that
#   the server has never seen. Such fits are good as long as samples are not too many.
# * **Trained:** $P - Y$ is nearly zero but for a few samples that the client doubts, and the
#   projection smears these few over all rows.
#
# The library does not return such half-answers. It says what is the matter:

# %% tags=["nbval-ignore-output"]
# not compared: ranks of features depend on rounding
try:
    LabelInference("closed-form")(leak)
except AttackError as refusal:
    print(textwrap.fill(f"AttackError: {refusal}", 96))

# %% [markdown]
# **Try it.** Counts remain. Of a batch, $B\;\partial L/\partial b$ is for each class $c$ the sum of
# the batch's probabilities of $c$, less the number of samples with label $c$. From it, return two
# tensors of shape $(K,)$. The first says for each class which number its count is certainly not
# below, for no sum of probabilities is negative. The second estimates the counts of an untrained
# client, whose probabilities of each class add up to about $B/K$. All are whole numbers.


# %%
from sltools.exercises import check


def count_labels(gradient, batch):  # dL/db, of shape (K,), and B
    # Hint: start from -batch * gradient; round the first up, the second to the nearest.
    raise NotImplementedError("your code here")


check("07.counts", count_labels)

# %% [markdown]
# ## Directions at every moment
#
# The lesson shows the directions of $\partial L/\partial u$ after one epoch and after the last.
# Choose a moment, and how many layers the client keeps:


# %%
def plane(gradients):
    """Project the directions of gradients (N, D) to their two main axes: (N, 2)."""
    directions = normalize(gradients.flatten(1).double().cpu(), dim=1)
    centred = directions - directions.mean(0)
    return centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T


def draw(epochs, layers):
    moment, its_labels = moments[epochs, layers]
    return plots.scatter(plane(moment.feature_gradients), its_labels, source.classes)


widgets.show(draw, start={"epochs": epochs[-1], "layers": HEADS[-1]}, epochs=epochs, layers=HEADS)

# %% [markdown]
# Without the widget: this is the last moment, with two layers. With one layer the groups are dots
# at first and become smears that meet; with two layers they are smears soon. There is no moment at
# which they all vanish at once.

# %% [markdown]
# ## Gradients, or features?
#
# Does an attacker need the gradient at all when it fades? The server has another tensor with a row
# for each sample, and computed it itself: the features $u$. A trained network sorts its features by
# class, for that is what the head will need. So cluster *them*, in the same way.

# %%
guess_features = None  # your guess: after the last epoch, the share found by clustering features

# %%
from_features = {
    key: metrics.cluster_accuracy(cluster_features(moment, classes), its_labels)
    for key, (moment, its_labels) in moments.items()
}
from_gradients = {
    key: metrics.cluster_accuracy(
        LabelInference("wire", seed=seeds[0])(moment).clusters, its_labels
    )
    for key, (moment, its_labels) in moments.items()
}
sources = {}
for layers in HEADS:
    name = f"{layers} layer{'s' if layers > 1 else ''}"
    sources[f"{name}, gradients"] = [from_gradients[e, layers] for e in epochs]
    sources[f"{name}, features"] = [from_features[e, layers] for e in epochs]
plots.lines(epochs, sources, "epochs", "share found, best names")
# %%
late_key = (epochs[-1], 2)
compare(guess_features, from_features[late_key], "share found by clustering features, 2 layers")
claim("untrained, gradients above features", from_gradients[0, 2], ">", from_features[0, 2])
claim("trained, features above gradients", from_features[late_key], ">", from_gradients[late_key])

# %% tags=["nbval-ignore-output"]
# not compared: late accuracies depend on rounding in the victim's training
for name, values in sources.items():
    print(f"{name:22}" + "".join(f"{value:8.1%}" for value in values))

# %% [markdown]
# So a sure client does not hide its labels from its server. What fades is the *gradients'* voice.
# The features have learnt to speak by then, in label-private training as in any other: a network
# that can classify has sorted its inputs. No rule about what the client returns can change that.

# %% [markdown]
# ## A longer recording
#
# That is not the end. A longer recording of the gradients, with three heads and several victims:


# %%
recorded = json.loads((lessons.course() / "results/label_inference.json").read_text())


def medians(runs):
    """Return the median over the recorded victims, at each point."""
    return torch.tensor(runs).double().median(0).values


def layers_of(number):
    """Name a head by its number of layers."""
    return f"{number} layer{'s' if int(number) > 1 else ''}"


def faded(dataset, shown):
    """Draw the recorded accuracy over the epochs, for each head."""
    result = recorded["results"][dataset]["moments"]
    series = {layers_of(number): medians(runs) for number, runs in result[shown].items()}
    blindly = statistics.median(result["random_partition"])
    series["random clusters"] = torch.full((len(result["epochs"]),), blindly)
    if shown == "anchors":
        by_anchor = statistics.median(result["nearest_anchor"])
        series["nearest anchor"] = torch.full((len(result["epochs"]),), by_anchor)
    series["accuracy on test images"] = medians(result["test_accuracy"])
    ylabel = f"share found, {shown} (recorded, {dataset})"
    return plots.lines(result["epochs"], series, "epochs", ylabel)


data_sets = list(recorded["results"])
widgets.show(faded, dataset=data_sets, shown=["anchors", "clusters"])

# %%
for name in data_sets:
    result = recorded["results"][name]["moments"]
    for number in result["anchors"]:
        clusters, anchors = (
            medians(result[shown][number])[-1].item() for shown in ("clusters", "anchors")
        )
        print(f"{name:8}{result['epochs'][-1]} epochs, {layers_of(number):10}", end="")
        print(f"clusters {clusters:6.1%}, named by anchors {anchors:6.1%}")
    random_clusters = statistics.median(result["random_partition"])
    print(f"{name:8}random clusters, best names {random_clusters:6.1%}")
    by_anchor = statistics.median(result["nearest_anchor"])
    print(f"{name:8}nearest anchor, no gradient {by_anchor:6.1%}")
    lost = [
        number for number in result["anchors"] if medians(result["anchors"][number])[-1] < by_anchor
    ]
    print(f"{name:8}heads whose names end below it:", ", ".join(map(layers_of, lost)) or "none")

# %% [markdown]
# Without the widget: the printed lines are the ends of the curves. Mind the baseline of the nearest
# anchor: where the names end below it, the gradients have come to mislead an attacker who would do
# better without them.
#
# A deeper head blurs sooner, because between the logits and $u$ now stand further weights *and* the
# pattern of ReLU units that are on, which differs from sample to sample. But it does not begin
# better: an untrained client gives itself away with every head.
# %% [markdown]
# ## What fading is worth
#
#
# The server saw the **first** epoch of the same samples. What it learnt then does not become untrue
# because the client has become sure since. But can it recognise a sample when it comes again, in
# another order? It has $z$ of both times. The client's first layers go on learning: $z$ grows and
# drifts. But growing and drifting concern all samples much alike. So let the server take away the
# mean $z$ of each time, infer labels early, and late look up the early $z$ whose *direction* is
# nearest.
#
# And a sample that it never saw early? To find out, we look up the nearest early $z$ of *another*
# sample, and take over its label.
# %%
guess_carried = None  # your guess: the share of late samples whose early label is recognised

# %%
early, early_truth = moments[epochs[1], 1]
late_view, late_truth = moments[epochs[-1], 1]
shuffled = torch.randperm(len(late_truth), generator=torch.Generator().manual_seed(seed))
early_labels = LabelInference("wire", seed=seeds[0])(early).labels


def z_directions(view):
    """Return the direction of each sample's z from the mean of its time: (N, D)."""
    z = view.smashed.flatten(1).cpu()
    return normalize(z - z.mean(0), dim=1)


likeness = z_directions(late_view)[shuffled] @ z_directions(early).T  # not in the early order
nearest = likeness.argmax(1)
other = likeness.scatter(1, shuffled[:, None], -1).argmax(1)  # the sample itself left out

answers = {
    "labels carried over from the same sample": early_labels[nearest],
    "labels taken over from another sample": early_labels[other],
    "late attack alone": LabelInference("wire", seed=seeds[0])(late_view).labels[shuffled],
}
given = ((late_view.anchor_labels >= 0) | (early.anchor_labels >= 0)).cpu()[shuffled]
carried = {
    name: metrics.label_accuracy(a[~given], late_truth[shuffled][~given])
    for name, a in answers.items()
}
recognised = (nearest == shuffled).double().mean().item()

same, another, alone = carried.values()
compare(guess_carried, same, "share of labels carried over from the same sample")
claim("samples recognised", recognised, ">", 0.95)
claim("labels carried over", same, ">", 0.98)
claim("labels taken over from others", another, ">", 0.85)
claim("always the majority", blind.majority, "<", 0.15)
# %% tags=["nbval-ignore-output"]
# not compared: the last digit may differ between machines
print(f"samples recognised from epoch {epochs[1]} to epoch {epochs[-1]}: {recognised:.1%}")
for name, share in carried.items():
    print(f"{name:42}{share:8.1%}")
print(f"{'always the majority':42}{blind.majority:8.1%}")

# %% [markdown]
# Where the first of these shares is high, a client that has become sure locks an empty room. The
# server has the early labels, and with them what it otherwise lacks: *labelled data* of the
# client's own kind.

# %% [markdown]
# **Back to** [lesson 07](../07_label_inference.ipynb).
