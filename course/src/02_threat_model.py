# ---
# jupyter:
#   sltools:
#     minutes: 45
#     alternative: {cut: conv1}
# ---

# %% [markdown]
# # Who sees what: threat models
#
# The clinic asks the vendor who could see a patient's image or diagnosis, and is told: "nobody, it
# is encrypted on the way". Which questions must the clinic ask instead?
#
# After this lesson you can say of any attack on split learning what the attacker sees, may do and
# has to know, and you can check such a claim by code.
#
# **Objectives.** You can
#
# * list, for each party and each form of the protocol, what it receives and what it does not;
# * tell an honest-but-curious attacker from a malicious one;
# * name the attacker's goals, and the knowledge an attack takes for granted;
# * read a transcript message by message;
# * use views, grants and the ledger of what an attack has read, and say what a type can and cannot
#   protect;
# * compute every label of a batch from **one** leaked gradient, with one line of algebra.
#
# **Prerequisites.** [Lesson 01](01_split_learning.ipynb): smashed data, vanilla and label-private
# split learning, the transcript. Matrices and the softmax.
#
# **Time.** About 45 minutes (estimated).

# %% [markdown]
# ## Before you attack anything
#
# **Attack only systems that you own, or whose owner has allowed you to in writing.** All else is an
# offence in most countries, also when it is done to show that it can be done. This course attacks
# networks that you train yourself, on public images, to learn what protects: a defence that was
# never attacked is a hope.

# %% [markdown]
# ## Threat card
#
# A **threat model** answers five questions: *who* attacks, *what do they see*, *what may they
# change*, *what do they want*, and *what do they know already*. Without it "the attack recovers all
# labels" means nothing. Every attack lesson begins with a card like this one, here of the attack at
# the end of this lesson.
#
# | | label inference from one leaked gradient |
# |---|---|
# | **who** | an honest-but-curious server in label-private split learning |
# | **sees** | $z$; the features $u$, which it sent itself; $\partial L/\partial u$ |
# | **may change** | nothing: it follows the protocol |
# | **wants** | the label of every image in a batch |
# | **knows** | the shape of the client's head, without its weights |
# | **does not need** | the client's weights, images, data of its own, any training |
# | **is granted** | the gradient of the client's last *weights*, for one batch; it is never sent |
# | **simulated here** | both parties in one process; the leak, by a grant |
# | **stops working** | without the leak; in too large a batch; in a head of several layers |
# | **answered by** | keeping that gradient at home, as the protocol has it |

# %%
from sltools import plots

plots.exchange(
    {"client": "images, labels, first layers, head", "server": "the layers between"},
    [
        ("client", "server", "z, the smashed data"),
        ("server", "client", "u, the features"),
        ("client", "server", "dL/du, the feature gradient"),
        ("client", "server", "LEAKED: dL/dW of the head's weights"),
        ("server", "server", "knows u and dL/dW, solves for the labels"),
        ("server", "client", "dL/dz, the cut-layer gradient"),
    ],
)

# %% [markdown]
# ## Settings
#
# The label-private form needs a layer with weights between the cut and the client's head, so do not
# choose one of the last stages as the cut.

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
cut: str = "pool1"  # the stage after which the network is cut
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim, clone and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %% [markdown]
# We train two networks for a moment and record every message: one in vanilla split learning, one
# in the label-private form, whose client keeps the last layer and the labels.

# %%
import gc
import math
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import torch

from sltools import data, experiments, metrics, models, protocol, widgets
from sltools.attacks import LabelInference
from sltools.claims import Claims, compare
from sltools.errors import AttackError, NotObservable
from sltools.messages import Message
from sltools.view import GRANTS

as_shown = (dataset, cut, budget, seed, device) == ("digits", "pool1", "quick", 0, "cpu")
claim = Claims(as_shown)
# A sigmoid lies before the head for cifar10 and makes the features of a new network nearly alike:
# more than a few of them cannot be told apart in float32. The attack at the end needs that.
batch_size = 4 if dataset == "cifar10" else 32
batches = {"tiny": 4, "quick": 20, "full": 40}[budget]

