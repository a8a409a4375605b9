# ---
# jupyter:
#   sltools:
#     minutes: 30
# ---

# %% [markdown]
# # Audit a split: what does it give away, and to whom?
#
# The clinic comes back, with a network and a cut of its own, and one question: *is our split safe?*
# Nothing in this course attacked that network. Somebody has to find out what it gives away, and to
# write it down so that a head physician can act on it.
#
# After this lesson you can audit a split that you have never seen, and report it without a word
# that you could not defend.
#
# **Objectives.** You can
#
# * ask the questions without which an attack proves nothing;
# * attack a network that no layer of this library describes, at each level of knowledge;
# * run `sltools audit`, and read its page: verdicts, guesses, prices, and what was not tried;
# * report a share with its count and interval, and recommend a remedy with its price.
#
# **Prerequisites.** [Lesson 02](02_threat_model.ipynb) (threat cards),
# [lesson 05](05_how_deep.ipynb), [lesson 08](08_defences.ipynb),
# [lesson 09](09_malicious_server.ipynb) and [lesson 10](10_attackers_with_data.ipynb).
#
# **Time.** About 30 minutes (estimated).

# %% [markdown]
# ## Threat card
#
# An audit has a card as an attack has one; it is filled in **before** anything runs.
#
# | | the clinic's split |
# |---|---|
# | **who** | the vendor who runs the server; a thief of its log; a colleague with the weights |
# | **sees** | the smashed data of each image; the vendor also answers the training |
# | **may change** | nothing; a malicious vendor: the gradients that it returns |
# | **wants** | the images, the labels, a working copy of the client's layers |
# | **knows before** | one level after another: nothing, architecture, images, labels, weights |
# | **does not need** | to break any encryption: all of this is what the server is meant to see |
# | **simulated here** | both parties in one process; the attacker's images are of the same kind |
# | **stops working** | that is what is measured, and only for what was tried |
# | **answered by** | another cut, a defence, fewer permissions: each at a price |
#
# Three questions come first, and the clinic answers them, not the auditor. **Who attacks**, and
# what does he know? **What would be a leak**: an image that a stranger recognises, the diagnosis,
# membership? **What would count as a success**? We say here: images are *recovered* if the median
# error is at most half of that of the best guess without an attack, and *partly* up to nine tenths.
# Whoever sets the bar after the results sets it where it suits.

# %% [markdown]
# ## The idea in one figure
#
# An audit is not one attack. It is a ladder of them, each with its guess beside it, and a page that
# says what was found and what was not looked for.

# %%
from sltools import plots

plots.exchange(
    {"clinic": "network, cut, images", "auditor": "attacks, guesses, a page"},
    [
        ("clinic", "auditor", "who attacks? what is a leak? what is a success?"),
        ("clinic", "auditor", "a function that builds the client; weights; some images"),
        ("auditor", "auditor", "guesses: what has somebody who attacks nothing?"),
        ("auditor", "auditor", "attacks, from the weakest attacker to the strongest"),
        ("auditor", "auditor", "prices: other cuts, defences, permissions"),
        ("auditor", "clinic", "a page: what got how far, and what was not tried"),
    ],
)

# %% [markdown]
# ## Settings
#
# The text is about the settings shown. With others a claim may not hold: that is a result too.

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim, attacks and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda; of the training, for the attacks here are small

# %%
import torch
from sklearn.cluster import KMeans
from torch import nn
from torch.nn.functional import avg_pool2d, relu

from sltools import audit, data, experiments, metrics, models, protocol, seeds
from sltools.attacks import PCAT, UnSplit, networks
from sltools.attacks.regression import fitted_decoder
from sltools.claims import Claims, compare
from sltools.models import Architecture
from sltools.view import View

torch.set_num_threads(1)  # small networks are faster so, whatever the number of cores
as_shown = (dataset, budget, seed) == ("digits", "quick", 0)
claim = Claims(as_shown)

source = data.load(dataset)
small = {  # the clinic's scanner has half of the resolution
    name: data.Split(avg_pool2d(split.images, 2), split.labels)
    for name, split in (("train", source.train), ("test", source.test))
}
train = small["train"][: {"tiny": 300, "quick": 5000, "full": 60000}[budget]]
patients, own = (
    small["test"][:60],
    small["test"][60 : {"tiny": 120, "quick": 260, "full": 2000}[budget]],
)
channels = train.images.shape[1]
print(f"the clinic trains on {train}; {len(patients)} patients; the attacker has {own}")

