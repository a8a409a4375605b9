# ---
# jupyter:
#   sltools:
#     minutes: 25
#     alternative: {seed: 1}
# ---

# %% [markdown]
# # Whom and what: attributes and members
#
# [Lesson 10](../10_attackers_with_data.ipynb) asks when images come back. The clinic now asks what
# a vendor learns *without* getting an image back: something about a patient that nobody asked for,
# or that this patient was in the training.
#
# **Attribute inference** tells, for each image, a property that the task does not need.
# **Membership inference** tells whether an image was one of those that the network was trained on.
#
# **Threat card.** An honest-but-curious server: it sees the smashed data $z$ of an inference and
# has its own layers. For attributes it has images of its own, with labels and the attribute; for
# membership it may have labelled images, or the messages of the training. It has no weights of the
# client's, but where a row says so.
#
# **Time.** About 25 minutes (estimated).

# %% [markdown]
# ## Settings

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victims, attackers and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %%
import json
import statistics

import torch

from sltools import data, experiments, lessons, metrics, models, plots, protocol, seeds
from sltools.attacks import PCAT, AttributeInference, MembershipInference
from sltools.claims import Claims, compare

torch.set_num_threads(1)  # small networks are faster so, whatever the number of cores
as_shown = (dataset, budget, seed) == ("digits", "quick", 0)
claim = Claims(as_shown)
of_record = Claims(as_shown=True)  # what was recorded is the same with any settings

source = data.load(dataset)
asked_count = {"tiny": 200, "quick": 1000, "full": 2000}[budget]
private = source.train[:asked_count]
own, _ = experiments.auxiliary_data(source, 200, seed=seed)
victim = experiments.train_victim(source, "pool1", budget=budget, seed=seed, device=device)
known = models.stages(models.for_images(source.train.images.shape))
stages = [stage for stage in ("pool1", "pool2", "fc1", "relu4") if stage in known]
print(f"the client sends {len(private)} images; the attacker has {own}")

# %% [markdown]
# ## Something nobody asked for
#
# The client's network tells digits apart. How much **ink** an image has, whether more than half of
# the attacker's images, is none of its business. In a scan it could be the dose or the density of
# tissue; in a letter, the pen.


# %%
def ink(images):
    """The mean of the pixels of each image (N, C, H, W)."""
    return images.mean((1, 2, 3))


typical = ink(own.images).median()
own_inky, private_inky = ink(own.images) > typical, ink(private.images) > typical
extremes = {"least": [], "most": []}
for label in range(len(source.classes)):
    ranked = (private.labels == label).nonzero()[:, 0]
    ranked = ranked[ink(private.images[ranked]).argsort()]
    extremes["least"].append(ranked[0])
    extremes["most"].append(ranked[-1])
least, most = (private.images[torch.stack(rows)] for rows in extremes.values())
plots.gallery({"least ink": least, "most ink": most}, source.classes)

# %% [markdown]
# (Of each class, the image with the least ink and the one with the most.) In vanilla split learning
# the server knows the class, and a class may tell the attribute. That is the first rival: the share
# of the attacker's images of that class which have it. It needs no $z$.
#
# We score by **AUC**: draw one image with the attribute and one without, and see how often the
# first gets the higher score; 0.5 is chance. Computed **within each class** and averaged, the class
# can tell nothing.

# %%
of_class = torch.stack(
    [own_inky[own.labels == label].float().mean() for label in range(len(source.classes))]
)


def within_class(scores, truth=private_inky, labels=private.labels):
    """AUC of scores (N,) within each class that has both kinds, averaged."""
    found = [
        metrics.leak_auc(scores[labels == label], truth[labels == label])
        for label in labels.unique()
        if 0 < truth[labels == label].sum() < (labels == label).sum()
    ]
    return statistics.mean(found)


by_class = of_class[private.labels]
print(f"with the attribute: {of_class.min():.0%} to {of_class.max():.0%} of a class")
claim("AUC of the class alone", metrics.leak_auc(by_class, private_inky), "<", 0.65)
claim("the same, within a class", within_class(by_class), "==", 0.5)

# %% [markdown]
# ## Does the network forget it with depth?
#
# Each layer is there to keep the class and may drop the rest. The best case for the attacker first:
# it is granted the client's weights, sends its own images through them, and trains a linear
# classifier (logistic regression) to tell the attribute from $z$. What is its AUC within a class at
# the very end, from the ten logits?

# %%
guess_logits = None  # your guess: AUC within a class, from the logits, 0.5 to 1

# %%
views = {
    stage: protocol.recut(victim, stage).observe(private.images.to(device), grants=["client_model"])
    for stage in stages
}
places = {stage: (stage, "smashed") for stage in stages} | {"logits": (stages[-1], "output")}
bound = {
    place: within_class(AttributeInference(at)(views[stage], own.images, own_inky).scores)
    for place, (stage, at) in places.items()
}
plots.depth_curve(
    list(bound),
    {"with the client's weights": ([*bound.values()],) * 3},
    "AUC within a class",
    baselines={"chance, and the class alone": 0.5},
)