source = data.load(dataset)
few = source.train[: batches * batch_size]
shape = source.train.images.shape
head_cut = models.stages(models.for_images(shape))[-2]


def record(at):
    """Train a fresh network, cut at `at`, on a few batches and keep what crossed the wire."""
    parties = experiments.parties(models.for_images(shape, seed), at)
    settings = {"batch_size": batch_size, "seed": seed, "device": device, "record": True}
    return protocol.train(*parties, few, epochs=1, **settings)


vanilla = record(cut)
private = record((cut, head_cut))
print("vanilla:      ", vanilla.transcript)
print("label-private:", private.transcript)

# %% [markdown]
# ## Who sees what
#
# In this library an attack is never given a victim. It is given a **view**: an object that holds
# what one party received, and refuses the rest. So instead of believing a table in a paper, we can
# make one. Training and inference (classifying images with the finished network) are different
# situations, so there are four views.
#
# Of eleven things, from smashed data to images, how many does the server see in label-private
# training?

# %%
guess_seen = None  # your guess: a whole number

# %%
images = source.test.images[:10]
views = {
    "vanilla training": vanilla.transcript.view("server"),
    "vanilla inference": vanilla.observe(images),
    "private training": private.transcript.view("server"),
    "private inference": private.observe(images),
}
ASKED = [
    "smashed",
    "labels",
    "features",
    "feature_gradients",
    "cut_gradients",
    "model",
    "architecture",
    "head_architecture",
    "head_weight_gradients",
    "client_weights",
    "images",
]


def answer(view, name):
    """Ask a view for `name`: the shape of a tensor, "yes" for anything else, "-" if refused."""
    try:
        found = getattr(view, name)
    except NotObservable:
        return "-"
    return str(tuple(found.shape)) if isinstance(found, torch.Tensor) else "yes"


print("THE SERVER SEES".ljust(22), *(f"{name:>18}" for name in views))
for name in ASKED:
    print(name.ljust(22), *(f"{answer(view, name):>18}" for view in views.values()))

assert {answer(view, "images") for view in views.values()} == {"-"}
assert answer(views["vanilla training"], "labels") == f"({len(few)},)"
assert answer(views["private training"], "labels") == "-"
seen = [name for name in ASKED if answer(views["private training"], name) != "-"]
compare(guess_seen, len(seen), "things seen in label-private training")

# %% [markdown]
# Read it row by row.
#
# * `smashed` is there in every column: most attacks of this course start from it.
# * `labels` are simply sent in vanilla training. Nobody has to infer them.
# * `features` and `feature_gradients` exist in the label-private form only: the server sends $u$
#   and gets $\partial L/\partial u$ back.
# * `cut_gradients` the server computes itself. They exist in training only.
# * `model` is the server's own network, not the client's.
# * `architecture` is the *shape* of the client's network: an assumption, to which we come.
# * `head_architecture` is the same for the client's head, if it has one.
# * The last three rows never cross the wire.
#
# A client can attack as well (the server's network, or other clients). This course is about the
# server.

# %% [markdown]
# ## A transcript, message by message
#
# Put yourself in the server's place, in vanilla training. The first batch arrives.

# %%
labels, smashed, gradient = (
    message for message in vanilla.transcript.messages if message.step == 0
)
print(labels)
print("the first ten:", [source.classes[label] for label in labels.payload[:10].tolist()])

# %% [markdown]
# That was the first message, and it is plain text: the class of every image in the batch. Next, the
# smashed data.

# %%
print(smashed)
z = smashed.payload
print(f"one image: {images[0].numel():,} numbers at the client, {z[0].numel():,} in the message")
print("carries a graph:", z.grad_fn is not None)

# %% [markdown]
# Numbers, one block per image, in the same order as the labels. No image; but also nothing that was
# made unreadable on purpose. "Smashed" is a name, not an encryption. Last, the server's reply.

# %%
print(gradient)
print("sent by:", gradient.sender, "- so it knows it already")