# %% [markdown]
# ## A network that no list of layers describes
#
# The clinic's client has a residual block: its input is added to what its layers make of it. An
# `nn.Sequential` cannot say that, so this is a module with a `forward` of its own, as most networks
# outside of courses are.


# %%
class Client(nn.Module):
    """A strided convolution, and a residual block with BatchNorm: the clinic's half."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, 2, 1)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images):
        x = relu(self.stem(images))
        return relu(x + self.norm(self.two(relu(self.one(x)))))


class Rest(nn.Module):
    """The vendor's half."""

    def __init__(self):
        super().__init__()
        self.mix, self.pool = nn.Conv2d(8, 16, 3, padding=1), nn.AdaptiveAvgPool2d(4)
        self.out = nn.Linear(16 * 4 * 4, len(source.classes))

    def forward(self, z):
        return self.out(self.pool(relu(self.mix(z))).flatten(1))


with seeds.scope(seed, "victim"):
    client, rest = models.as_sequential(Client()), models.as_sequential(Rest())
epochs = {"tiny": 1, "quick": 8, "full": 8}[budget]
session = protocol.train(client, rest, train, epochs=epochs, seed=seed, device=device)
client, rest = client.cpu().eval(), session.server.model.cpu().eval()
works = metrics.accuracy(nn.Sequential(client, rest), small["test"])
claim("accuracy of the service", works, ">", 0.8)

# %% [markdown]
# An attack needs two things of it. The **activations**: what crossed the wire, here or from a log.
# And, for an attacker who knows the architecture, something that builds a **fresh** network of the
# kind, with weights of its own: a function will do. If it came with trained weights, the theft
# would be complete before it begins; the library refuses that.

# %%
shape = train.images.shape[1:]
architecture = Architecture.from_callable(Client, shape)
z = networks.in_chunks(client, patients.images)
view = View.of_activations(z, architecture, rest)
print(architecture)
print(f"{view}, {tuple(z.shape[1:])} for an image of {tuple(shape)}")

# %% [markdown]
# ## One attack on each rung
#
# Four attackers, each of whom knows more than the one before. For each there is a guess that needs
# no wire: without it, a number says nothing. Before you run them: the colleague who holds the
# weights fits a decoder to 200 images. How large is its error, divided by that of the mean image of
# the right class?

# %%
guess_decoder = None  # your guess; above 1 is no better than knowing the class

# %% [markdown]
# **He only listens.** A thief of the log sees vectors and knows nothing. He makes as many groups of
# their directions as there are classes. His guess: groups dealt out at random, named as well as can
# be.

# %%
directions = nn.functional.normalize(z.flatten(1))
machine = KMeans(len(source.classes), n_init=4, random_state=seeds.derive(seed, "k-means") % 2**32)
groups = torch.from_numpy(machine.fit_predict(directions.numpy())).long()
order = torch.randperm(len(groups), generator=seeds.generator(seed, "random partition"))
in_class = metrics.cluster_accuracy(groups, patients.labels)
by_chance = metrics.cluster_accuracy(groups[order], patients.labels)
claim("share in a group of their class, less that by chance", in_class - by_chance, ">", 0.15)

# %% [markdown]
# **He knows the architecture.** The honest-but-curious server of the paper: it searches for images
# and weights at once. **He has labelled images.** The vendor with other customers; PCAT fits a
# surrogate and a decoder, as in lesson 10. **He knows the weights.** Anybody who can read the
# client's file: he lets it send images of his own, and fits a decoder to the pairs. The guess of
# the first is the mean image, that of the others the mean of the class: they have labels.

# %%
steps = {"tiny": 10, "quick": 300, "full": 2000}[budget]
searched = UnSplit(steps=steps, seed=seed)(view)
fitted = PCAT(steps=steps, batch=32, seed=seed)(view, own)
known = fitted_decoder(networks.in_chunks(client, own.images), own.images, ridge=3e-6, seed=seed)