# %%
compare(guess_logits, bound["logits"], "AUC within a class, from the logits")
claim("at every stage, with the client's weights", [*bound.values()], ">", 0.8)
claim("from the logits, less than after the first pooling",
      bound["pool1"] - bound["logits"], ">", 0.05)  # fmt: skip

# %% [markdown]
# The network was never asked for ink and never quite forgets it: even ten numbers that are meant to
# say "a 7" say how thick the 7 is. Song and Shmatikov call this **overlearning**.
#
# Before any attack with data, its strongest rival: somebody who has none. More ink makes more of
# the network light up, so the plain **length** of $z$ may tell. Its AUC within a class, at fc1?

# %%
guess_length = None  # your guess, 0.5 to 1

# %%
length = {stage: within_class(views[stage].smashed.flatten(1).norm(dim=1).cpu())
          for stage in stages}  # fmt: skip
deep = stages[2] if len(stages) > 2 else stages[-1]
compare(guess_length, length[deep], "AUC within a class, by the length of z, at fc1")
claim("by the length of z, at every stage", [*length.values()], ">", 0.7)

# %% [markdown]
# Most of it, for nothing. So an attack is worth what it **adds** to that.
#
# Now without the weights. [Lesson 10](../10_attackers_with_data.ipynb) has an attacker's
# **surrogate** of the client, trained so that its smashed data look like the client's. It was built
# to decode images. Here it makes training data for the same linear classifier. After fc1, the first
# dense layer: does it get more of the attribute by decoding images and measuring their ink, or by
# asking $z$ at once?

# %%
guess_direct = None  # your guess: AUC from z, less that from decoded images

# %%
steps = {"tiny": 10, "quick": 200, "full": 1500}[budget]
found = PCAT(steps=steps, seed=seed)(views[deep], own)
direct = AttributeInference()(views[deep], own.images, own_inky, front=found.clone)
from_z, decoded = within_class(direct.scores), within_class(ink(found.inputs).cpu())
print("knew:", ", ".join(dict.fromkeys([*found.knowledge, *direct.knowledge])))
compare(guess_direct, from_z - decoded, "AUC from z, less that from decoded images")
claim("from z, by a surrogate", from_z, ">", 0.7)
claim("and less what the length of z tells", from_z - length[deep], "<", 0.12)
claim("from z, less that from decoded images", from_z - decoded, "<", 0.05)

# %% [markdown]
# Recorded over more victims (FORA has no labels, and its surrogate is wrong after a dense layer, as
# the lesson shows):

# %%
record = json.loads((lessons.course() / "results/attribute_membership_digits.json").read_text())


def recorded(kind, name, **of):
    """The values `name` of the record's rows that are `of` something."""
    rows = [row for row in record[kind] if all(row[key] == value for key, value in of.items())]
    return [row[name] for row in rows]


def spread(values):
    """Median, least and greatest."""
    return statistics.median(values), min(values), max(values)


PLACES = ["pool1", "pool2", "fc1", "relu4", "logits"]
WHO = {
    "client's weights": "with the client's weights",
    "PCAT": "PCAT, from z",
    "FORA": "FORA, from z",
    "FORA, decoded image": "FORA, decoded image",
    "length of z alone": "length of z, no data",
}


def over_depth(attack):
    """Medians, least and greatest at each place; of the logits no image is decoded."""
    nothing = (float("nan"),) * 3
    found = [recorded("attributes", "within", attack=attack, stage=place) for place in PLACES]
    return [*zip(*(spread(some) if some else nothing for some in found), strict=True)]


plots.depth_curve(
    PLACES, {shown: over_depth(attack) for attack, shown in WHO.items()},
    "AUC within a class (recorded, digits)", baselines={"chance": 0.5},
)  # fmt: skip

# %% [markdown]
# ## Was this patient in the training?
#
# Another question, with another danger: that somebody was in the training set of a cancer study
# tells a good deal. Who asks? In vanilla split learning the server *took part* in the training. So
# there are two attackers: a server that kept no message, and one that did.
#
# The first has its layers and looks at how **sure** they are: a network is often surer of images
# that it was trained on. How much, depends on the training. One victim is trained as usual, the
# other much too long on few images. The questions are about as many members as others, who come
# from the same data. Before you look: the AUC for each?

# %%
guess_well, guess_long = None, None  # your guesses, 0.5 to 1