# %% [markdown]
# Even before any attack, there is a lot in such a list for whoever keeps it: how many images the
# client has, how often it trains, when a new one comes. And in vanilla training the server needs
# one line to learn how the client's images are distributed over the classes, which for a clinic
# may be the very thing to hide.

# %%
counts = views["vanilla training"].labels.bincount(minlength=len(source.classes))
plots.bars(dict(zip(source.classes, counts.tolist(), strict=True)), "images seen, by label")

# %% [markdown]
# In the label-private form the server gets this instead. No message of labels; but the third one
# was computed *from* the labels. [Lesson 07](07_label_inference.ipynb) is about it.

# %%
for message in private.transcript.messages[:4]:
    print(message)

# %% [markdown]
# **Try it.** Would you notice labels that go by another name? Given the messages of a batch, a
# dictionary of tensors $(B, D)$, and its true labels, list the names of those in which a **column**
# gives the labels away: the same value for the same label, different values for different ones.


# %%
from sltools.exercises import check


def leaking(messages, labels):
    # Hint: compare column[:, None] == column[None] with labels[:, None] == labels[None].
    raise NotImplementedError("your code here")


check("02.leak", leaking)

# %% [markdown]
# ## Honest-but-curious, or malicious
#
# An **honest-but-curious** server follows the protocol to the letter. It trains the network it
# promised to train, and keeps what passes through its hands. Nothing it sends differs from what an
# honest server sends, so the client **cannot notice** it. That is why this attacker comes first.
#
# A **malicious** server may send whatever it likes. The client goes where $\partial L/\partial z$
# sends it: the server holds the steering wheel. Here is a malicious server in five lines. It does
# not care for the task: it replies with $z$ itself, which is the gradient of $\tfrac12\lVert
# z\rVert^2$, and so has the client learn to send small numbers. To which share does the mean square
# of $z$ fall?

# %%
guess_shrunk = None  # your guess: below 1 is smaller than before


# %%
class Shrinker(protocol.Server):
    def reply(self, message):
        reply = super().reply(message)
        if reply is None or reply.kind != "cut_gradient":
            return reply
        return Message(reply.step, reply.batch, "cut_gradient", message.payload)


def growth(server_class):
    """Train a client with a server of this class; say how the mean square of z has changed."""
    front, back = models.cut(models.for_images(shape, seed).to(device), at=cut)
    some = source.train[: {"tiny": 256, "quick": 1500, "full": 6000}[budget]]
    before = front(images.to(device)).square().mean().item()
    epochs = 1 if dataset == "cifar10" else 4
    protocol.train(
        protocol.Client(front), server_class(back), some, epochs=epochs, seed=seed, device=device
    )
    return front(images.to(device)).square().mean().item() / before


factors = {"honest server": growth(protocol.Server), "malicious server": growth(Shrinker)}
assert all(math.isfinite(factor) for factor in factors.values())
print("mean square of z after training, as a multiple of what it was before")
claim("malicious server", factors["malicious server"], "<", 0.1)
claim("honest server", factors["honest server"], ">", 4)
compare(guess_shrunk, factors["malicious server"], "mean square of z with the malicious server")

# %% [markdown]
# Small numbers are of no use to anybody. But a server that can choose what the client learns can
# choose that $z$ be *easy to read*: this is the attack FSHA (feature-space hijacking). The price is
# that the replies now differ from honest ones. A client may notice (training stops getting
# anywhere, or gradients look odd), and detectors, programs at the client such as SplitGuard, look
# for just that.
#
# | | honest-but-curious | malicious |
# |---|---|---|
# | **vanilla** | reads the labels; works on $z$ | steers the client as well |
# | **label-private** | works on $z$, $\partial L/\partial u$ | steers the client, chooses $u$ |
# | **can be noticed?** | no | in principle, by its replies |
# | **when** | during the training, or years later | while training goes on |