made = {
    "weights known": networks.in_chunks(known, z),
    "PCAT, labelled images": fitted.inputs,
    "UnSplit, architecture": searched.inputs,
    "guess: mean of the class": experiments.class_means(own, patients.labels),
    "guess: mean image": own.images.mean(0).expand_as(patients.images),
}
names = [source.classes[label] for label in patients.labels[:10]]
plots.reconstructions(patients.images[:10], {n: some[:10] for n, some in made.items()}, names)


# %%
def error(images):
    """Median raw MSE of images (N, ...) for the patients."""
    return metrics.mse(images, patients.images).median().item()


errors = {name: error(images) for name, images in made.items()}
best_guess = min(errors["guess: mean of the class"], errors["guess: mean image"])

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
print(f"{f'{len(patients)} patients':28}{'median raw MSE':>16}{'beside the best guess':>24}")
for name, value in errors.items():
    print(f"{name:28}{value:16.4f}{value / best_guess:24.2f}")

# %%
compare(guess_decoder, errors["weights known"] / best_guess, "error with the weights known")
claim("weights known: of the best guess", errors["weights known"] / best_guess, "<", 0.3)
claim("PCAT: of the best guess", errors["PCAT, labelled images"] / best_guess, "<", 0.9)
claim("UnSplit: of the best guess", errors["UnSplit, architecture"] / best_guess, ">", 0.9)

# %% [markdown]
# Read the ladder from below. The search that broke the paper's own network at its first pooling
# does not get past this block, with these steps. An auditor who knew that one attack, and read its
# error alone, would have written "no leak found". Look at its row of pictures before you do: where
# shapes show through a wrong brightness, something leaked that a squared error does not see. And
# one who fits a decoder sees the patients.
#
# ## Let the library climb it
#
# `audit.run` does the same for any module, from cheap to dear, until the minutes are over. It sets
# aside some of the images as the attacker's own, scores everything beside guesses, and tries what
# you may have forgotten. The call stands alone: nothing above is needed but the clinic's files.

# %% tags=["nbval-ignore-output"]
# not compared: how far an audit gets depends on the machine
minutes = {"tiny": 0.05, "quick": 0.5, "full": 5}[budget]
report = audit.run(
    client=Client, images=small["test"].images, labels=small["test"].labels, rest=Rest,
    weights=client[0].state_dict() | rest[0].state_dict(), minutes=minutes, targets=20, seed=seed,
)  # fmt: skip
print(report)

# %% [markdown]
# The same from a shell, with the clinic's own files, is
#
# ```
# sltools audit --client net.py:Client --rest net.py:Rest --weights client.safetensors
#               --images scans/ --labels labels.csv --minutes 5 --out audit
# ```
#
# and writes one page, `report.html`, that needs no network: `report.save("audit")` does that here.
# Read it in this order.
#
# * **In short**: a sentence for images, copy and labels. Each names an attacker, a number, a guess.
# * **The table**: attackers from the weakest to the strongest. "Beside a guess" is the error
#   divided by that of the best guess: 1 is nothing, and up to 0.5 we call it recovered. Look for
#   the first row in which something came back: that attacker is enough.
# * **What a guess has**: if these numbers are missing from a report, close it.
# * **Other cuts, and defences**: what they leave a decoder that knows the weights, and the price.
# * **What was not tried**: the part that a vendor leaves out.
#
# Which attackers get no turn in the short time that we gave it, do you think, and which one cannot?

# %% tags=["nbval-ignore-output"]
# not compared: how far an audit gets depends on the machine
print(f"{'an attacker who ...':28}{'attack':26}{'error':>8}   effort, or why not")
for finding in report.facts["findings"]:
    runs = finding["runs"]
    mse = f"{runs[0]['raw_mse']:.4f}" if runs and runs[0]["raw_mse"] is not None else ""
    effort = f"{len(runs)} run(s)" if runs else f"NOT TRIED: {finding['reason']}"
    print(f"{finding['level']:28}{finding['attacker']:26}{mse:>8}   {effort[:70]}")

# %% [markdown]
# "Not tried" has two reasons that must not be mixed up. *There was no time*: more minutes change
# it, and the same call with a `folder=` goes on where it stopped. *It cannot be tried*: the client
# came with its weights, so there was no training to steer. Whether a malicious server steered the
# one that made them, no audit of the result can tell. The client could have: by the gradients that
# it was sent, if it kept them ([lesson 09](09_malicious_server.ipynb)).
#
# ## What a report must never say
#
# **"Safe."** It would be a statement about attacks that nobody has tried. What can be said: these
# attacks, with this effort, got this far.
#
# **A share without its count.** Say that all targets were identified: each reconstruction is more
# like its own original than like any other. How small may the share of all patients be, of whom
# these are a sample? The 95% interval (Wilson's) says it. For 10 of 10, where does it begin?

