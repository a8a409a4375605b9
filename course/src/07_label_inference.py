# ---
# jupyter:
#   sltools:
#     minutes: 55
# ---

# %% [markdown]
# # Reading labels that are never sent
#
# The clinic now keeps its diagnoses as well: images, labels and the last layer stay with it, and
# the vendor runs the layers between. Its question: does the vendor learn a patient's diagnosis from
# what is left to send?
#
# **Objectives.** After this lesson you can
#
# * find the label in each gradient of a last layer: by its logits, its weights, its inputs;
# * run the label inference of *UnSplit* as published, and say what it is granted;
# * derive the exact condition under which it is right, and check it on every sample;
# * say what becomes of one leaked gradient when the batch outgrows the algebra of lesson 02;
# * infer labels from what the protocol **really** sends, by clustering directions, and name the
#   clusters with one known label per class;
# * explain when that stops working, with a picture and with a formula.
#
# **Prerequisites.** [Lesson 01](01_split_learning.ipynb) for the label-private form,
# [lesson 02](02_threat_model.ipynb) for views, grants and the closed form. Softmax and
# cross-entropy.
#
# **Time.** About 55 minutes (estimated). The appendix goes deeper:
# [does a second layer help?](appendix/07_two_layers.ipynb);
# [large batches and sure clients](appendix/07_batches_and_sure_clients.ipynb).

# %% [markdown]
# ## Threat card
#
# There are two attackers in this lesson, granted very different things. The first one breaks a
# protocol that sends more than ours does. What is sent too much we call the **leak**.
#
# | | label inference by matching, as published in *UnSplit* |
# |---|---|
# | **who** | an honest-but-curious server in label-private split learning |
# | **sees** | $z$; the features $u$, which it sent itself; $\partial L/\partial u$ |
# | **may change** | nothing: it follows the protocol |
# | **wants** | the label of every training sample |
# | **knows** | the shape of the client's head, without its weights |
# | **does not need** | the client's weights, images, labels, data of its own |
# | **is granted** | `head_weight_gradients`, **beyond the wire**: the client never sends them |
# | **simulated here** | both parties in one process; batches of one; the leak, by a grant |
# | **stops working** | without the leak; against a sure client, unless the clone learnt along |
# | **answered by** | keeping those gradients at home, as the protocol has it |
#
# The second attacker takes what the protocol really sends. Where it differs:
#
# | | label inference by clustering, on the wire |
# |---|---|
# | **wants** | which samples share a label; then, which label it is |
# | **knows** | the number of classes |
# | **is granted** | nothing for the clusters; for names `anchor_labels`, one label per class |
# | **stops working** | on gradients of a client that has become sure; sooner with a deeper head |
# | **answered by** | noise on $\partial L/\partial u$ (Marvell); randomised labels |

# %%
from sltools import plots

plots.exchange(
    {"client": "images, labels, first layers, head", "server": "the layers between"},
    [
        ("client", "server", "z, the smashed data"),
        ("server", "client", "u, the features"),
        ("client", "client", "the head: loss L; dL/dW of its weights W stays at home"),
        ("client", "server", "dL/du, computed from the labels"),
        ("server", "server", "published attack: needs dL/dW, which is not here"),
        ("server", "server", "wire attack: dL/du points one way for each label"),
        ("server", "client", "dL/dz, the cut-layer gradient"),
    ],
)

# %% [markdown]
# ## Settings
#
# Where the first cut lies changes nothing in $u$ and $\partial L/\partial u$; we put it after
# `pool1`. What matters is where the client's **head** begins. The digits stand in for the clinic's
# images, their classes for diagnoses.

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim, clone and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %%
import statistics
import textwrap
from functools import partial

import torch
from torch.nn.functional import cross_entropy, normalize, one_hot

from sltools import data, metrics, models, protocol
from sltools.attacks import LabelInference
from sltools.attacks.labels import matching_condition, matching_distances
from sltools.claims import Claims, compare
from sltools.errors import NotObservable
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

# %% [markdown]
# ## Where the label is
#
# Let the head be a single linear layer, as in the published attack. For one sample it computes
# from the features $u$ (a column of $D$ numbers) the logits $a = Wu + b$, the probabilities
# $p = \mathrm{softmax}(a)$ and the loss $L = -\log p_y$, where $y$ is the label.
#
# **Step 1, the logits.** Written out, $L = -a_y + \log \sum_k e^{a_k}$. So
# $\partial L/\partial a_c = p_c$ for $c \ne y$, and $p_y - 1$ for the label. With $e_y$ for the
# vector that is 1 at $y$ and 0 elsewhere:
#
# $$\frac{\partial L}{\partial a} = p - e_y .$$
#
# **Step 2, the rest by the chain rule.** As $a = Wu + b$,
#
# $$\frac{\partial L}{\partial b} = p - e_y, \qquad
# \frac{\partial L}{\partial W} = (p - e_y)\,u^\top, \qquad
# \frac{\partial L}{\partial u} = W^\top (p - e_y) .$$
#
# A probability lies between 0 and 1, so $p - e_y$ has exactly **one negative entry, at the label**.
# Whoever gets at $p - e_y$ has the label. The three differ in what it is multiplied by: nothing,
# $u$ (which the server knows) or $W$ (which it does not). And only the third is ever sent.

