# ---
# jupyter:
#   sltools:
#     minutes: 65
#     alternative: {cut: conv1}
# ---

# %% [markdown]
# # Defences
#
# The clinic has seen what its messages give away, and the vendor of the server offers it nine
# defences. Which of them keeps a patient's image from the vendor, and what does it cost the clinic?
#
# After this lesson you can judge a defence of split learning: what it promises, what it costs, and
# whether an attacker who knows of it is stopped.
#
# **Objectives.** You can
#
# * say of a defence what it promises and what it leaves open;
# * break a noise that is drawn anew for each message;
# * show that a low distance correlation, or a large mean error, proves no privacy;
# * attack a defence as somebody who knows it;
# * read a frontier of privacy against utility, and name the price of a defence that works.
#
# **Prerequisites.** [Lesson 04](04_inversion_and_stealing.ipynb) (the attack *UnSplit*) and
# [lesson 07](07_label_inference.ipynb) (labels from gradients).
#
# **Time.** About 65 minutes (estimated).

# %% [markdown]
# ## Threat card
#
# | | defending a client |
# |---|---|
# | **who** | a client that wants to keep its images and labels; an honest-but-curious server |
# | **may change** | the client: what it sends, how it learns, what it returns. The protocol stays |
# | **the attacker sees** | the messages, defended as they are; how often the same image comes |
# | **the attacker knows** | the architecture; and **the defence**, except its random numbers |
# | **granted here** | to one attack the client's weights, and public images: the worst case |
# | **not granted** | to three others, with 200 labelled images |
# | **simulated here** | both parties in one process; each attack gets the server's view |
# | **what a defence must not be judged by** | an attack that was made for undefended clients |
#
# A lock, too, is judged by somebody who has seen the same lock in the shop (Kerckhoffs, 1883).

# %% [markdown]
# ## The idea in one figure

# %%
from sltools import plots

plots.exchange(
    {"client": "private images x and labels y", "server": "wants x, y and the client's layers"},
    [
        ("client", "client", "NoPeek: learns layers that say less"),
        ("client", "server", "z plus noise; or z clipped, rounded, thinned out"),
        ("server", "client", "features u (label-private)"),
        ("client", "server", "dL/du, stretched (max-norm) or blurred (Marvell)"),
        ("server", "client", "dL/dz"),
        ("client", "client", "DP-SGD: noise on its own weights"),
    ],
)

# %% [markdown]
# ## Settings
#
# The text is about the settings shown. With others a claim may not hold: that is a result too.

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist
cut: str = "pool1"  # one of: conv1, relu1, pool1
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victims, clones, data order and noise together, each from its own stream
device: str = "cpu"  # one of: cpu, cuda

# %%
import itertools
import json
import statistics

import torch
from IPython.display import Markdown

from sltools import (
    arena,
    data,
    defenses,
    experiments,
    lessons,
    metrics,
    models,
    protocol,
    seeds,
    widgets,
)
from sltools.attacks import DecoderInversion, KnownWeightsInversion, UnSplit
from sltools.attacks.leaks import GradientLeak, near_rms, whitened_line
from sltools.claims import Claims, compare
from sltools.messages import Message
from sltools.transcript import Transcript

as_shown = (dataset, cut, budget, seed) == ("digits", "pool1", "quick", 0)