# %%
probes = {"tiny": 50, "quick": 200, "full": 200}[budget]
REGIMES = {  # images, epochs
    "trained well": (3 * probes, {"tiny": 2, "quick": 25, "full": 25}[budget]),
    "trained too long": (probes, {"tiny": 4, "quick": 150, "full": 150}[budget]),
}
pool = data.Split(
    torch.cat([source.train.images[:1400], source.test.images[:300]]),
    torch.cat([source.train.labels[:1400], source.test.labels[:300]]),
)
order = torch.randperm(len(pool), generator=seeds.generator(seed, "members of the lesson"))
others = pool[order[-probes:]]
truth = torch.arange(2 * probes) < probes  # members first


def train_on(members, epochs):
    """Train a victim; keep what the server was sent in the last epoch."""
    net = models.for_images(members.images.shape, seed)
    settings = {"seed": seed, "device": device}
    session = protocol.train(*models.cut(net, "pool1"), members, epochs=epochs - 1, **settings)
    parties = session.client, session.server
    return protocol.train(*parties, members, epochs=1, record=True, **settings)


trained, asked = {}, {}
for regime, (count, epochs) in REGIMES.items():
    members = pool[order[:count]]
    trained[regime] = train_on(members, epochs)
    questions = torch.cat([members.images[:probes], others.images]).to(device)
    asked[regime] = trained[regime].observe(questions)
    right = [trained[regime].accuracy(part) for part in (members, others)]
    print(f"{regime:18} {count} images, {epochs} epochs: right for {right[0]:.1%} of the members "
          f"and {right[1]:.1%} of the others")  # fmt: skip

# %%
sure = {regime: MembershipInference()(view).scores for regime, view in asked.items()}
doubt = -sure["trained too long"]
ranks = torch.linspace(0, 1, probes)
plots.lines(
    ranks,
    {"members": doubt[truth].sort().values, "others": doubt[~truth].sort().values},
    "share of the images, from the surest to the least sure",
    "doubt (-log of the largest probability), trained too long",
    log=True,
)

# %%
auc = {regime: metrics.leak_auc(scores, truth) for regime, scores in sure.items()}
compare(guess_well, auc["trained well"], "AUC, trained well")
compare(guess_long, auc["trained too long"], "AUC, trained too long")
claim("AUC, trained well", auc["trained well"], "<", 0.6)
claim("AUC, trained too long", auc["trained too long"], "<", 0.7)
at_one_percent = metrics.tpr_at(sure["trained too long"], truth)
claim("trained too long: members found at 1% false alarms", at_one_percent, "<", 0.1)

# %% [markdown]
# For most of their length the curves coincide: most digits are easy, members or not. They part at
# the end, where the network doubts. Whoever is doubted was *hardly* a member; whoever is not may be
# anybody. An average over all hides what matters to a patient: whom can the attacker name and be
# *right*? One false alarm in a hundred is the usual bar, and there almost nobody is found.
#
# Now the server that kept the messages of the last epoch. It asks: has anything so near to this $z$
# been sent before? Your guess for the client that was trained *well*?

# %%
guess_recording = None  # your guess: AUC

# %%
kept = {
    regime: MembershipInference("recording")(
        view, recording=trained[regime].transcript.view("server")
    ).scores
    for regime, view in asked.items()
}
auc_kept = {regime: metrics.leak_auc(scores, truth) for regime, scores in kept.items()}
compare(guess_recording, auc_kept["trained well"], "AUC, trained well, messages kept")
claim("AUC, messages kept", [*auc_kept.values()], ">", 0.95)

# %% [markdown]
# That is no statistics of overfitting. It is a look-up, and good training does not help against it:
# **whoever serves the training has its members**, unless it forgets what it was sent, or cannot
# link it. Membership is a question for a server that was *not there*, or kept nothing.
#
# Recorded: the confidence; the loss (the labels are known); **shadows**, networks that the attacker
# trains on halves of its own images: there it knows the members, so a classifier can learn from
# their outputs how members look; the confidence **calibrated**, less that of the shadow networks in
# the image as it was decoded, so that what is easy for every network counts less. And two rows to
# compare with: the messages kept, and a network of the attacker's that is given the image itself
# and has never met the victim.

# %%
RIVAL = "own network, given the image"
SIGNALS = ["confidence", "loss", "shadows", "calibrated", "recording", RIVAL]
by_signal = {
    regime: [
        *zip(
            *(spread(recorded("members", "auc", regime=regime, signal=s)) for s in SIGNALS),
            strict=True,
        )
    ]
    for regime in REGIMES
}
plots.rows(SIGNALS, by_signal, "AUC (recorded, digits); chance in grey", reference=0.5)

# %% tags=["nbval-ignore-output"]
# not compared: the record grows
print(f"{'digits, median [worst]':26}{'signal':32}{'AUC':>12}{'found at 1%':>16}")
for regime in REGIMES:
    for signal in SIGNALS:
        columns = []
        for name, form in (("auc", ".2f"), ("tpr", ".1%")):
            middle, worst, _ = spread(recorded("members", name, regime=regime, signal=signal))
            columns.append(f"{middle:{form}} [{worst:{form}}]")
        print(f"{regime:26}{signal:32}{columns[0]:>12}{columns[1]:>16}")