# %%
net = models.for_images(shape, seeds[0])
stages = models.stages(net)
body, head = models.cut(net, stages[-2])  # everything before the last layer, and that layer

u = body(train.images[:1]).detach().requires_grad_()
y = train.labels[:1]
logits = head(u)
wanted = [logits, *head.parameters(), u]
by_logits, by_W, by_b, by_u = torch.autograd.grad(cross_entropy(logits, y), wanted)

residual = logits.softmax(1).detach() - one_hot(y, classes)  # p - e_y
W = head.get_parameter(f"{stages[-1]}.weight").detach()
formulas = {
    "dL/da = p - e_y": by_logits - residual,
    "dL/db = p - e_y": by_b - residual[0],
    "dL/dW = (p - e_y) u^T": by_W - residual.T @ u.detach(),
    "dL/du = W^T (p - e_y)": by_u - residual @ W,
}
for formula, gap in formulas.items():
    print(f"{formula}, to within 0.000001:", bool((gap.abs() < 1e-6).all()))
print("negative entries of p - e_y:", int((residual < 0).sum()))
print("at the label:", residual.argmin().item() == y.item())

# %%
heights = {name: round(v, 3) for name, v in zip(source.classes, residual[0].tolist(), strict=True)}
plots.bars(heights, f"p - e_y of an image of class {source.classes[y.item()]}")

# %% [markdown]
# **Try it.** Suppose that the server was given $\partial L/\partial b$ of one sample. Write the
# function that returns its label. (Nothing below needs it.)


# %%
from sltools.exercises import check


def label_from_bias(gradient):  # p - e_y, of shape (K,), to a whole number
    # Hint: all entries are probabilities, but at one of them 1 was taken away.
    raise NotImplementedError("your code here")


check("07.bias", label_from_bias)

# %% [markdown]
# ## The wire, and one thing that is not on it
#
# `record` trains a label-private network for one epoch on some samples and keeps every message.
# A head of two layers means: the client holds the last two layers with weights, and what stands
# between them. The labels come from the client's log, which no view shows; they are for scoring.

# %%
record = partial(record_epoch, seed=seed, device=device)
transcript, truth = record(models.for_images(shape, seeds[0]), train[:online], seed=seeds[0])
for message in transcript.messages[:4]:
    print(message)
print()
try:
    transcript.view("server").head_weight_gradients
except NotObservable as refusal:
    print(textwrap.fill(f"NotObservable: {refusal}", 96))

# %% [markdown]
# Four messages for each batch, and no gradient of a weight among them. To study the attack as
# published, we grant it what its code reads.

# %%
view = transcript.view("server", grants=["head_weight_gradients"])
print(view)

# %% [markdown]
# ## Attack 2, as published
#
# The server makes a **clone** of the head: the same shape, random weights. It feeds the clone the
# same $u$ that it sent to the client, and tries each label: *if the label were $c$, what would the
# gradient of my clone's weights be?* It guesses the label whose gradient comes closest to the
# client's. For the first sample, by hand:

# %%
clone = view.head_architecture.build(seeds[0])
u, target = view.payloads("features")[0].cpu(), view.head_weight_gradients[0].cpu()

distances = {}
for label, name in enumerate(source.classes):
    loss = cross_entropy(clone(u), torch.tensor([label]))
    (candidate,) = torch.autograd.grad(loss, clone[-1].weight)
    distances[name] = (candidate - target).square().mean().item()

nearest, correct = min(distances, key=distances.get), source.classes[int(truth[0])]
print(f"nearest: class {nearest}; the client's label: class {correct}")
first, second = sorted(distances.values())[:2]
claim("the next label's distance, in those of the nearest", second / first, ">", 400)
by_library = matching_distances(clone, u, target).tolist()
assert torch.allclose(torch.tensor(by_library), torch.tensor(list(distances.values())), rtol=1e-3)

# %% [markdown]
# The published attack does this from the very first step of the training, with batches of one.
# After each guess the clone takes a training step *on the label it has just guessed*: it is
# **co-trained**. For comparison we also keep a clone **frozen**, as it was made.


# %%
def published(view, co_trained):
    """Guess the label of each batch of one; also return what the clone believed before (N, K)."""
    clone = view.head_architecture.build(seeds[0])
    optimizer = protocol.adam(clone.parameters())
    guesses, beliefs = [], []
    for u, target in zip(view.payloads("features"), view.head_weight_gradients, strict=True):
        logits = clone(u.cpu())
        guess = matching_distances(clone, u.cpu(), target.cpu()).argmin()
        guesses.append(guess)
        beliefs.append(logits.detach().softmax(1))
        if co_trained:
            optimizer.zero_grad()
            cross_entropy(logits, guess[None]).backward()
            optimizer.step()
    return torch.stack(guesses), torch.cat(beliefs)