# %% [markdown]
# ## What the attacker wants
#
# | goal | the attacker ends up with | called |
# |---|---|---|
# | the client's images | pictures close to the private ones | **model inversion** |
# | the client's network | a **clone** that does what the client's part does | **model stealing** |
# | the labels of a label-private client | a label for every image | **label inference** |
# | a fact about the data | "there are many of this kind" | property inference |
# | harm | a network that fails on command | backdoors, poisoning |
#
# [Lesson 04](04_inversion_and_stealing.ipynb) does the first two at one stroke,
# [lesson 07](07_label_inference.ipynb) the third.

# %% [markdown]
# ## What the attacker knows
#
# Attacks differ most in what they take for granted. **Auxiliary data** are images of the attacker's
# own that resemble the client's.
#
# | attack | server | knows the client's architecture? | auxiliary data |
# |---|---|---|---|
# | UnSplit (lesson 04) | honest-but-curious | yes | none |
# | PCAT | honest-but-curious | no | a few labelled images of the same task |
# | FORA | honest-but-curious | no | unlabelled, public |
# | SDAR | honest-but-curious | yes | labelled, of the same distribution |
# | Liu and Lyu (labels) | honest-but-curious | no | one or a few labelled samples per class |
# | FSHA | malicious | no | unlabelled, of a similar distribution |
#
# No row is "stronger" in every column; so compare numbers only together with these columns.
#
# Is it fair that UnSplit's server knows the client's **architecture**? It is plausible:
#
# * Somebody must design both halves so that they fit. Usually the party with the server does, and
#   *ships* the client's part. The weights come into being later, at the client.
# * Many designs are public, and the shape of $z$ tells a good deal.
# * A rule as old as modern cryptography, *Kerckhoffs's principle*: do not count on the enemy not
#   knowing the design. Only the key (here: the weights) may be secret.
#
# A view gives the architecture as a recipe without weights. A clone built from it has the same
# shape and nothing else in common with the client.

# %%
watched = views["vanilla inference"]
architecture = watched.architecture
print(architecture)
print("one input:", architecture.input_shape)

clone = architecture.build(seed).to(device)
pairs = list(zip(clone.parameters(), vanilla.client.front.parameters(), strict=True))
print("same shapes as the client:", all(one.shape == two.shape for one, two in pairs))
print("any weight tensor in common:", any(torch.equal(one, two) for one, two in pairs))
assert not any(torch.equal(one, two) for one, two in pairs)

# %% [markdown]
# ## An attack that is refused
#
# What if an attack asks for more? The view refuses, with an error that names the rule. A small
# helper prints the refusal.


# %%
def refused(ask):
    """Call `ask`, which must be refused, and print why."""
    try:
        ask()
    except (NotObservable, AttackError) as refusal:
        print(textwrap.fill(f"{type(refusal).__name__}: {refusal}", 96), end="\n\n")
    else:
        raise AssertionError("this should have been refused")


refused(lambda: watched.images)
refused(lambda: watched.client_weights)
refused(lambda: views["private training"].labels)

# %% [markdown]
# No attack can work any more because it was handed, by accident, what it was to find out.

# %% [markdown]
# ## Grants, and the ledger
#
# Some published attacks do use more than the wire carries. To study them, the extra is **granted by
# name**. The name stays attached to the view, so nobody can forget it.

# %%
for name, reason in GRANTS.items():
    print(textwrap.fill(f"{name}: {reason}", 96, subsequent_indent="    "))

# %%
wire_only = private.transcript.view("server")
with_leak = private.transcript.view("server", grants=["head_weight_gradients"])
refused(lambda: wire_only.head_weight_gradients)
print("with the grant:", len(with_leak.head_weight_gradients), "gradients, one for each batch")
print(with_leak)

# %% [markdown]
# A view also keeps a **ledger**: `knowledge` lists what was read from it. The result of an attack
# carries that list. So a paper's sentence "the attack needs nothing but $z$" is something one can
# look up.

# %%
ledger = private.transcript.view("server", grants=["head_weight_gradients"])
print("to begin with:     ", ledger.knowledge)
ledger.smashed.mean()
print("after reading z:   ", ledger.knowledge)
ledger.head_weight_gradients
print("after the gradient:", ledger.knowledge)
assert ledger.knowledge == ("head weight gradients (granted)", "smashed")