# %%
guess_interval = None  # your guess, 0 to 1

# %%
for right, of in ((10, 10), (20, 20), (100, 100), (0, 10)):
    print(audit.Share(right, of))
low, high = audit.Share(10, 10).interval
compare(guess_interval, low, "10 of 10: the low end of the interval")
claim("0 of 10: the high end", audit.Share(0, 10).interval[1], ">", 0.25)

# %% [markdown]
# Look at the last line: *none of ten* fits a share of more than a quarter. **"No image was
# identified" is a sentence about ten images.**
#
# **A number without its guess**, **the best run**, **an accuracy as a theft** (a classifier made of
# the attacker's own labels may have it too), and **an attack that ignores the defence**: you have
# met all four in the lessons before. The page avoids them; you have to, when you quote it.
#
# ## Recommend, with a price
#
# The clinic can do three things. It can cut **deeper**, which costs the client work and stops who
# has no data. It can **defend**, which costs accuracy. Or it can give **fewer permissions**: who
# may read the weights file, the log, the labels? That costs a contract, and holds as long as the
# contract does. The report has the prices of the first two. (A cut of this network needs another
# function that builds it, `also=[...]`: no tool can guess where a `forward` may be divided.)
#
# These are the defences that it tried on the trained client. The decoder knows each of them.

# %% tags=["nbval-ignore-output"]
# not compared: how far an audit gets depends on the machine
guesses = report.facts["guesses"]
print(f"{'without a defence':40}accuracy {guesses['victim']}")
for row in report.facts["defences"]:
    ratio = row["decoder_mse"] / guesses["class_mean"]
    print(f"{row['name']:40}accuracy {row['accuracy']}; decoder {ratio:.2f} of the class mean's")

# %% [markdown]
# Compare the **intervals** of the accuracies before you call a defence free: on so few images two
# of them overlap although one is worse. And read the errors as what they are: one decoder, fitted
# to few images. A defence under which it reaches 1 has beaten that decoder.
#
# The recommendation is then a sentence with four parts. *Against whom*: "a colleague with the
# weights and two hundred images of the kind". *What*: "…reads the images; so the file goes to a
# place where only the service reads it; noise of such a size in addition". *At what price*: "so
# many of so many held-out images right, where it was so many". *What remains*: "who has labelled
# images of the kind gets part of the image, with these steps; training under a malicious server was
# not looked at".
#
# ## A client that you have never seen
#
# Your turn. `unseen.make(seed)` gives you the view of a client: another network, another cut,
# perhaps a defence, perhaps a server that steered its training. You hold its activations, each
# image sent twice; its weights, granted; some images of your own; and of its training the last
# gradients that it was sent. Begin with what costs nothing: look at the numbers. You can have some
# to compare: send an image of your own through the weights, and you know what this client sends
# without a defence.

# %%
from sltools.experiments import unseen

stranger = unseen.make(seed + 19)
network = stranger.view.client_model
print(f"layers: {', '.join(type(layer).__name__ for layer in network)}")

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
rows = dict(zip(("sent", "sent again"), stranger.view.payloads("smashed"), strict=True))
rows["your own"] = networks.in_chunks(network, stranger.own.images)
for name, sent in rows.items():
    for image in sent[:2].flatten(1):
        print(f"{name:12}", " ".join(f"{value:7.3f}" for value in image[40:49]))

# %% [markdown]
# Is there a defence, and which? Noise, rounding, sparsity and clipping each leave a trace of their
# own. Some can be seen in a few numbers; for others you have to count over all images, or to
# compare their norms.

# %%
guess_defence = None  # your guess: "none", "noise", "quantised", "top-k" or "clipped"

# %%
compare(guess_defence, stranger.defence, "the defence")

# %% [markdown]
# Was it hijacked? `hijacked=False` makes the same client with an honest server. Can you tell the
# two by how hard their servers pulled?

# %%
guess_hijacked = None  # your guess: True or False