# %%
def middle(kind, name, **of):
    return statistics.median(recorded(kind, name, **of))


print("recorded, medians; AUC within a class, by PCAT's surrogate:")
of_record("from z at pool1, pool2, fc1 and relu4, and from the logits",
          [middle("attributes", "within", stage=p, attack="PCAT") for p in PLACES],
          ">", 0.75)  # fmt: skip
of_record("at fc1, less that from PCAT's decoded images",
          middle("attributes", "within", stage="fc1", attack="PCAT")
          - middle("attributes", "within", stage="fc1", attack="PCAT, decoded image"),
          "<", 0.05)  # fmt: skip
added = [
    middle("attributes", "within", stage=p, attack="PCAT")
    - middle("attributes", "within", stage=p, attack="length of z alone")
    for p in PLACES
]
of_record("less that by the length of z alone, the same places", added, ">", 0)
of_record("FORA from z, less that by the length alone, at pool2, fc1 and relu4",
          [middle("attributes", "within", stage=p, attack="FORA")
           - middle("attributes", "within", stage=p, attack="length of z alone")
           for p in PLACES[1:4]],
          "<", 0)  # fmt: skip
print("recorded, medians; AUC of members:")
blind = [s for s in SIGNALS if s != "recording"]
of_record("trained well, every signal but the messages",
          [middle("members", "auc", regime="trained well", signal=s) for s in blind],
          "<", 0.6)  # fmt: skip
by_victim = {s: recorded("members", "auc", regime="trained too long", signal=s) for s in SIGNALS}
ahead = {s: torch.tensor(found) - torch.tensor(by_victim[RIVAL]) for s, found in by_victim.items()}
of_record("trained too long, each victim: shadow networks, less the rival", ahead["shadows"],
          ">", 0.05)  # fmt: skip
of_record("the loss, less the rival", ahead["loss"], "<", 0.05)
of_record("the messages kept, from both",
          [middle("members", "auc", regime=r, signal="recording") for r in REGIMES],
          ">", 0.99)  # fmt: skip
of_record("found at 1% false alarms, every signal but the messages",
          [middle("members", "tpr", regime=r, signal=s) for r in REGIMES for s in blind],
          "<", 0.06)  # fmt: skip

# %% [markdown]
# With 400 images an AUC is uncertain by about 0.03 (one standard error). Read so, nothing is found
# of the victim that was trained well. Of the other, shadow networks find a little more than the
# rival who never met it, with each victim. Of what the loss seems to find beside 0.5, most is the
# rival's as well: some images are easy for *every* network.
#
# **The clinic** can answer: a vendor that sees ten logits, of which no image was decoded here, can
# read a property off them, so "no image comes back" is not "nothing is learnt". And whoever serves
# the training can look up who took part; whoever comes later learns next to nothing of it from
# these networks.
#
# ## Limitations
#
# * **One attribute**, which can be seen in every pixel. A rarer or finer one may be lost sooner.
# * **Short attacks**: 200 steps. Longer ones decode better images, and more of the ink in them.
# * **Digits**, small networks, few images, one attacker for each victim. Networks that overfit more
#   give members away more.
# * **Weak membership attacks.** Four shadow networks, trained for 50 epochs whatever the victim's
#   were; attacks with hundreds, each image's own threshold (Carlini et al.), find more.
# * **The messages kept** are those of the last epoch, of the same client. A client that went on
#   learning, or adds noise, is not measured here.
# * The penalty of the linear classifier was chosen on one of the recorded victims.
#
# ## Try it
#
# * Replace ink by another property: is the image heavier on the left than on the right? At which
#   stage is it lost? What does the class tell of it?
# * Train the second victim for 20 epochs, then for 400. What do AUC and accuracy gap do together?
# * Keep the messages of the *first* epoch in place of the last. Does the look-up still work?
#
# ## Further reading
#
# * C. Song, V. Shmatikov: *Overlearning Reveals Sensitive Attributes*, ICLR 2020.
#   [arXiv 1905.11742](https://arxiv.org/abs/1905.11742).
# * R. Shokri et al.: *Membership Inference Attacks Against Machine Learning Models*, IEEE S&P 2017.
#   [arXiv 1610.05820](https://arxiv.org/abs/1610.05820).
# * N. Carlini et al.: *Membership Inference Attacks From First Principles*, IEEE S&P 2022: why to
#   ask for few false alarms. [arXiv 2112.03570](https://arxiv.org/abs/2112.03570).
#
# **Back:** [lesson 10](../10_attackers_with_data.ipynb).