# %% [markdown]
# ## What a type cannot do
#
# Say it plainly: **a type guards against mistakes, not against hostile Python.** Whoever runs code
# in your process can reach every object in it. This one line finds the victims; it does not even
# need the view.

# %%
victims = [thing for thing in gc.get_objects() if type(thing) is protocol.Client]
print("the client of our view is among them:", any(it is vanilla.client for it in victims))

# %% [markdown]
# No Python object can prevent that. If the attacker is not to be trusted (a graded exercise, a
# competition), let it run **in another process** and give it a file. `View.save` writes what the
# view holds, as plain tensors and JSON, and nothing else; `View.open` reads it. The process below
# opens such a file and tries the same line.

# %%
ATTACKER = """
import gc, sys
from sltools import protocol
from sltools.errors import NotObservable
from sltools.view import View

view = View.open(sys.argv[1])
print("opened:", view)
print("victims:", [thing for thing in gc.get_objects() if type(thing) is protocol.Client])
try:
    view.images
except NotObservable as refusal:
    print("refused:", refusal)
"""

with tempfile.TemporaryDirectory() as folder:
    saved = watched.save(Path(folder) / "view")
    print("written:", ", ".join(sorted(path.name for path in saved.iterdir())))
    attack = [sys.executable, "-c", ATTACKER, str(saved)]
    output = subprocess.run(attack, capture_output=True, text=True, check=True).stdout
print(output)
assert "victims: []" in output

# %% [markdown]
# There the client does not exist: its weights and images were never written to the file, so no
# trick of Python's can find them. (Two processes of one user on one machine still share that user's
# rights; the last step is another user, a container, or another machine.)

# %% [markdown]
# ## One leaked gradient
#
# Suppose that a label-private client hands over **one** tensor too much: the gradient of the
# weights of its last layer, once, for one batch. Somebody may think it harmless: it is an average
# over the batch, and no label is in it. (The label attack of the UnSplit paper, as published in
# code, uses this very gradient. The protocol does not send it.)
#
# **The maths.** The batch has $B$ images. The rows of $U$ ($B \times D$) are the features $u_i$,
# which the server knows, because it sent them. The head computes logits $U W^\top + b$, softmax
# makes them probabilities, the rows of $P$, and the loss is the mean cross-entropy. With $Y$ for
# the labels as one-hot rows, the gradient of the loss by the logits is $(P - Y)/B$, and so
#
# $$G = \frac{\partial L}{\partial W} = \frac1B\,(P - Y)^\top U .$$
#
# $G$ is leaked, $U$ is known. If no row of $U$ is a combination of the others (rank $B$, which
# takes $B \le D$), the pseudo-inverse $U^+$ undoes the product, for then $U U^+ = I$:
#
# $$B\,(G\,U^+)^\top = P - Y .$$
#
# Row $i$ is $p_i - y_i$. A probability lies between 0 and 1, so the row is positive everywhere but
# at **one** place, the label, where it is $p - 1 < 0$. No weight was needed, and no training. Of
# the 32 labels of a batch, how many will come out right?

# %%
guess_labels = None  # your guess: a whole number

# %%
first = with_leak.window(0, 1)  # one batch: step 0
U = first.features.double()
(G,) = first.head_weight_gradients

residual = len(U) * (G.double() @ torch.linalg.pinv(U)).T  # the line of algebra
guess = residual.argmin(1).cpu()

print("U:", tuple(U.shape), " G:", tuple(G.shape), " P - Y:", tuple(residual.shape))
negative = int((residual < 0).sum())
print(f"negative entries: {negative} in {len(U)} rows, one in each:", negative == len(U))

# %% [markdown]
# Scoring is a different job, and it alone may hold the truth. The client's log, which no view
# shows, has it.

# %%
truth = private.transcript.client_log[0]["labels"].cpu()
print("guessed:", guess[:16].tolist())
print("true:   ", truth[:16].tolist())
claim("labels right", (guess == truth).sum(), "==", len(truth))
compare(guess_labels, (guess == truth).sum().item(), "labels right")