twin = unseen.make(seed + 19, stranger.defence, hijacked=False)
pull, honest = (some.gradients.flatten(1).norm(dim=1).median().item() for some in (stranger, twin))
claim("median norm of a gradient, beside an honest server's", pull / honest, "<", 1.1)
compare(guess_hijacked, str(stranger.hijacked), "hijacked")

# %% [markdown]
# Not by the norms: a hijacker here gives its gradients those of an honest server. But it does not
# care about labels, and that shows in where they point, for samples of one class and of two.
# [Lesson 09](09_malicious_server.ipynb) has the tools. Where to draw the line, honest clients tell
# you, of whom you can make as many as you like.
#
# The rest is the exercise: images, labels, how sure you are of both, and the page. **Try it.** The
# first of the tasks is the count above, to be written by you. (Nothing below needs it.)


# %%
from sltools.exercises import check


def my_identified(found, truth):  # (N, 1, H, W) twice, to four numbers: right, of, low, high
    # Hint: take the mean from each image; a row of the correlations is one reconstruction.
    raise NotImplementedError("your code here")


check("15.identified", my_identified)

# %%
# what `sltools sweep` keeps of this lesson
collected = {
    "accuracy": works,
    "groups": in_class,
    "unsplit_mse": errors["UnSplit, architecture"],
    "pcat_mse": errors["PCAT, labelled images"],
    "weights_known_mse": errors["weights known"],
    "class_mean_mse": errors["guess: mean of the class"],
}

# %% [markdown]
# ## Limitations
#
# * **An audit is a lower bound.** A stronger attack, more steps, more images or another idea may
#   get further, and nothing on the page can exclude it.
# * **The attacker's images are of the very same kind.** That is the worst case; lesson 10 shows how
#   much a foreign scanner takes away. Give `public=` images if you have some.
# * **One release.** Somebody who sees a patient ten times averages noise away.
# * **Membership and attributes are not asked** here; the appendix
#   [Attributes and members](appendix/10_attributes_and_members.ipynb) asks for both.
# * **Time decides what is tried.** Two audits with other minutes, or on another machine, differ in
#   what they tried. That is why the page says it.
#
# ## Try it
#
# * Give the audit three minutes. Which verdict changes, and which row was the first to recover?
# * Pass `also=[...]` a function that builds the stem alone. What does the block cost, and protect?
# * Leave out `weights=`: both parts are trained in the audit, and its server can be malicious.
# * Replace `relu` at the end of the client by `torch.tanh`. Does that help anybody?
#
# ## Review questions
#
# **1.** A report: "Six attacks, none recovered an image. We recommend the split." What do you ask?
#
# <details><summary>Answer</summary>
#
# Which six, and who is the attacker of each? With how many steps, images and runs? By which
# criterion, stated when? How many targets, and which interval? What does a guess have? And what was
# not tried: did any of them know the weights, have labels, or steer the training?
#
# </details>
#
# **2.** Noise raises the decoder's error to 0.9 of the class mean's, and the accuracy falls from
# 57 of 60 to 55 of 60. Is that a good trade?
#
# <details><summary>Answer</summary>
#
# Nobody knows yet. The two accuracies cannot be told apart on sixty images. The error is that of
# one decoder for one message; somebody who receives the same image ten times has a third of the
# noise. And the mean of the class is a guess that knows the class: 0.9 of it is nearly nothing,
# while the label, which the server is meant to find, stays where it was.
#
# </details>
#
# ## Further reading
#
# * E. Erdoğan, A. Küpçü, A. E. Çiçek: *UnSplit*, WPES 2022.
#   [arXiv 2108.09033](https://arxiv.org/abs/2108.09033).
# * D. Pasquini, G. Ateniese, M. Bernaschi: *Unleashing the Tiger: Inference Attacks on Split
#   Learning*, CCS 2021. [arXiv 2012.02670](https://arxiv.org/abs/2012.02670).
# * N. Carlini et al.: *On Evaluating Adversarial Robustness*, 2019.
#   [arXiv 1902.06705](https://arxiv.org/abs/1902.06705). How not to fool oneself when one's own
#   defence is tried; all of it applies here.
# * L. D. Brown, T. T. Cai, A. DasGupta: *Interval Estimation for a Binomial Proportion*,
#   Statistical Science 16, 2001. Why Wilson's interval.
#
# This is the last lesson. Back to the overview: [lesson 00](00_start_here.ipynb).