found = {"co-trained": published(view, True), "frozen": published(view, False)}
for name, (guesses, _) in found.items():
    library = LabelInference(clone=name, seed=seeds[0])(view)
    same = torch.equal(guesses, library.labels)
    print(f"{name}: the library guesses the same: {same}")
    assert same or device != "cpu"
print("what it read:", ", ".join(library.knowledge))

# %% [markdown]
# We take the median of several victims. The baselines are a random guess (**chance**) and always
# naming the most frequent class (**majority**).

# %%
guess_frozen = (
    None  # your guess: the share of labels a frozen clone finds in the last fifth, 0 to 1
)

# %%
right = {name: [(guesses == truth).double()] for name, (guesses, _) in found.items()}
for victim in seeds[1:]:
    others, their_truth = record(models.for_images(shape, victim), train[:online], seed=victim)
    their_view = others.view("server", grants=["head_weight_gradients"])
    for name, runs in right.items():
        labels = LabelInference(clone=name, seed=victim)(their_view).labels
        runs.append((labels == their_truth).double())

accuracy = {name: statistics.median(r.mean().item() for r in runs) for name, runs in right.items()}
last = {
    name: statistics.median(r[-online // 5 :].mean().item() for r in runs)
    for name, runs in right.items()
}
blind = metrics.score_labels(train.labels, classes, guess=torch.zeros_like(train.labels))
claim("co-trained clone, labels found", accuracy["co-trained"], ">", 0.99)
claim("baselines: majority and chance", [blind.majority, blind.chance], "<", 0.15)
compare(guess_frozen, last["frozen"], "share that a frozen clone finds in the last fifth")

# %% tags=["nbval-ignore-output"]
# not compared: a frozen clone's accuracy depends on rounding in the victim's training
print(f"{'':24}{'all steps':>12}{'last fifth':>12}   (medians of {victims} victims)")
for name in right:
    print(f"{name + ' clone':24}{accuracy[name]:12.1%}{last[name]:12.1%}")
print(f"{'always the majority':24}{blind.majority:12.1%}\n{'chance':24}{blind.chance:12.1%}")

# %%
window = online // 10
ends = torch.arange(window, online + 1, window)
curves = {
    f"{name} clone": torch.stack(runs).unfold(1, window, window).mean(2).median(0).values
    for name, runs in right.items()
}
curves["chance"] = torch.full((len(ends),), blind.chance)
plots.lines(ends, curves, "training step", "share of labels found")

# %% [markdown]
# The co-trained clone goes on as it began. The frozen clone starts out just as well, and then loses
# its grip. Nothing about the labels or the data has changed in between; the client has.

# %% [markdown]
# ## The exact condition
#
# What exactly does it take to be right? One sample, one linear layer. Let $p$ be the client's
# probabilities and $q$ the clone's, both at the same $u$.
#
# **1.** The client's gradient is $(p - e_y)\,u^\top$. The clone's, if the label were $c$, is
# $(q - e_c)\,u^\top$. The same $u^\top$ stands on the right of both, because the server sent it.
#
# **2.** Their difference is $\big((p - e_y) - (q - e_c)\big)u^\top$, a column times a row. The
# squares of all its entries add up to the product of two squared lengths:
#
# $$\lVert (p - q) - (e_y - e_c) \rVert^2\;\lVert u \rVert^2 .$$
#
# The attack divides this by the number of entries, which changes no comparison. Neither does
# $\lVert u\rVert^2$, **if $u \ne 0$**.
#
# **3.** Write $d = p - q$. For the true label, $c = y$, the first factor is $\lVert d\rVert^2$. For
# any other, only the entries $y$ and $c$ change, to $d_y - 1$ and $d_c + 1$:
#
# $$\lVert d\rVert^2 - d_y^2 - d_c^2 + (d_y - 1)^2 + (d_c + 1)^2
# = \lVert d\rVert^2 - 2 d_y + 2 d_c + 2 .$$
#
# **4.** So $y$ is nearer than $c$ if and only if $0 < -2d_y + 2d_c + 2$, that is $d_y - d_c < 1$.
# Put $d = p - q$ back in. **The attack is right if and only if, for every $c \ne y$,**
#
# $$\boxed{\,p_y - p_c \;<\; 1 + q_y - q_c\,}$$
#
# Ten probabilities of the client's and ten of the clone's decide. Three cases:
#
# * **Early.** All probabilities are near $1/K$. Left about 0, right about 1: always true.
# * **Co-trained.** The clone learns what the client learns, so $q$ stays near $p$: true.
# * **Sure client, frozen clone.** $p_y \to 1$ and $p_c \to 0$, so the left side goes to 1, and what
#   is asked for is $q_y > q_c$ for every $c$: the *random* clone would have to name the right
#   label by itself. That is guessing.

# %% [markdown]
# ## Checking it, sample by sample
#
# We need $p$. The attacker does not have it; to check the claim we take it from the gradient of the
# client's bias, which is $p - e_y$, and the true label. The **margin** of a sample is the right
# side minus the left, for the most dangerous $c$.


# %%
def client_probabilities(transcript, truth):
    """Return p (N, K) of each batch of one, for checking: dL/db is p - e_y."""
    judge = transcript.view("server", grants=["head_bias_gradients"])
    return torch.stack(judge.head_bias_gradients).cpu() + one_hot(truth, classes)


def margins(p, q, truth):
    """Return the least (1 + q_y - q_c) - (p_y - p_c) over c other than y: (N,)."""
    gap = q - p
    differences = 1 + gap.gather(1, truth[:, None]) - gap
    return differences.scatter(1, truth[:, None], torch.inf).amin(1)


def agrees(predicted, observed, margin):
    """Say whether they agree on all samples; a margin near 0 is left to rounding."""
    clear = margin.abs() > 1e-3
    return torch.equal(predicted[clear], observed[clear])


p = client_probabilities(transcript, truth)
course = {}
for name, (guesses, q) in found.items():
    margin = margins(p, q, truth)
    course[f"{name} clone"] = margin.unfold(0, window // 2, window // 2).amin(1)
    holds = agrees(matching_condition(p, q, truth), guesses == truth, margin)
    print(f"{name}: the condition names every success and every failure: {holds}")
    assert holds

# %%
ends = torch.arange(1, len(course["frozen clone"]) + 1) * (window // 2)
ahead = course["co-trained clone"] - course["frozen clone"]
claim("the frozen clone's margin falls behind by", ahead[len(ahead) // 2 :].mean(), ">", 0.2)
course["zero: the attack fails below"] = torch.zeros(len(ends))
plots.lines(ends, course, "training step", f"least margin of {window // 2} samples")

# %% [markdown]
# The frozen clone's worst margin sinks as the client grows sure. The co-trained clone's sinks too,
# and stays above zero.

# %% [markdown]
# ## A client that knows its task
#
# Now let the attacker come late. We train one client in the usual way (batches of 64) and stop the
# clock at several moments: both parties go on exchanging messages, but with a step size of zero, so
# that all messages of a moment belong to the same client. We keep the moments for later.

# %%
still = partial(torch.optim.SGD, lr=0.0)  # an optimiser that changes nothing
HEADS = [1, 2]  # layers in the client's head


def recorded_at_rest(net, layers):
    """Record what the server gets of a client that stands still, in batches of 64."""
    head = head_cut(net, layers)
    transcript, truth = record(net, train[:watched], head, batch_size=64, optimizer=still)
    return transcript.view("server", grants=["anchor_labels"]), truth


trained = models.for_images(shape, seeds[0])
front, middle, head = models.cut(trained, at=("pool1", head_cut(trained)))
client, server = protocol.Client(front, head), protocol.Server(middle, label_private=True)
moments = {(0, layers): recorded_at_rest(trained, layers) for layers in HEADS}
for before, epoch in zip(epochs, epochs[1:], strict=False):
    settings = {"epochs": epoch - before, "seed": seeds[0], "device": device}
    session = protocol.train(client, server, train, **settings)
    moments |= {(epoch, layers): recorded_at_rest(trained, layers) for layers in HEADS}

test_accuracy = session.accuracy(source.test)
claim("accuracy on test images", test_accuracy, ">", 0.93)

# %% tags=["nbval-ignore-output"]
# not compared: the last digit of an accuracy may differ between machines
print(f"after {epochs[-1]} epochs: {test_accuracy:.1%} on test images")

# %% [markdown]
# The attacker sets up its clone only now, and watches batches of one, frozen and co-trained.

# %%
guess_late = None  # your guess: the share of labels that a clone finds now, 0 to 1


# %%
def late(net, clone):
    """Match gradients of a client that stands still; return transcript, labels and hits."""
    transcript, truth = record(net, train[:at_rest], optimizer=still)
    view = transcript.view("server", grants=["head_weight_gradients"])
    labels = LabelInference(clone=clone, seed=seeds[0])(view).labels
    return transcript, truth, labels == truth


late_hits = {}
for name in ("co-trained", "frozen"):
    rest, labels, late_hits[name] = late(trained, name)

late_p = client_probabilities(rest, labels)
late_clone = rest.view("server").head_architecture.build(seeds[0])
late_q = late_clone(rest.view("server").features.cpu()).softmax(1).detach()
margin = margins(late_p, late_q, labels)
named = agrees(matching_condition(late_p, late_q, labels), late_hits["frozen"], margin)
print("frozen: the condition again names every success and every failure:", named)
assert named

sure = late_p.gather(1, labels[:, None]).median().item()
late_accuracy = {name: hits.double().mean().item() for name, hits in late_hits.items()}
compare(guess_late, max(late_accuracy.values()), "share of labels that the better clone finds now")
claim("the client's probability of the label, median", sure, ">", 0.99)
claim("both clones, late", list(late_accuracy.values()), "<", 0.2)

# %% tags=["nbval-ignore-output"]
# not compared: which of the last labels are found depends on rounding
print(f"the client's probability of the label, median: {sure:.4f}")
for name, share in late_accuracy.items():
    print(f"{name + ' clone, late':24}{share:8.1%}")
print(f"{'always the majority':24}{blind.majority:8.1%}\n{'chance':24}{blind.chance:8.1%}")

# %% [markdown]
# Against a client that is sure, the frozen clone guesses. Co-training does not repair it: a clone
# that begins late learns from its own wrong guesses. The famous 100 % belongs to an attacker who
# was there **from the first step**.
#
# Does a second layer help the client, whose input the server does not know? Not early:
# [the appendix](appendix/07_two_layers.ipynb) derives the condition again, with one factor more.

# %% [markdown]
# ## Larger batches: the closed form, and beyond it
#
# The published rule needs batches of one. [Lesson 02](02_threat_model.ipynb) needs neither a clone
# nor a batch of one: with the granted $G = \tfrac1B (P - Y)^\top U$ and the known $U$ ($B$ rows),
#
# $$B\,(G\,U^+)^\top = P - Y \qquad\text{while } \mathrm{rank}(U) = B .$$
#
# What happens when the batch is larger than the rank?

# %%
guess_large = None  # your guess: the share of labels found in 256 samples of a trained client


# %%
def closed_form(U, G):
    """Return a label for each row of U (B, D), from the gradient G (K, D) of the weights."""
    U, G = U.double().cpu(), G.double().cpu()
    return (len(U) * (G @ torch.linalg.pinv(U)).T).argmin(1)


def solved(net, size):
    """Return the rank of U in a batch, and the share of its labels that the closed form finds."""
    batch, its_labels = record(net, train[:size], batch_size=size, optimizer=still)
    leaked = batch.view("server", grants=["head_weight_gradients"])
    (G,) = leaked.head_weight_gradients
    found = (closed_form(leaked.features, G) == its_labels).double().mean().item()
    return int(torch.linalg.matrix_rank(leaked.features.cpu())), found


fresh = models.for_images(shape, seeds[0])
sizes = [8, 128] if budget == "tiny" else [16, 32, 64, 256]
shares = {
    state: [solved(net, size) for size in sizes]
    for state, net in {"untrained": fresh, "trained": trained}.items()
}
claim("16 samples, untrained client, found", shares["untrained"][0][1], "==", 1)
claim("256 samples, untrained client, found", shares["untrained"][-1][1], ">", 0.9)
claim("256 samples, trained client, found", shares["trained"][-1][1], "<", 0.4)
compare(guess_large, shares["trained"][-1][1], "share found in 256 samples of a trained client")

# %% tags=["nbval-ignore-output"]
# not compared: ranks of features depend on rounding
print(f"{'batch':>6}{'rank, untrained':>18}{'found':>8}{'rank, trained':>16}{'found':>8}")
for size, early_batch, late_batch in zip(sizes, *shares.values(), strict=True):
    print("{:6}{:18}{:8.1%}{:16}{:8.1%}".format(size, *early_batch, *late_batch))

# %% [markdown]
# Up to the rank the algebra is exact, but for rounding. Beyond it an untrained client still gives
# its labels away, a trained one does not: see [the
# appendix](appendix/07_batches_and_sure_clients.ipynb).

# %% [markdown]
# ## What the wire really carries
#
# Back to what is sent. In a batch of $B$ samples, the row of $\partial L/\partial u$ that belongs
# to sample $i$ is
#
# $$\frac{\partial L}{\partial u_i} = \frac1B\, W^\top (p_i - e_{y_i}) .$$
#
# It is **one row per sample**: nothing is averaged, so the batch size is no protection. And
# $p - e_y$ is multiplied by $W$, the client's secret.
#
# **Matching does not work there.** Try each label again, with the clone's random $\tilde W$:
# compare $W^\top(p - e_y)$ with $\tilde W^\top(q - e_c)$. No label is nearer for any reason.

# %%
guess_same = (
    None  # your guess: the share of samples that get the most frequent guess of their class
)

# %%
wire = record(models.for_images(shape, seeds[0]), train[:watched], batch_size=64, seed=seeds[0])
wire_view, wire_truth = wire[0].view("server"), wire[1]
gradients, features = wire_view.feature_gradients.cpu(), wire_view.features.cpu()


def match_on_the_wire(number):
    """Guess the label whose dL/du in a random clone points most nearly as the client's does."""
    clone = wire_view.head_architecture.build(number, "a random clone")
    with torch.no_grad():
        q = clone(features).softmax(1)
        candidates = (q[:, None] - torch.eye(classes)) @ clone[-1].weight  # (N, candidate, D)
    return torch.cosine_similarity(candidates, gradients[:, None], dim=2).argmax(1)


def consistency(guesses, truth):
    """Return the share of samples that got the most frequent guess of their class."""
    return sum(guesses[truth == c].bincount().max().item() for c in truth.unique()) / len(truth)


runs = [match_on_the_wire(number) for number in range(25)]
accuracies = sorted(metrics.label_accuracy(guesses, wire_truth) for guesses in runs)
same_name = statistics.median(consistency(guesses, wire_truth) for guesses in runs)
claim("matching on the wire, median of 25 clones", accuracies[12], "<", 0.2)
claim("samples that got the most frequent guess of their class", same_name, ">", 0.7)
compare(guess_same, same_name, "samples that got the most frequent guess of their class")

# %% tags=["nbval-ignore-output"]
# not compared: accuracies depend on rounding in the victim's training
print("matching on the wire, 25 clones")
print(f"  labels found: from {accuracies[0]:.1%} to {accuracies[-1]:.1%}")
print(f"  chance {blind.chance:.1%}, majority {blind.majority:.1%}")

# %% [markdown]
# The guesses are as good as rolling dice, yet all samples of a class tend to get the *same* wrong
# name. The attack knows who belongs together. It only cannot say what they are called.

# %% [markdown]
# ## Directions
#
# Why do they belong together? Let $\pi_c = p_c/(1 - p_y)$ for $c \ne y$ be how the client divides
# its **doubt** among the other classes. Then
#
# $$p - e_y = (1 - p_y)\,(\pi - e_y), \qquad
# \frac{\partial L}{\partial u} = \frac{1 - p_y}{B}\; W^\top (\pi - e_y) .$$
#
# The *length* says how sure the client is. The *direction* says the label, and what the client
# takes for the most likely mistake. Early the client doubts evenly, $\pi_c = 1/(K-1)$ for all
# others, and the direction depends **on the label alone**: $K$ labels, $K$ directions. Late it
# doubts one other class, not always the same, and each label spreads over several directions.
#
# The pictures show the directions of $\partial L/\partial u$ (gradients of length 1) in the plane
# in which they spread most. Marks and colours are the true labels, which the attacker does not
# have. First, after one epoch:


# %%
def plane(gradients):
    """Project the directions of gradients (N, D) to their two main axes: (N, 2)."""
    directions = normalize(gradients.flatten(1).double().cpu(), dim=1)
    centred = directions - directions.mean(0)
    return centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T


early_view, early_truth = moments[epochs[1], 1]
plots.scatter(plane(early_view.feature_gradients), early_truth, source.classes)

# %% [markdown]
# And after the last:

# %%
late_view, late_truth = moments[epochs[-1], 1]
plots.scatter(plane(late_view.feature_gradients), late_truth, source.classes)

# %% [markdown]
# ## Clusters, and their names
#
# The attack on the wire is two steps. **Cluster** the directions into $K$ groups with k-means, a
# standard method. **Name** the groups: if the server knows the label of *one* sample of each class
# (an **anchor**; it may have contributed a few samples itself), it can name all groups.
#
# `cluster_accuracy` names the clusters in the best possible way, with the truth at hand. That helps
# even a senseless partition; so its baseline is not chance but the same clusters, **dealt out at
# random** and then named in the best way. The names have another baseline: give each sample the
# label of the anchor whose *smashed data* are nearest. (The anchors do not count as found.)
#
# We begin where a real attacker would: in the first epoch, while the client changes with every
# batch.

# %%
guess_names = None  # your guess: the share of labels named right with anchors, 0 to 1


# %%
def nearest_anchor(view):
    """Name each sample like the anchor of nearest z; return the guesses and a mask of anchors."""
    z, anchors = view.smashed.flatten(1).cpu(), view.anchor_labels.cpu()
    given = anchors >= 0
    return anchors[given][torch.cdist(z, z[given]).argmin(1)], given


def score_on_the_wire(result, view, truth):
    """Score clusters, their names, and what the anchors tell without gradients."""
    guesses, given = nearest_anchor(view)
    report = metrics.score_labels(truth, classes, result.labels, result.clusters, given)
    return report, metrics.label_accuracy(guesses[~given], truth[~given])


reports, by_anchor = [], []
for victim in seeds:
    epoch_one, its_truth = record(
        models.for_images(shape, victim), train[:watched], batch_size=64, seed=victim
    )
    anchored = epoch_one.view("server", ["anchor_labels"])
    result = LabelInference("wire", seed=victim)(anchored)
    report, without_gradients = score_on_the_wire(result, anchored, its_truth)
    reports.append(report)
    by_anchor.append(without_gradients)

scored = {
    "clusters, best names": statistics.median(r.cluster_accuracy for r in reports),
    "named by anchors": statistics.median(r.label_accuracy for r in reports),
    "nearest anchor, no gradient": statistics.median(by_anchor),
    "random clusters, best names": statistics.median(r.random_partition for r in reports),
    "majority": statistics.median(r.majority for r in reports),
    "chance": blind.chance,
}
print("read:", ", ".join(result.knowledge))
compare(guess_names, scored["named by anchors"], "share of labels named right with anchors")
claim("clusters and names", list(scored.values())[:2], ">", 0.98)
claim("nearest anchor, no gradient", scored["nearest anchor, no gradient"], "<", 0.9)
claim("random clusters, best names", scored["random clusters, best names"], "<", 0.5)

# %% tags=["nbval-ignore-output"]
# not compared: the last digit may differ between machines
print(f"first epoch as it happens, {watched} samples, median of {victims} victims")
for name, share in scored.items():
    print(f"{name:28}{share:8.1%}")

# %% [markdown]
# This is what label-private split learning tells in its first epoch, with a head of one layer.

# %% [markdown]
# ## How it fades
#
# The same attack at each of our moments, for both heads, and a rival that needs no gradient: it
# clusters the features $u$. (The table has the names as well.)

# %%
guess_fading = None  # your guess: with 2 layers in the head, the share in the best clusters at last

# %%
at_moment, without, by_features = {}, {}, {}
for key, (moment, its_labels) in moments.items():
    by_features[key] = metrics.cluster_accuracy(cluster_features(moment, classes), its_labels)
    found_here = LabelInference("wire", seed=seeds[0])(moment)
    at_moment[key], without[key] = score_on_the_wire(found_here, moment, its_labels)
fading = {}
for layers in HEADS:
    name = f"{layers} layer{'s' if layers > 1 else ''}"
    fading[f"{name}, clusters"] = [at_moment[e, layers].cluster_accuracy for e in epochs]
    fading[f"{name}, clusters of u"] = [by_features[e, layers] for e in epochs]
    fading[f"{name}, anchors"] = [at_moment[e, layers].label_accuracy for e in epochs]
fading["nearest anchor"] = [without[e, 1] for e in epochs]
fading["random clusters"] = [at_moment[e, 1].random_partition for e in epochs]
drawn = {name: shares for name, shares in fading.items() if "anchors" not in name}
plots.lines(epochs, drawn, "epochs", "share of labels found, best names")

# %%
untrained, final = at_moment[0, 1].cluster_accuracy, at_moment[epochs[-1], 1].cluster_accuracy
deeper, dealt = (
    at_moment[epochs[-1], 2].cluster_accuracy,
    at_moment[epochs[-1], 2].random_partition,
)
compare(guess_fading, deeper, "share in the best clusters at last, 2 layers")
of_features = [by_features[epochs[-1], layers] for layers in HEADS]
claim("1 layer, untrained, share in the best clusters", untrained, ">", 0.99)
claim("2 layers fade sooner: at last", deeper, "<", final)
claim("still above random clusters", deeper, ">", 2 * dealt)
claim("clusters of u, untrained, both heads", [by_features[0, n] for n in HEADS], "<", untrained)
claim("clusters of u at last, both heads", of_features, ">", 0.85)

# %% tags=["nbval-ignore-output"]
# not compared: late accuracies depend on rounding in the victim's training
print(f"{'epochs':24}" + "".join(f"{epoch:8}" for epoch in epochs))
for name, values in fading.items():
    print(f"{name:24}" + "".join(f"{share:8.1%}" for share in values))

# %% [markdown]
# A sure client does not hide its labels for that. What fades is the *gradients'* voice: the
# server's own features have learnt to sort the classes, and labels read in the first epoch can be
# carried over to the last. [The appendix](appendix/07_batches_and_sure_clients.ipynb) measures
# that, and has a longer recording for three heads: on the digits the names end below the nearest
# anchor.

# %% [markdown]
# ## On the command line
#
# The same experiments, of standard size:
#
# ```
# sltools attack labels --setting published
# sltools attack labels --setting published --head relu3      # a head of two layers
# sltools attack labels --setting closed-form
# sltools attack labels --setting wire --json
# ```

# %%
# what `sltools sweep` keeps of this lesson
collected = {
    "co_trained_accuracy": accuracy["co-trained"],
    "frozen_accuracy": accuracy["frozen"],
    "majority": blind.majority,
}

# %% [markdown]
# ## Limitations
#
# * **The published attack is beyond the wire.** Its code reads the gradient of the client's own
#   last weights. In label-private split learning nobody sends that. (In *federated* learning
#   clients do send weight gradients; there the same reasoning is at home.) Its 100 % is a statement
#   about a leak, not about the protocol.
# * **Co-training is no law.** The clone learns what the client learns, but in its own way; in the
#   recorded runs on MNIST it sometimes lags behind for a while.
# * **A client at rest is not quite a real one.** One that goes on training with batches of one
#   becomes less sure of itself, and the frozen clone finds more again.
# * **K-means likes groups of equal size**, and our classes are nearly so. Rare classes, for a
#   clinic the interesting ones, are not studied here.
# * **Anchors are the first sample of each class.** One anchor that lies in a foreign cluster costs
#   two names. Liu and Lyu name by the nearest anchor, or start k-means at the anchors; we did not
#   compare.
# * **Exact numbers.** Our messages are float32, neither clipped nor noised. Defences begin there.
#
# **Back at the clinic:** it sends neither a label nor a weight's gradient, and in the first epoch
# the vendor still learns which patients share a diagnosis, and with one known case of each, which.
# What it can do about that is the next lesson's question.
#
# ## Try it
#
# * In `late`, leave out `optimizer=still`. The client now goes on learning, one sample at a time.
#   By how much does the frozen clone improve, and what does the condition say about it? (This
#   changes `trained`: run the cell that trains it again afterwards.)
# * Grant `head_bias_gradients` and call `LabelInference().count(view)` on batches of 64. What can
#   one say of a batch when one cannot tell its samples apart?
#
# ## Review questions
#
# **1.** A client is trained: $p_y = 0.98$, and 0.02 for one other class $c$. A frozen clone
# believes $q_y = 0.10$ and $q_c = 0.12$. Does $c$ keep the published attack from the label?
#
# <details><summary>Answer</summary>
#
# No. $p_y - p_c = 0.96$, and $1 + q_y - q_c = 0.98$. As $0.96 < 0.98$, the true label is nearer
# than $c$. It is the other classes that are dangerous: $p_{c'} = 0$, so $p_y - p_{c'} = 0.98$, and
# it takes $q_y - q_{c'} > -0.02$. A class with $q_{c'} = 0.12$ is at the edge.
#
# </details>
#
# **2.** Why does the batch size protect $\partial L/\partial W$ to some extent, and
# $\partial L/\partial u$ not at all?
#
# <details><summary>Answer</summary>
#
# $\partial L/\partial W$ is one matrix for the batch, a sum over its samples, and has to be taken
# apart; that is possible while the rows of $U$ are independent. $\partial L/\partial u$ has a row
# of its own for each sample. The batch size only divides it by a known number.
#
# </details>
#
# **3.** Somebody proposes to divide every $\partial L/\partial u_i$ by its length before it is
# sent, so that the server cannot tell sure samples from unsure ones. Does it hide the labels?
#
# <details><summary>Answer</summary>
#
# No. The attack does the same as its first step: the label is in the direction, not in the length.
# The length tells how sure the client is.
#
# </details>
#
# ## Further reading
#
# * E. Erdoğan, A. Küpçü, A. E. Çiçek: *UnSplit: Data-Oblivious Model Inversion, Model Stealing, and
#   Label Inference Attacks Against Split Learning*, WPES 2022.
#   [arXiv 2108.09033](https://arxiv.org/abs/2108.09033). The attack by matching.
# * J. Liu, X. Lyu, Q. Cui, X. Tao: *Similarity-based Label Inference Attack against Training and
#   Inference of Split Learning*, 2022. [arXiv 2203.05222](https://arxiv.org/abs/2203.05222).
#   Clusters, anchors, and their view of the defences.
# * O. Li and others: *Label Leakage and Protection in Two-party Split Learning*, ICLR 2022.
#   [arXiv 2102.08504](https://arxiv.org/abs/2102.08504). Norms and angles for two classes; max-norm
#   and Marvell.
# * S. Kariyappa, M. K. Qureshi: *ExPLoit: Extracting Private Labels in Split Learning*, SaTML 2023.
#   [arXiv 2112.01299](https://arxiv.org/abs/2112.01299). Learning the head and the labels together.
# * C. Fu and others: *Label Inference Attacks Against Vertical Federated Learning*, USENIX Security
#   2022. The nearest relative, for parties that hold features and no labels: from a few labelled
#   samples, with a malicious optimiser, or directly from the gradients of the logits.
# * X. Gao, L. Zhang: *PCAT: Functionality and Data Stealing from Split Learning by Pseudo-Client
#   Attack*, USENIX Security 2023. Labels from a few labelled samples, and a comparison with the
#   published rule, quoted in the appendix.
# * B. Zhao, K. R. Mopuri, H. Bilen: *iDLG: Improved Deep Leakage from Gradients*, 2020.
#   [arXiv 2001.02610](https://arxiv.org/abs/2001.02610). The sign rule.
#
# **Next:** [lesson 08](08_defences.ipynb), on what a client can do about all this.