# %% [markdown]
# Now with the library. `LabelInference(setting="closed-form")` does the same, and in addition
# checks the rank, and whether rounding could have changed an answer. Beside it are the baselines,
# the scores of somebody who learnt nothing: a random guess, and always naming the most frequent
# class.

# %%
attack = LabelInference(setting="closed-form", seed=seed)
result = attack(first)
report = metrics.score_labels(truth, len(source.classes), guess=result.labels)
print(attack)
print(report)
print("\nwhat it cost:", *result.knowledge, sep="\n  ")
assert report.label_accuracy >= report.majority  # four labels can be all alike
claim("share of labels found", report.label_accuracy, "==", 1)

# %%
plots.bars(
    {
        "from one leaked gradient": report.label_accuracy,
        "most frequent class": report.majority,
        "random guess": report.chance,
    },
    "share of labels found",
)

# %% [markdown]
# And without the leak the same attack does not start:

# %%
refused(lambda: attack(wire_only.window(0, 1)))

# %% [markdown]
# **Try it.** Compute the two baselines of the picture above yourself: the shares that a random
# guess among all `classes`, and always naming the most frequent class, are expected to get right.


# %%
def label_baselines(labels, classes):
    # Hint: labels.bincount() counts each class. Return two numbers from 0 to 1.
    raise NotImplementedError("your code here")


check("02.baselines", label_baselines)

# %% [markdown]
# Look at single rows of $P - Y$. The network is new and its probabilities are all about alike, so
# the one negative bar cannot be missed.


# %%
def draw(image):
    row = result.scores[image].tolist()
    name = source.classes[int(truth[image])]
    heights = {label: round(value, 2) for label, value in zip(source.classes, row, strict=True)}
    return plots.bars(heights, f"p - y, an image of class {name}")


widgets.show(draw, image=(0, len(truth) - 1))

# %% [markdown]
# Without the widget: the picture is of the first image of the batch. In each of the other rows as
# well exactly one bar points down, and its name is the label.

# %% [markdown]
# ## Where it fails
#
# The algebra needs rank $B$. With larger batches the rows of $U$ soon depend on each other: in a
# new network the features of all images are much alike, and a ReLU sets some of them to zero for
# every image. The attack notices and says so, instead of returning labels that look as good as any.
# We try the same on a batch of 64.

# %% tags=["nbval-ignore-output"]
# not compared: the rank of a large batch of features depends on rounding
parties = experiments.parties(models.for_images(shape, seed), (cut, head_cut))
large = protocol.train(
    *parties, source.train[:64], epochs=1, batch_size=64, seed=seed, device=device, record=True
)
large_view = large.transcript.view("server", grants=["head_weight_gradients"])
rank = int(torch.linalg.matrix_rank(large_view.features))
print(f"batch of {len(large_view.features)}, features of rank {rank}")
try:
    found = attack(large_view).labels
    right = torch.equal(found, large.transcript.client_log[0]["labels"].cpu())
    print("solved all the same, all right:", right)
except AttackError as refusal:
    print(textwrap.fill(f"AttackError: {refusal}", 96))