claim = Claims(as_shown)
source = data.load(dataset)
targets = experiments.first_targets(source, 10)
truth = targets.images.to(device)
names = [source.classes[label] for label in targets.labels.tolist()]
mean_image = source.train.images.mean(0).to(device).expand_as(truth)
priors = experiments.priors(dataset, budget)
unsplit = UnSplit(steps=experiments.STEPS[budget] // 2, seed=seed, **priors)
decoder = DecoderInversion(steps=arena.DECODER_STEPS[budget] // 2, batch=32, seed=seed)


def error(images):
    """The median over the images of the raw MSE."""
    return metrics.mse(images, truth).quantile(0.5).item()


nobody = error(mean_image)
session = experiments.train_victim(source, cut, budget=budget, seed=seed, device=device)
plain = session.client.outgoing

# %% [markdown]
# ## What they promise
#
# Each defence of `sltools.defenses` is one argument of `protocol.Client`. Each says what it
# promises, and what it leaves open. Read both columns before you buy. (*Epsilon* and *delta* are
# the numbers of differential privacy, explained below: the smaller, the stronger the promise.)

# %%
offered = [
    defenses.GaussianNoise, defenses.LocalPrivacy, defenses.NoPeek, defenses.Quantisation,
    defenses.TopK, defenses.RandomisedResponse, defenses.MaxNorm, defenses.Marvell,
    defenses.PrivateOptimizer,
]  # fmt: skip
for defense in offered:
    print(f"{defense.__name__}\n  promises  {defense.promises}\n  leaves    {defense.leaves}")

# %% [markdown]
# ## Noise
#
# The first idea everybody has: add noise to the smashed data. The client of the coming cells was
# trained without noise and adds it when it sends the ten private images. `scale` is the standard
# deviation of the noise.

# %%
scale = 1.0
undefended = unsplit(session.observe(truth))
session.client.outgoing = defenses.GaussianNoise(scale, seed=seed)
noisy = unsplit(session.observe(truth))
accuracy_noisy = session.accuracy(source.test)
plots.reconstructions(
    truth.cpu(), {"no defence": undefended.inputs, f"noise {scale:g}": noisy.inputs}, names
)

# %%
with torch.no_grad():
    spread = session.client.front(truth).std().item()
claim("the smashed data spread no wider than the noise", spread, "<", scale)
claim("without a defence UnSplit leaves this share of the mean image's error",
      error(undefended.inputs) / nobody, "<", 0.1)  # fmt: skip
claim("with noise its error grows by a factor of",
      error(noisy.inputs) / error(undefended.inputs), ">", 5)  # fmt: skip
claim("the service keeps an accuracy of", accuracy_noisy, ">", 0.85)

# %% [markdown]
# That looks like a defence. The next three sections are three ways to be wrong about it.

# %% [markdown]
# ## Seeming safe, 1: noise that averages out
#
# The noise is drawn anew for each message. Whoever gets the smashed data of **the same image**
# $n$ times takes the mean, and is left with noise of $\sigma / \sqrt{n}$. In training every image
# comes once an epoch. A service that is asked twice for the same photograph sends it twice.
#
# **Try it.** Predict what is left of the noise, and measure it.


# %%
from sltools.exercises import check


def predict_and_average(sent, z, sigma):  # (n, B, C, H, W), (B, C, H, W) and a number, to a pair
    # Hint: the root of the mean square of sent.mean(0) - z is what you measure.
    raise NotImplementedError("your code here")


check("08.average", predict_and_average)

# %% [markdown]
# And how much of the error is left after 64 queries, if one query is 1? Guess first.

# %%
guess_averaged = None  # your guess, 0 to 1


# %%
counts = [8, 64] if budget != "tiny" else [8]


def averaged(count):
    """The server's view after `count` queries for the same images, of which it took the mean."""
    sent = [session.infer(truth) for _ in range(count)]
    z = torch.stack([transcript.view().smashed for transcript in sent]).mean(0)
    first = sent[0]
    merged = Transcript(first.client, models=first.models)
    merged.append(Message(0, 0, "smashed", z, "inference"))
    return merged.view("server")


queried = {1: noisy.inputs} | {count: unsplit(averaged(count)).inputs for count in counts}
plots.reconstructions(
    truth.cpu(), {f"mean of {count}": images for count, images in queried.items()}, names
)

# %%
errors = [error(images) for images in queried.values()]
steps_down = [later / earlier for earlier, later in itertools.pairwise(errors)]
claim("each step to more queries leaves this share of the error", steps_down, "<", 1)
claim(
    f"{counts[-1]} queries leave this share of the error of one", errors[-1] / errors[0], "<", 0.25
)
compare(guess_averaged, errors[-1] / errors[0], "share of the error that averaging leaves")

# %% [markdown]
# * **A noise has to be accounted for over all releases of an image** (all messages about it that
#   ever leave the client), not for one. Differential privacy, below, keeps such accounts, and its
#   promise gets weaker with every epoch.
# * Drawing the noise of an image once and keeping it would help here, until the image comes back
#   slightly shifted.

# %% [markdown]
# ## Seeming safe, 2: a dCor that falls
#
# **Distance correlation** (dCor) measures how much two random variables have to do with each other:
# 0 if they are independent, 1 if one is the other, rotated and scaled. For a batch of images $x_i$
# and their smashed data $z_i$, take all distances $a_{ij} = \lVert x_i - x_j \rVert$ and
# $b_{ij} = \lVert z_i - z_j \rVert$, subtract row and column means and add the overall mean, and
# call the results $A$ and $B$. Then
#
# $$\mathrm{dCor}(x, z) = \sqrt{\frac{\overline{A B}}{\sqrt{\overline{A A} \cdot \overline{B B}}}}$$
#
# where the bar is the mean over all pairs. In words: are images that are far apart also far apart
# after the cut?


# %%
def centred(v):
    d = torch.cdist(v.flatten(1), v.flatten(1))
    return d - d.mean(0) - d.mean(1, keepdim=True) + d.mean()


def dcor(x, z):
    a, b = centred(x), centred(z)
    return ((a * b).mean() / ((a * a).mean() * (b * b).mean()).sqrt()).sqrt().item()


def floor_of(x, z):
    """What dCor says of images and the messages of other images."""
    return dcor(x, z.roll(1, 0))


x = source.test.images[:100].to(device)
with torch.no_grad():
    z = session.client.front(x)
generator = seeds.generator(seed, "lesson")
unrelated = torch.randn(x.shape, generator=generator).to(device)
by_library = defenses.distance_correlation(x, z).item()
assert abs(dcor(x, z) - by_library) < 1e-3
claim("dCor of an image and itself, darker", dcor(x, x / 2), ">", 0.99)
claim("of an image and its smashed data", dcor(x, z), ">", 0.9)
claim("of an image and another image's smashed data, all the same", floor_of(x, z), ">", 0.4)
claim("of an image and mere noise", dcor(x, unrelated), ">", 0.6)

# %% [markdown]
# What has nothing to do with the images does not come out at 0: with a hundred samples of many
# dimensions the estimate is far too high, most of all for noise. So a dCor means nothing without
# its **floor**: what the same messages score with the images in another order.
#
# **NoPeek** (Vepakomma et al., 2020) adds dCor to the client's loss, so that it learns layers
# whose output varies as little as possible with the image. The cut is one pooling deeper than
# before: the first layer alone has little freedom to hide anything (column *dCor* of the table
# below).
#
# The attacker is one who knows the client's layers (granted) and has public images of the same
# kind. It lets the public images through the layers, and trains a **decoder** to undo them. If
# NoPeek raises the decoder's error, how near to the mean image's does it come?

# %%
guess_nopeek = None  # your guess: the decoder's error as a share of the mean image's, 0 to 1

# %%
deeper = "pool2"
public = source.test[experiments.public_rows(source, 10)].images.to(device)
weight = 2.0
hiding = experiments.train_victim(
    source, deeper, budget=budget, seed=seed, device=device,
    client=lambda front, *head: protocol.Client(front, *head, penalty=defenses.NoPeek(weight)),
)  # fmt: skip
session.client.outgoing = plain
open_ = protocol.recut(session, deeper)
clients = {"without": open_, f"NoPeek {weight:g}": hiding}
decoded, found = {}, {}
for name, client in clients.items():
    view = client.observe(truth, grants=["client_model"])
    decoded[name] = decoder(view, public).inputs
    with torch.no_grad():
        messages = client.client.front(x)
    found[name] = (
        dcor(x, messages),
        floor_of(x, messages),
        error(decoded[name]),
        client.accuracy(source.test),
    )
plots.reconstructions(truth.cpu(), decoded, names)

# %%
(before, floor_before, error_before, _), (after, floor_after, error_after, kept) = found.values()
claim("NoPeek lowers the dCor by", before - after, ">", 0.08)
claim("and its floor by", floor_before - floor_after, ">", 0.04)
claim("of what lay above the floor, this share is left",
      (after - floor_after) / (before - floor_before), ">", 0.75)  # fmt: skip
claim("the decoder's error rises by a factor of", error_after / error_before, ">", 1.2)
claim("to this share of the mean image's", error_after / nobody, "<", 0.5)
claim("the service keeps an accuracy of", kept, ">", 0.93)
compare(guess_nopeek, error_after / nobody, "decoder's error as a share of the mean image's")

# %% [markdown]
# The number that was to be lowered was lowered, and its floor with it: over three quarters of what
# lay between them is left. The decoder's error rises, and stays below half the mean image's: the
# loops of 8 and 9 have run into blots, the 0, 1, 3 and 5 are there to be read. dCor asks whether
# **distances** survive; an attacker needs only that different images go to different places,
# however near. *A measure that the defence trains against is the last one to judge it by.*
#
# Can dCor be brought down to its floor? A crude trick does it without training: drown one channel
# in noise, and the distances are those of the noise. All other channels are as they were.


# %%
class OneLoudChannel(defenses.Outgoing):
    """Adds noise of standard deviation `scale` to the first channel and leaves the others alone."""

    def __init__(self, scale, seed=0):
        super().__init__(seed)
        self.scale = scale

    def change(self, tensor):
        noise = torch.randn(tensor[:, :1].shape, generator=self._generator).to(tensor)
        return torch.cat([tensor[:, :1] + self.scale * noise, tensor[:, 1:]], dim=1)


loud = OneLoudChannel(30.0, seed=seed)
session.client.outgoing = loud
view = session.observe(truth, grants=["client_model"])
through = decoder(view, public, defense=OneLoudChannel(30.0, seed=seed + 1)).inputs
drowned = loud.change(z)
dcor_loud, floor_loud = dcor(x, drowned), floor_of(x, drowned)
session.client.outgoing = plain
claim(
    "one loud channel: the dCor differs from its floor by", abs(dcor_loud - floor_loud), "<", 0.01
)
claim("the decoder looks elsewhere: its error, as a share of the mean image's",
      error(through) / nobody, "<", 0.5)  # fmt: skip

# %% [markdown]
# ## Seeming safe, 3: a mean that hides one victim
#
# A client adds strong noise to nine of ten messages and none to the tenth, "to save accuracy".
# The report says: mean error as bad as a blank guess. Here the attacker knows the weights, to keep
# the point apart from all others.


# %%
class Mostly(defenses.GaussianNoise):
    """Adds noise to nine samples of ten, drawn by lot."""

    def change(self, tensor):
        spared = torch.randperm(len(tensor), generator=self._generator) % 10 == 0
        return torch.where(
            spared.view(-1, 1, 1, 1).to(tensor.device), tensor, super().change(tensor)
        )


session.client.outgoing = Mostly(8.0, seed=seed)
known = KnownWeightsInversion(steps=max(50, unsplit.steps // 2), seed=seed)
mostly = known(session.observe(truth, grants=["client_model"])).inputs
session.client.outgoing = plain
each = metrics.mse(mostly, truth)
plots.reconstructions(truth.cpu(), {"nine of ten with noise": mostly}, names)

# %%
claim("the mean error, as a multiple of the mean image's", each.mean().item() / nobody, ">", 1)
claim("and one image is all but perfect, with this share of the mean image's error",
      each.min().item() / nobody, "<", 0.05)  # fmt: skip

# %% [markdown]
# Somebody is in that picture. **Privacy is a promise to each person**, so report the worst case
# beside the mean: the best reconstruction, not the average one. Differential privacy is a bound
# for the worst case; that is its point.

# %% [markdown]
# ## The attacker knows
#
# Back to the noise of the beginning. UnSplit was built for clean smashed data, and so far it has
# been our only judge of noise. An **adaptive** attacker adds the same kind of noise, of its own
# drawing, to the smashed data of public images, and trains its decoder on those.

# %%
noise = defenses.GaussianNoise(scale, seed=seed)
session.client.outgoing = noise
view = session.observe(truth, grants=["client_model"])
session.client.outgoing = plain
naive = decoder(view, public).inputs
adaptive = decoder(view, public, defense=defenses.GaussianNoise(scale, seed=seed + 1)).inputs
plots.reconstructions(
    truth.cpu(),
    {"UnSplit": noisy.inputs, "decoder": naive, "knows the noise": adaptive},
    names,
)

# %%
claim("the decoder that knows the noise leaves this share of UnSplit's error",
      error(adaptive) / error(noisy.inputs), "<", 0.5)  # fmt: skip
claim("and this share of that of the decoder that does not", error(adaptive) / error(naive), "<", 1)

# %% [markdown]
# Is that the best an attacker can do? Turn the noise up until the decoder, trained in haste, finds
# no more than the mean image. Then try an attack that needs no training at all. Weigh each public
# image $x_i$ by how well it would explain the message,
#
# $$w_i \propto \exp\left(-\frac{\lVert z - f(x_i) \rVert^2}{2 \sigma^2}\right)$$
#
# and take the weighted mean of them. This is the **posterior mean**: were the private image one
# of the public ones, drawn by lot, no estimate would have a smaller expected squared error.

# %%
drowning = 8.0
session.client.outgoing = defenses.GaussianNoise(drowning, seed=seed)
view = session.observe(truth, grants=["client_model"])
session.client.outgoing = plain
trained = decoder(view, public, defense=defenses.GaussianNoise(drowning, seed=seed + 1)).inputs
with torch.no_grad():
    apart = torch.cdist(view.smashed.flatten(1), view.client_model(public).flatten(1))
weights = torch.softmax(-apart.square() / (2 * drowning**2), dim=1)
weighed = (weights @ public.flatten(1)).view_as(truth)
plots.reconstructions(truth.cpu(), {"decoder": trained, "posterior mean": weighed}, names)

# %%
claim("the decoder's error, as a share of the mean image's", error(trained) / nobody, ">", 0.9)
claim("that of the posterior mean", error(weighed) / nobody, "<", 0.75)

# %% [markdown]
# So every number in this lesson says what **these** attacks found, and none says what cannot be
# found. (Digits are kind to the posterior mean: each has a public one that resembles it.)

# %% [markdown]
# ## One that works, and its price
#
# **Local differential privacy.** Clip the smashed data of each image to norm $C$, then add Gaussian
# noise of standard deviation $m \cdot 2C$. Whatever two images go in, what comes out is nearly as
# likely for one as for the other: by a factor of at most $e^\varepsilon$, up to a small failure
# probability $\delta$. No attack needs to be tried. It holds against attacks that are not yet
# invented.
#
# It holds for the messages of **one** image, from layers that **have not learnt from it**: those of
# somebody who queries a trained service. An image of the training set comes in every epoch, so its
# $\varepsilon$ is composed over all of them; and the client's layers learn from it without noise,
# so that it leaves a trace in the messages of *other* images, which this accounting leaves out.
#
# What is $\varepsilon$ for a given $m$? An accountant knows (here opacus'). An $\varepsilon$ of 1
# is a strong promise, of 10 a weak one; above, it is hardly a promise.
#
# With $m = 1$ a query has an $\varepsilon$ below 10. What accuracy is left of 97%? (Ten classes.)

# %%
guess_private = None  # your guess, 0 to 1

# %%
EPOCHS = 25  # of the recorded trainings
mechanisms = {m: defenses.LocalPrivacy(20.0, m) for m in (0.01, 0.1, 1.0, 4.0)}
promises = {m: mechanism.epsilon(releases=1) for m, mechanism in mechanisms.items()}
in_training = {m: mechanism.epsilon(releases=EPOCHS) for m, mechanism in mechanisms.items()}
print("epsilon at delta 1e-5   one query   the 25 messages of a training image")
for m in promises:
    print(f"noise m = {m:<14g}{promises[m]:9,.1f}   {in_training[m]:12,.1f} at least")

# %%
study_folder = lessons.course() / "results"
recorded = arena.read(study_folder / "arena_digits.csv")
about = json.loads((study_folder / "arena_digits.json").read_text())
print("recorded with:", about["command"], f"(torch {about['versions']['torch']})")


def middle(defense, strength, attack, measure):
    return statistics.median(arena.medians(recorded, attack, measure)[defense, strength])


lost = {m: middle("local privacy", m, "service", "accuracy") for m in (0.01, 0.1, 1.0)}
free = middle("none", 0.0, "service", "accuracy")
print(f"\naccuracy, medians of three victims (recorded): no defence {free:.1%}")
for m, accuracy in lost.items():
    print(f"m = {m:<5g} epsilon of a query {promises[m]:12,.1f}   accuracy {accuracy:.1%}")

# %% [markdown]
# There is the price. At an $\varepsilon$ that means something the service is worthless; where the
# service works, $\varepsilon$ means nothing. That is not the mechanism's fault: more than a
# thousand numbers tell the class, and each is drowned. Local privacy works where one number per
# person is asked for, and the crowd is large.

# %%
claim("at m = 1 the epsilon of a query is", promises[1.0], "<", 10)
claim("recorded: the accuracy, that of a guess", lost[1.0], "<", 0.2)
claim("and for a training image that epsilon is", in_training[1.0], ">", 10)
claim("recorded: at m = 0.01 the accuracy is", lost[0.01], ">", 0.9)
claim("and the epsilon of a query", promises[0.01], ">", 3e3)
compare(guess_private, lost[1.0], "accuracy at m = 1, recorded")

# %% [markdown]
# ## Labels
#
# With one rare class, $\partial L / \partial u$ gives it away by its length alone: the client errs
# on the rare class, so $1 - p_y$ is large there, with which the length grows
# ([lesson 07](07_label_inference.ipynb); Li et al., 2022). The **leak AUC** is the chance that
# a rare sample scores higher than a common one: ½ is a guess, 1 is certainty. (This is not
# the leaked gradient of lessons 02 and 07, which is not on the wire.)
# *Max-norm* stretches all gradients to the length of the longest on average; *Marvell* adds the
# noise that makes the two classes most alike for its power, and states a bound.
#
# A network that has seen nothing errs on both classes; so the AUC below is that of the second
# epoch.
#
# A bound has to hold for every attack. We try seven:
#
# * the **length**, for which nothing is granted;
# * the **two-sided length**, likewise: how near the length is to the batch's root mean square
#   (RMS), about which max-norm scatters short gradients, while long ones stay close;
# * the **cosine** to the gradient of one rare sample, whose label is granted;
# * the **line**, an oracle: for each batch, the direction in which the class means differ before
#   the defence;
# * the **two-sided line**: how near the coordinate along that line is to the RMS;
# * the **whitened line**: the line times the inverse covariance $\Sigma^{-1}$ of the gradients that
#   arrived, away from the noise (Fisher's linear discriminant);
# * the **earlier line**: the same, with the direction of the batch before.
#
# **Try it.** Write the leak AUC: compare all pairs, and count a tie half.


# %%
def my_leak_auc(scores, rare):  # (N,) numbers, and (N,) with 1 for a rare sample and 0 for others
    # Hint: scores[rare == 1][:, None] > scores[rare == 0] has an entry for each pair.
    raise NotImplementedError("your code here")


check("08.leak_auc", my_leak_auc)

# %% [markdown]
# Max-norm is made to take the length away. What leak AUC does the whitened line still reach?

# %%
guess_line = None  # your guess, 0.5 to 1


# %%
def leak(number, outputs=10, change=lambda gradient, labels: gradient, **options):
    """Leak AUC of "is it the first class?" by seven attacks on one victim: means of epoch 2."""
    lines = []

    def returning(gradient, labels):
        lines.append(gradient[labels == 1].mean(0) - gradient[labels == 0].mean(0))
        return change(gradient, labels)

    some = source.train[: 640 if budget != "tiny" else 256]
    rare = data.Split(some.images, (some.labels == 0).long())
    net = models.for_images(source.train.images.shape, number)
    with seeds.scope(number, "head"):
        net.fc3 = torch.nn.Linear(84, outputs)
    front, rest, head = models.cut(net, ("pool1", "relu4"))
    client = protocol.Client(front, head, returning=returning, **options)
    server = protocol.Server(rest, label_private=True)
    watched = protocol.train(
        client, server, rare, epochs=2, seed=number, record=True, device=device
    ).transcript
    view = watched.view("server", grants=["anchor_labels"])
    sent = view.payloads("feature_gradient")
    truths = [page["labels"].cpu() == 1 for page in watched.client_log.values()]
    earlier = lines[:1] + lines[:-1]  # the first is of epoch 1, which does not count
    attacks = {
        "length": GradientLeak("norm")(view).scores.split(64),
        "two-sided length": [near_rms(g) for g in sent],
        "cosine": GradientLeak("cosine")(view).scores.split(64),
        "line": [g @ line for g, line in zip(sent, lines, strict=True)],
        "two-sided line": [near_rms(g, line) for g, line in zip(sent, lines, strict=True)],
        "whitened line": [whitened_line(g, line) for g, line in zip(sent, lines, strict=True)],
        "earlier line": [whitened_line(g, line) for g, line in zip(sent, earlier, strict=True)],
    }
    late = range(len(sent) // 2, len(sent))
    both = [i for i in late if 0 < truths[i].sum() < len(truths[i])]
    return {
        name: statistics.fmean(metrics.leak_auc(scores[i], truths[i]) for i in both)
        for name, scores in attacks.items()
    }


bounds = []


def leak_with_marvell(number):
    """The same with Marvell, noting the bound that it states for each batch."""
    marvell = defenses.Marvell(4.0, seed=number)

    def noting(gradient, labels):
        changed = marvell(gradient, labels)
        bounds.append(marvell.plan.auc_bound)
        return changed

    return leak(number, change=noting)


trials = {
    "no defence": leak,
    "max-norm": lambda number: leak(number, outgoing=defenses.MaxNorm(number)),
    "max-norm, 2 outputs": lambda number: leak(number, 2, outgoing=defenses.MaxNorm(number)),
    "Marvell 4": leak_with_marvell,
}
aucs = {}
for name, trial in trials.items():
    for number in range(seed, seed + (1 if budget == "tiny" else 5)):
        for attack, auc in trial(number).items():
            aucs.setdefault((name, attack), []).append(auc)
typical = {key: statistics.median(several) for key, several in aucs.items()}
by_attack = list(dict.fromkeys(attack for _, attack in aucs))
plots.rows(
    by_attack,
    {
        name: [[f(aucs[name, by]) for by in by_attack] for f in (statistics.median, min, max)]
        for name in ("max-norm", "Marvell 4")
    },
    "leak AUC, median and range (grey: a guess)",
    reference=0.5,
)

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
print("leak AUC: median [least, greatest] over the victims")
for (name, attack), several in aucs.items():
    middling, least, greatest = typical[name, attack], min(several), max(several)
    print(f"{name:21}{attack:18}{middling:.3f} [{least:.3f}, {greatest:.3f}]")
print(f"{'Marvell 4':21}{'bound':18}{statistics.median(bounds):.3f}")


# %%
def medians_with(name):
    """The medians of all attacks against a defence."""
    return [auc for key, auc in typical.items() if key[0] == name]


one_sided = ("length", "cosine", "line", "whitened line", "earlier line")
claim("undefended, medians of all but the two-sided",
      [typical["no defence", by] for by in one_sided], ">", 0.9)  # fmt: skip
claim("max-norm, the length, with every victim", aucs["max-norm", "length"], "<", 0.8)
claim("but the two-sided length, of 10 outputs or 2",
      aucs["max-norm", "two-sided length"] + aucs["max-norm, 2 outputs", "two-sided length"],
      ">", 0.75)  # fmt: skip
claim("the whitened line, and that of the batch before",
      aucs["max-norm", "whitened line"] + aucs["max-norm", "earlier line"], ">", 0.98)  # fmt: skip
claim("and the cosine, for one label granted", aucs["max-norm", "cosine"], ">", 0.95)
two = {by: several for (name, by), several in aucs.items() if name == "max-norm, 2 outputs"}
claim("with 2 outputs, all one-sided attacks", sum((two[by] for by in one_sided), []), "<", 0.9)
whitening = [abs(w - n) for w, n in zip(two["whitened line"], two["line"], strict=True)]
claim("whitening moves that of the line by", max(whitening), "<", 0.01)
claim("but the two-sided line", two["two-sided line"], ">", 0.88)
claim("Marvell, medians of all attacks", medians_with("Marvell 4"), "<", 0.7)
claim(
    "their greatest, and the bound that it states",
    max(medians_with("Marvell 4")),
    "<",
    statistics.median(bounds),
)
compare(guess_line, typical["max-norm", "whitened line"], "leak AUC of the whitened line")

# %% [markdown]
# The verdict on **max-norm**: it hides neither length nor direction. Whoever asks how *near* a
# length is to the average finds much of the class, without a grant. And each gradient stays on its
# line. Our head has ten outputs (eight are never right), so the lines of the two classes differ,
# and one known sample, or a granted direction, is enough to be almost sure. With two outputs, for
# which it was made, $p - e_y$ is $\pm(1 - p_y)(1, -1)$: all gradients lie on one line, and only the
# two-sided line comes near that. The medians of all seven keep Marvell's bound. (An AUC near 0, as
# that of the two-sided length without a defence, is a score turned round, and tells as much.)
#
# What of ten classes, and of more that is granted?

# %%
wire = {d: middle(d, s, "labels, wire", "cluster_accuracy")
        for d, s in (("none", 0.0), ("max-norm", 0.0), ("Marvell", 4.0))}  # fmt: skip
published = middle("Marvell", 4.0, "labels, published", "label_accuracy")
claim("recorded: ten classes in clusters are found despite max-norm", wire["max-norm"], ">", 0.95)
claim("recorded: with Marvell", wire["Marvell"], "<", 0.7)
claim("recorded: labels found by the granted weight gradient all the same", published, ">", 0.99)

# %% [markdown]
# Marvell protects the message that it changes. Whoever has the gradient of the head's weights does
# not need that message. And **DP-SGD**, which adds noise to what the client's *weights* learn,
# changes no message at all: the arena shows the images coming back as if it were not there.

# %% [markdown]
# ## The frontier
#
# The figure is **recorded**, on the digits: a panel for each defence ("none, vanilla": no defence,
# where labels are sent, as for those after it). A marker is the median at one strength, the thin
# line goes from the least to the greatest, grey dots are the other defences. The shaded corner is
# where to be: at most ten points of accuracy lost, half of the mean image's error left.
#
# A defence works only where the **best of all attackers** fails. There are five: *UnSplit*, granted
# nothing; the adaptive *decoder*, granted the client's layers, with public images (three victims,
# attacked three times each); and *SDAR*, *PCAT* and *FORA*, which know the defence, have 200 images
# of their own and no grant (one victim, one attempt).
#
# How many of the 25 settings will be in that corner?

# %%
guess_corner = None  # your guess: a whole number

# %%
MEASURES = {"aligned error": "aligned_mse", "raw error": "raw_mse", "best image": "best_mse"}


WITH_DATA = ("SDAR", "PCAT", "FORA")
SIDES = {
    "best of all": arena.IMAGE_ATTACKS,
    "best without a grant": ("UnSplit", *WITH_DATA),
    "UnSplit": ("UnSplit",),
}


def draw(attack, error_of):
    """The frontier as some attackers see it."""
    return arena.frontier(recorded, SIDES[attack], MEASURES[error_of])


widgets.show(draw, attack=list(SIDES), error_of=list(MEASURES))


# %%
floor = statistics.median(r.baseline for r in recorded if r.measure == "aligned_mse")


def least_error(defense, strength, attacks=arena.IMAGE_ATTACKS):
    """The error of the best attack, recorded."""
    _, errors = arena.best_attacks(recorded, attacks)[defense, strength]
    return statistics.median(errors)


works = {name: arena.working(recorded, attacks) for name, attacks in SIDES.items()}
print("in the shaded corner:", works["best of all"] or "none")
print("where UnSplit fails, best errors as shares of the mean image's:")
for key in works["UnSplit"]:
    with_data, granted = (least_error(*key, some) / floor for some in (WITH_DATA, ["decoder"]))
    print(f"  {key[0]} {key[1]:g}: with data {with_data:.2f}, decoder {granted:.2f}")
claim("recorded: attackers with data leave of it, where UnSplit fails",
      [least_error(*key, WITH_DATA) / floor for key in works["UnSplit"]], "<", 0.4)  # fmt: skip
claim("recorded: settings that work, were there no attacker with a grant",
      len(works["best without a grant"]), "<", 1)  # fmt: skip
digits = data.load("digits")
of_record = experiments.first_targets(digits, 10)
own, _ = experiments.auxiliary_data(digits, 200)
class_mean = metrics.score_images(experiments.class_means(own, of_record.labels), of_record.images)
claim("the mean image of the right class leaves",
      class_mean.aligned_mse.median().item() / floor, "<", 0.5)  # fmt: skip
compare(guess_corner, len(works["best of all"]), "settings in the shaded corner")

# %% [markdown]
# Nobody is there. Choose UnSplit alone, and four are: **every one of them falls to attackers with
# data, who are granted nothing** (tried on one victim). ("Best image" is the one that came out
# best: the worst case for the client.) Still, who knows the class and has labelled images has its
# mean image for free, which leaves less than half already: only below does an attack tell more.

# %% [markdown]
# All that was measured, in medians: *seconds* is the CPU time of the training, *dCor* that of a
# hundred images and their messages. *UnSplit* to *FORA*, and *hijacking* (one attempt at each
# victim), are *aligned* image errors, which allow each image its best gain and offset; *clone* is
# the accuracy of UnSplit's stolen layers; *clusters*, *published*, *inferred* (PCAT) and *read* are
# shares of labels found. The last columns say whether LabelGap, a detector of ours (see
# [lesson 09](09_malicious_server.ipynb)), raised an alarm: at a hijacker (*seen*), at an honest
# server (*falsely*).
#
# The client with randomised response answered **once** for each image, and trained on its answers:
# of fresh answers in each epoch the server would take the majority.

# %%
Markdown(arena.table(recorded))

# %%
alarms = arena.medians(recorded, "hijacking", "seen", "baseline")
hijacked = arena.medians(recorded, "hijacking", "aligned_mse")
loud_noise = [key for key in alarms if key[0] in ("Gaussian noise", "Laplace noise")]
claim("recorded: share of honest servers accused, with noise on the smashed data",
      [min(alarms[key]) for key in loud_noise], "==", 1)  # fmt: skip
claim("recorded: error of the hijacker, who has not reckoned with noise, beside the mean image's",
      [statistics.median(hijacked[key]) for key in loud_noise], ">", floor)  # fmt: skip

dcor_private = middle("local privacy", 1.0, "wire", "distance_correlation")
others = statistics.median(
    arena.medians(recorded, "wire", "distance_correlation", "baseline")["local privacy", 1.0]
)
claim("recorded: dCor of local privacy 1, where nothing comes back", dcor_private, ">", 0.7)
claim("recorded: above that with the messages of other images by", dcor_private - others, "<", 0.01)
dcor_of = {strength: middle("NoPeek", strength, "wire", "distance_correlation")
           for strength in (10.0, 30.0)}  # fmt: skip
lowered = middle("none", 0.0, "wire", "distance_correlation") - dcor_of[10.0]
claim("recorded: NoPeek 10 at pool1 lowers the dCor by", lowered, "<", 0.01)
claim("recorded: NoPeek 30 lowers it to", dcor_of[30.0], "<", 0.9)
served = arena.medians(recorded, "service", "accuracy")["NoPeek", 30.0]
claim("recorded: and the accuracy of one service of three to", min(served), "<", 0.5)
claim("recorded: it stops UnSplit, whose clone has the accuracy of a guess",
      middle("NoPeek", 30.0, "UnSplit", "clone_accuracy"), "<", 0.2)  # fmt: skip
claim("recorded: and not the decoder: share of the mean image's error",
      middle("NoPeek", 30.0, "decoder", "aligned_mse") / floor, "<", 0.25)  # fmt: skip

# %% [markdown]
# Noise cuts both ways.
# The detector asks whether gradients tell the labels; under noise they hardly do, so it accuses
# everybody, and that is no detector. The hijacker was given no second chance: like UnSplit it was
# built for clean messages, and somebody will adapt it.


# %%
claim("recorded: noise of scale 8 leaves the best attack this share of the mean image's error",
      least_error("Gaussian noise", 8.0) / floor, "<", 0.5)  # fmt: skip
useless = (("NoPeek", 10.0), ("DP-SGD", 1.0), ("randomised response", 4.0))
undefended_error = least_error("none", 0.0)
claim("recorded: NoPeek 10, DP-SGD, randomised response: error, as a multiple of the undefended",
      [least_error(*key) / undefended_error for key in useless], "<", 2)  # fmt: skip

# %%
# what `sltools sweep` keeps of this lesson
collected = {
    "error_undefended": error(undefended.inputs),
    "error_noise": error(noisy.inputs),
    "error_averaged": errors[-1],
    "error_adaptive": error(adaptive),
    "leak_auc": typical["no defence", "length"],
    "leak_auc_max_norm": typical["max-norm", "whitened line"],
    "leak_auc_marvell": typical["Marvell 4", "whitened line"],
}

# %% [markdown]
# **The clinic** can now say which promise each defence keeps: on these images none of them kept the
# patient's image and the service, and what held had drowned both. It asks every vendor for an
# attack that knows the defence, for the worst image, and for the accuracy at that strength.
#
# ## Limitations
#
# * **The decoder is granted the client's weights.** An attacker without them hijacks the training
#   ([lesson 09](09_malicious_server.ipynb)), or has data. One victim is few.
# * **Public images of the same kind** are the test images here. Digits are easy to have; patients
#   are not.
# * **Strengths were not tuned** for each defence, and the attacks not for each strength. A point of
#   the frontier is one setting, not the best that a defence can do.
# * **The networks are small.** NoPeek's authors use larger ones, with more to hide in.
# * **Marvell's bound supposes normal gradients**, of two classes. Ours have ten, one against the
#   rest.
# * **Only the first noise was averaged over releases.** So can be every noise of the arena.
#
# ## Try it
#
# * How many queries undo a noise of scale 2? Of 4? Compare with $\sigma / \sqrt n$.
# * Run the arena on MNIST: `sltools arena mnist-arena --dataset mnist`.
# * Write a defence of your own: a subclass of `defenses.Outgoing` with `promises`, `leaves` and
#   `change`. Then attack it as somebody who has read it.
#
# ## Review questions
#
# **1.** A vendor adds noise to the smashed data and shows that UnSplit's error grows tenfold. Which
# two experiments do you ask for?
#
# <details><summary>Answer</summary>
#
# One with an attacker who knows of the noise, for instance a decoder trained on public images with
# the same noise; and one where each image is sent as often as it is in use, with the messages
# averaged. And the accuracy of the service at that noise.
#
# </details>
#
# **2.** Why is a distance correlation at its floor no proof that the images are safe?
#
# <details><summary>Answer</summary>
#
# It compares distances. The image may still be a function of the smashed data, only one that a
# small number of coordinates, or small differences, carry. And it is an average over pairs, which a
# single exposed image hardly changes.
#
# </details>
#
# **3.** A client trains with DP-SGD at ε = 1. What does that promise to a person whose image was in
# the training set, and what not?
#
# <details><summary>Answer</summary>
#
# That the trained weights of the client's layers would be nearly as likely without that image,
# **if** what the server returns for other images does not depend on it. But the server learns from
# that image's smashed data too, and its layers shape every gradient it returns. And it does not
# speak of the smashed data themselves, which the server received in every epoch, and from which it
# can reconstruct the image.
#
# </details>
#
# ## Further reading
#
# * P. Vepakomma et al.: *NoPeek: Information leakage reduction to share activations in distributed
#   deep learning*, ICDM workshops 2020. [arXiv 2008.09161](https://arxiv.org/abs/2008.09161).
# * O. Li et al.: *Label Leakage and Protection in Two-party Split Learning*, ICLR 2022.
#   [arXiv 2102.08504](https://arxiv.org/abs/2102.08504). Leak AUC, cosine, max-norm, Marvell.
# * S. Abuadbba et al.: *Can We Use Split Learning on 1D CNN Models for Privacy Preserving
#   Training?*, AsiaCCS 2020. [arXiv 2003.12365](https://arxiv.org/abs/2003.12365). Heartbeats.
# * G. Gawron, P. Stubbings: *Feature Space Hijacking Attacks against Differentially Private Split
#   Learning*, 2022. [arXiv 2201.04018](https://arxiv.org/abs/2201.04018).
# * F. Tramèr et al.: *On Adaptive Attacks to Adversarial Example Defenses*, NeurIPS 2020.
#   [arXiv 2002.08347](https://arxiv.org/abs/2002.08347).
# * G. Székely et al.: *Measuring and testing dependence by correlation of distances*, Annals of
#   Statistics 2007. [arXiv 0803.4101](https://arxiv.org/abs/0803.4101). dCor.
# * Z. He, T. Zhang, R. Lee: *Model Inversion Attacks Against Collaborative Inference*, ACSAC 2019.
#   The decoder.
#
# **Next:** [lesson 09](09_malicious_server.ipynb), on a server that does not keep to the rules.