# %% [markdown]
# **The clinic** can now ask: what does your server receive in training and in use, what does it
# know, may it change messages, and what would one careless tensor tell? It knows that encryption on
# the way answers none of this, for the vendor's server is where the way ends.
#
# ## Limitations
#
# * **The leak is an assumption.** A U-shaped client does not send this gradient. The result says
#   what *one* careless tensor would cost, not that label-private split learning hands it over.
#   What its real messages tell is the subject of [lesson 07](07_label_inference.ipynb).
# * **One layer.** The algebra needs a head of a single linear layer, since the server must know
#   what goes into the leaked layer.
# * **Small batches, mean loss.** Rank $B$ and a loss averaged over the batch. A client that adds a
#   regulariser to its loss, or clips or noises this gradient, sends another $G$.
# * **Confident clients.** Late in training $p$ at the label may round to 1 in float32, and the
#   negative entry to 0.
# * **A view is honest about the wire, not about the world.** Timing, message sizes, a second
#   service that the client uses, an employee: none of that is in a transcript.
#
# ## Try it
#
# * Make the table of who sees what for the *client's* view: `transcript.view("client")`. Why does
#   it refuse the client's own labels in the label-private form?
# * Drop `.window(0, 1)` and attack all recorded batches at once. Still everything?
# * Set `batch_size = 1` and grant `head_bias_gradients` alone. Why are ten numbers enough now, one
#   for each class?
#
# ## Review questions
#
# **1.** A paper says: "an honest-but-curious server reconstructs the images." Which questions do
# you ask before you believe that it concerns your system?
#
# <details><summary>Answer</summary>
#
# What does the server see there (vanilla or label-private, training or inference, which cut)? What
# does it know already (the architecture, auxiliary data, labels)? Was anything used that the wire
# does not carry, such as weights of the client or gradients of them? And what would somebody score
# who learnt nothing?
#
# </details>
#
# **2.** Why is it easier for a client to notice a malicious server than a curious one?
#
# <details><summary>Answer</summary>
#
# The curious server sends exactly what an honest one sends; there is nothing to notice. The
# malicious one has to send something else to get what it wants, and a client can examine what it
# receives.
#
# </details>
#
# **3.** The leaked gradient is an average over the batch. Why does averaging not hide the single
# labels?
#
# <details><summary>Answer</summary>
#
# Each image enters the average with its own features $u_i$ as a factor, and the server knows them.
# As long as the $u_i$ are linearly independent, the sum can be taken apart again: $B$ unknown rows,
# and as many independent known ones.
#
# </details>
#
# ## Further reading
#
# * E. Erdoğan, A. Küpçü, A. E. Çiçek: *UnSplit*, WPES 2022.
#   [arXiv 2108.09033](https://arxiv.org/abs/2108.09033). The honest-but-curious server.
# * D. Pasquini, G. Ateniese, M. Bernaschi: *Unleashing the Tiger: Inference Attacks on Split
#   Learning* (FSHA), CCS 2021. [arXiv 2012.02670](https://arxiv.org/abs/2012.02670).
#   The malicious one.
# * E. Erdoğan, A. Küpçü, A. E. Çiçek: *SplitGuard: Detecting and Mitigating Training-Hijacking
#   Attacks in Split Learning*. [arXiv 2108.09052](https://arxiv.org/abs/2108.09052).
# * X. Zhu and others: *Passive Inference Attacks on Split Learning via Adversarial Regularization*
#   (SDAR), NDSS 2025. [arXiv 2310.10483](https://arxiv.org/abs/2310.10483).
# * X. Xu and others: *A Stealthy Wrongdoer: Feature-Oriented Reconstruction Attack against Split
#   Learning* (FORA), CVPR 2024. [arXiv 2405.04115](https://arxiv.org/abs/2405.04115).
# * X. Gao, L. Zhang: *PCAT: Functionality and Data Stealing from Split Learning by Pseudo-Client
#   Attack*, USENIX Security 2023.
# * J. Liu, X. Lyu, Q. Cui, X. Tao: *Similarity-based Label Inference Attack against Training and
#   Inference of Split Learning*, 2022.
#   [arXiv 2203.05222](https://arxiv.org/abs/2203.05222).
# * B. Zhao, K. R. Mopuri, H. Bilen: *iDLG: Improved Deep Leakage from Gradients*, 2020.
#   [arXiv 2001.02610](https://arxiv.org/abs/2001.02610). The sign rule for a single sample.
# * T. Dang and others: *Revealing and Protecting Labels in Distributed Training*, NeurIPS 2021.
#   [arXiv 2111.00556](https://arxiv.org/abs/2111.00556). Which labels are in a batch.
# * *Instance-wise Batch Label Restoration via Gradients in Federated Learning*,
#   ICLR 2023. [OpenReview](https://openreview.net/forum?id=FIrQfNSOoTr). How many of each.
#
# **Next:** [lesson 03](03_smashed_data.ipynb), on what one can see in smashed data with bare eyes.
