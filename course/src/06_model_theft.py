# ---
# jupyter:
#   sltools:
#     minutes: 50
#     alternative: {cut: pool1}
# ---

# %% [markdown]
# # What a stolen client is worth
#
# The vendor's server can rob the clinic of the layers that it computes with, as lesson 04 showed.
# What could the vendor do with such a copy, to the clinic and to a patient, that it could not do
# without?
#
# After this lesson you can say what an attacker can do with a clone of the client's network, and
# which measurement shows it.
#
# **Objectives.** You can
#
# * tell a copy of the victim from a network that is merely as good;
# * make adversarial examples on the clone and measure how many fool the victim, beside honest
#   baselines;
# * compare the stolen client with what some labelled images can teach;
# * show when training a good clone further does harm, and say why.
#
# **Prerequisites.** [Lesson 04](04_inversion_and_stealing.ipynb) (the attack *UnSplit*) and
# [lesson 05](05_how_deep.ipynb) (how far it reaches).
#
# **Time.** About 50 minutes (estimated).

# %% [markdown]
# ## Threat card
#
# | | using a stolen client |
# |---|---|
# | **who** | an honest-but-curious server, after its attack; or whoever it sells the clone to |
# | **sees** | the smashed data of ten images; from here on it works at home |
# | **may change** | nothing in the protocol; what it does with the clone is its own affair |
# | **wants** | to run the service without the client, to fool it, or to save the labels |
# | **knows before** | the architecture of the client's layers, and its own layers after the cut |
# | **does not need** | to ask the client anything: no query is sent, so none can be counted |
# | **granted here** | test images to try things on, and for one experiment a few labelled images |
# | **simulated here** | both parties in one process; the attack gets the server's view |
# | **stops working** | where the theft does, see lesson 05: for digits, after the dense layers |
# | **answered by** | a deeper cut: after fc1, data bring a thief the accuracy, and not this copy |
# | | ([lesson 10](10_attackers_with_data.ipynb)); and fresh weights |

# %% [markdown]
# ## The idea in one figure
#
# The service is a network in two parts: the client's layers $f$ and the server's layers $g$, so the
# answer to an image is $g(f(x))$. The server has $g$. With a clone $\tilde f$ it has a whole
# network $g \circ \tilde f$, at home, where it can look inside.

# %%
from sltools import plots

plots.exchange(
    {"client": "private images x, the layers f", "server": "the layers g; a clone of f"},
    [
        ("client", "server", "z = f(x), the smashed data of ten images"),
        ("server", "server", "finds a clone by UnSplit (lesson 04)"),
        ("server", "server", "joins clone and g: a whole network, at home"),
        ("server", "server", "prepares an image that this network gets wrong"),
        ("server", "client", "slips the image to a user of the service"),
        ("client", "server", "z of that image, and the service errs too"),
    ],
)

# %% [markdown]
# ## Settings

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
cut: str = "conv2"  # the stage after which the network is cut
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes victim, clone and data order together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %%
import copy
import statistics

import torch
from sklearn.svm import SVC
from torch import nn
from torch.nn.functional import cross_entropy, pad

from sltools import data, experiments, models, seeds, widgets
from sltools.attacks import UnSplit
from sltools.claims import Claims, compare
from sltools.data import Split
from sltools.models import Architecture

as_shown = (dataset, cut, budget, seed) == ("digits", "conv2", "quick", 0)


claim = Claims(as_shown)
source = data.load(dataset)
test = source.test[: {"tiny": 200, "quick": 1000, "full": len(source.test)}[budget]].to(device)
shape = source.train.images.shape[1:]

# %% [markdown]
# ## Three thefts
#
# Three victims, and from each one theft. Two networks that nobody stole stand beside each pair, and
# whatever the clone can do, ask whether they can do it too:
#
# * An **independent** one, of the same architecture, trained by somebody else from other initial
#   weights in another order. We have such networks at hand: each victim is independent of the
#   others.
# * A **fresh front** before the victim's own $g$. The server has $g$ by right, so it may **freeze**
#   it (train none of its weights) and train new layers of the client's architecture before it. Like
#   the clone, the fresh front shares $g$ with the victim; nothing of $f$ is in it.
#
# Both had the same labelled training images as the victim. The clone had none.


# %%
def whole(front, back):
    return nn.Sequential(front, back).eval()


def before_frozen(front, g):
    return whole(front, copy.deepcopy(g).requires_grad_(False))


def train(network, split, steps, number, rate=3e-3):
    """Train what is not frozen in a copy of `network`, at a rate that rises to `rate` and falls."""
    generator = seeds.generator(number, "further order")
    trained = copy.deepcopy(network).train()
    weights = [weight for weight in trained.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=rate, fused=True)  # the same, and quicker
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        batch = split[torch.randint(len(split), (32,), generator=generator)].to(device)
        optimizer.zero_grad()
        cross_entropy(trained(batch.images), batch.labels).backward()
        optimizer.step()
        schedule.step()
    return trained.eval()


# %%
enough = {"tiny": 60, "quick": 300, "full": 4000}[budget]  # steps of training a fresh front


def steal(number):
    """Train a victim, rob it, and return the networks to compare."""
    victim = experiments.train_victim(source, cut, budget=budget, seed=number, device=device)
    count = experiments.usual_targets(dataset)  # 10, and 50 of photographs
    targets = experiments.first_targets(source, count).images.to(device)
    priors = experiments.priors(dataset, budget)  # what it assumes of images of this kind
    attack = UnSplit(steps=experiments.STEPS[budget], seed=number, **priors)
    stolen = attack(victim.observe(targets))
    if stolen.interrupted:
        raise KeyboardInterrupt  # half a theft would pass for a bad one
    f, g = victim.client.front, victim.server.model
    client = Architecture.of(f, shape)
    fresh = before_frozen(client.build(number, "fresh front").to(device), g)
    return {
        "victim": whole(f, g),
        "clone": whole(stolen.clone, g),
        "fresh front": train(fresh, source.train, enough, number),
        "random clone": whole(client.build(number, "random clone").to(device), g),
    }


numbers = [3 * seed + number for number in range(2 if budget == "tiny" else 3)]
thefts = list(map(steal, numbers))
for networks, others in zip(thefts, thefts[1:] + thefts[:1], strict=True):
    networks["independent"] = others["victim"]
names = ["victim", "clone", "fresh front", "independent", "random clone"]

# %% [markdown]
# ## As good, or a copy?
#
# **Accuracy** asks how often a network is right. **Agreement** asks how often it says what the
# victim says. For two good networks both are near 100%, because both are mostly right. The
# difference should show where the victim errs: a copy makes **the victim's own mistakes**. What
# share of them does the independent network make, which never met the victim?

# %%
guess_mistakes = None  # your guess, 0 to 1


# %%
def answers(network, images):
    with torch.no_grad():
        return network(images).argmax(1)


def share(hits):
    return hits.double().mean().item()


def beside_victim(networks):
    """Accuracy, agreement, and the share of the victim's mistakes that each network repeats."""
    says = {name: answers(networks[name], test.images) for name in names}
    wrong = says["victim"] != test.labels
    return {
        name: (
            share(said == test.labels),
            share(said == says["victim"]),
            share((said == says["victim"])[wrong]) if wrong.any() else float("nan"),
        )
        for name, said in says.items()
    }


compared = [beside_victim(networks) for networks in thefts]
mistakes = [round((1 - found["victim"][0]) * len(test)) for found in compared]
middle = {
    name: [statistics.median(found[name][column] for found in compared) for column in range(3)]
    for name in names
}

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
print(f"{'medians over the victims':26}accuracy   agrees   repeats the victim's mistakes")
for name, (right, agrees, repeats) in middle.items():
    print(f"{name:26}{right:8.1%}{agrees:9.1%}{repeats:12.0%}")
print(f"mistakes of the {len(thefts)} victims on {len(test)} images: {mistakes}")
for name in names[1:4]:
    print(f"repeated by {name}, victim by victim:", [f"{found[name][2]:.0%}" for found in compared])

# %%
plots.bars(
    {name: 100 * middle[name][2] for name in names[1:]}, "% of the victim's mistakes repeated"
)

# %%
claim("accuracy of the clone, and of the victim", middle["clone"][0], "<=", middle["victim"][0])
claim("mistakes of each victim", mistakes, "<", 20)
claim(
    "of these clone, fresh front and independent network repeat this share, in the median",
    [middle[name][2] for name in names[1:4]], ">", 0.5,
)  # fmt: skip
ahead = [found["clone"][2] - max(found[name][2] for name in names[2:4]) for found in compared]
claim("with one victim at least, the clone is ahead of the better honest one by",
      min(ahead), "<", 0.1)  # fmt: skip
compare(guess_mistakes, middle["independent"][2], "share of mistakes the independent one repeats")

# %% [markdown]
# This is not what we hoped for. Two honest networks share most of their mistakes, since some images
# are simply hard; and the victims make so few that a difference of one or two mistakes decides:
# with one of them at least the clone is hardly ahead. So "it makes the same mistakes" proves no
# theft, least of all without the two honest networks beside it.
#
# Far from the data there is less that all good networks share. Add noise to the test images, more
# and more, and ask only for agreement, for there is no right answer any more.

# %%
levels = [0.0, 0.25, 0.5, 1.0, 2.0]
noise = torch.randn(test.images.shape, generator=seeds.generator(seed, "noise")).to(device)


def agreement(networks, name, level):
    images = test.images + level * noise
    return share(answers(networks[name], images) == answers(networks["victim"], images))


each = {
    name: [[agreement(networks, name, level) for networks in thefts] for level in levels]
    for name in names[1:]
}
agreed = {name: list(map(statistics.median, by_level)) for name, by_level in each.items()}
plots.lines(
    levels,
    {name: [100 * value for value in values] for name, values in agreed.items()},
    "standard deviation of the noise",
    "% agreement with the victim",
)

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
print(f"{'agrees with the victim':24}" + "".join(f"{f'σ = {level}':>10}" for level in levels))
for name, shares in agreed.items():
    print(f"{name:24}" + "".join(f"{value:10.1%}" for value in shares))
for name in names[1:4]:
    by_victim = [f"{value:.1%}" for value in each[name][3]]
    print(f"{name} at σ = {levels[3]}, victim by victim:", by_victim)

# %%
clean_shares = [agreed[n][0] for n in names[1:4]]
claim("without noise clone, fresh front and independent network differ by",
      max(clean_shares) - min(clean_shares), "<", 0.02)  # fmt: skip
claim("with noise of 1 the clone agrees with the victim, beside the independent network",
      agreed["clone"][3], ">", agreed["independent"][3])  # fmt: skip
claim("but, in the median, more than the fresh front by",
      agreed["clone"][3] - agreed["fresh front"][3], "<", 0.05)  # fmt: skip
pairs = zip(each["fresh front"][3], each["clone"][3], strict=True)
claim("and for one victim the fresh front agrees more, by",
      max(fresh - clone for fresh, clone in pairs), ">", 0.1)  # fmt: skip

# %% [markdown]
# Had we stopped at the independent network, we would have written: far from the data the copy
# shows. The fresh front forbids it: it shares $g$ with the victim, as the clone does, and one
# victim speaks for the clone and another against it. **These answers did not tell a stolen front
# from an honest one** before the same $g$. Others might: this is one kind of noise, on three
# victims.
#
# So look at what the front itself sends. How much of the victim's smashed data does each front
# miss? Zero is a perfect copy; one, a front that sends the mean of the victim's data whatever it
# sees.


# %%
def missed(networks, name, images):
    """Squared error of the smashed data of `name`, as a share of the variance of the victim's."""
    with torch.no_grad():
        sent, guessed = (networks[who][0](images) for who in ("victim", name))
    return ((sent - guessed).square().sum() / (sent - sent.mean(0)).square().sum()).item()


clean, noisy = (
    {n: [missed(networks, n, test.images + level * noise) for networks in thefts] for n in names}
    for level in (0, 1)
)

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
for name in names[1:]:
    print(f"{name:16}" + "".join(f"{value:9.3f}" for value in clean[name]), end="   with noise:")
    print("".join(f"{value:9.3f}" for value in noisy[name]))

# %%
claim("every clone misses", clean["clone"], "<", 0.1)
claim("every fresh front misses", clean["fresh front"], ">", 0.5)
claim("with noise of 1 every clone misses, beside half of the least of any fresh front",
      noisy["clone"], "<", 0.5 * min(noisy["fresh front"]))  # fmt: skip

# %% [markdown]
# **Here the copy shows**, with every victim, on the data and away from it. It takes a look inside
# the suspect, though, which a service that only answers does not grant. And the measure takes the
# channels as they come: a thief who changes their order or scale at the cut, and $g$ to match,
# changes no answer but may look honest here. For the same reason part of what the honest fronts
# miss may be no more than another order or scale. Channels would have to be matched first; we have
# not done it. The clone is no perfect copy either: it misses more where there is noise.

# %% [markdown]
# **Try it.** Two networks of 97% agree on most images without knowing of each other. Of $N$ images
# let $n_y$ be of class $y$. Of these let the victim call a share $v_{yc}$ class $c$, and the other
# network a share $w_{yc}$. If within a class the mistakes fell anywhere, they would agree on
# $e = \frac1N \sum_y n_y \sum_c v_{yc} w_{yc}$ of all images. Write the agreement $a$ beyond that,
# $(a - e)/(1 - e)$. (Honest networks have some of it too: the same images are hard for all.)


# %%
from torch.nn.functional import one_hot

from sltools.exercises import check


def beyond_chance(victim, other, labels):  # what two networks say, and the truth, each (N,)
    # Hint: one_hot(labels, 10).T @ one_hot(victim, 10) counts each y and c.
    raise NotImplementedError("your code here")


check("06.agreement", beyond_chance)

# %% [markdown]
# ## Images that fool the victim
#
# An **adversarial example** is an image changed so little that a person does not mind, and chosen
# so that a network errs. Let $\ell$ be the loss of the network at the true label $y$. Within all
# images that differ from $x$ by at most $\varepsilon$ in each pixel, look for one of large loss by
# **projected gradient ascent** (PGD, Madry et al. 2018):
#
# $$x_{t+1} = \Pi\big(x_t + \alpha \operatorname{sign} \nabla_x \ell(x_t, y)\big)$$
#
# where $\Pi$ puts every pixel back to within $\varepsilon$ of $x$ and into $[0, 1]$. That takes the
# network's gradient, so its weights. The server does not have the victim's. It takes the gradient
# of its own $g \circ \tilde f$ and hopes that the result fools $g \circ f$ as well, that it
# **transfers**.
#
# **Try it.** Write one step of it on a clone, with $\alpha = \varepsilon$: the *fast gradient sign
# method* (FGSM, Goodfellow et al. 2015). (Nothing below needs it.)


# %%
def one_step(clone, g, images, labels, epsilon):  # to changed images, in [0, 1]
    # Hint: the loss is cross_entropy(g(clone(x)), labels), at an x that requires a gradient.
    raise NotImplementedError("your code here")


check("06.step", one_step)


# %%
def adversarial(network, images, labels, epsilon, steps=10):
    """Change `images` (N, C, H, W) by at most `epsilon` a pixel so that `network` errs (PGD)."""
    step = 2.5 * epsilon / steps
    changed = images.clone()
    for _ in range(steps):
        changed = changed.detach().requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(network(changed), labels), changed)
        changed = changed + step * slope.sign()
        changed = (images + (changed - images).clamp(-epsilon, epsilon)).clamp(0, 1)
    return changed.detach()


# %% [markdown]
# Look before you count. The first private digits, changed by one of the networks; move the slider,
# and choose on whose gradients the change is made.

# %%
sizes = [0.0, 0.05, 0.1, 0.15, 0.2]
shown = experiments.first_targets(source, 10).to(device)
prepared = {
    (name, size): adversarial(thefts[0][name], shown.images, shown.labels, size)
    for name in names
    for size in sizes
}


def draw(made_on, largest_change):
    images = prepared[made_on, largest_change]
    says = answers(thefts[0]["victim"], images)
    captions = [
        f"{source.classes[true]}→{source.classes[said]}"
        for true, said in zip(shown.labels, says, strict=True)
    ]
    return plots.reconstructions(shown.images.cpu(), {"changed": images.cpu()}, captions)


widgets.show(draw, {"largest_change": 0.1, "made_on": "clone"}, made_on=names,
             largest_change=(0.0, 0.2, 0.05))  # fmt: skip

# %% [markdown]
# Above each image stands its class and what the *victim* says to the changed one. Without the
# slider: from changes of 0.15 on the victim errs on nearly all of them, unless they were made on
# the random clone. Now count on 100 test images. Five networks prepare images for the same victim:
# the victim itself, for comparison; the clone; the fresh front; the independent network; and the
# random clone. Beside them stands noise of the same size, as the floor.
#
# At a change of 0.1, which share of the images made on the independent network fools the victim?

# %%
guess_fooled = None  # your guess, 0 to 1

# %%
epsilons = [0.05, 0.1, 0.15]
signs = noise.sign()
few = test[:100]  # enough to see the difference


def fooled_share(networks, name, epsilon):
    """Share of the images the victim had right that it gets wrong after `name` changed them."""
    victim = networks["victim"]
    right = answers(victim, few.images) == few.labels
    images, labels = few.images[right], few.labels[right]
    if name == "noise":
        changed = (images + epsilon * signs[: len(few)][right]).clamp(0, 1)
    else:
        changed = adversarial(networks[name], images, labels, epsilon)
    return share(answers(victim, changed) != labels)


fooling = {
    name: [statistics.median(fooled_share(n, name, e) for n in thefts) for e in epsilons]
    for name in [*names, "noise"]
}
plots.lines(
    epsilons,
    {f"made on: {name}": [100 * value for value in values] for name, values in fooling.items()},
    "largest change of a pixel",
    "% of images that fool the victim",
)

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
print(f"{'fools the victim, medians':28}" + "".join(f"{f'ε = {e}':>10}" for e in epsilons))
for name, values in fooling.items():
    print(f"{name:28}" + "".join(f"{value:10.1%}" for value in values))

# %%
at = epsilons.index(0.1)
claim("images made on the clone fool the victim, as a share of those made on the victim",
      fooling["clone"][at] / fooling["victim"][at], ">", 0.8)  # fmt: skip
claim("made on the clone, and on an independent network",
      fooling["clone"][at], ">", fooling["independent"][at])  # fmt: skip
claim("more than with a fresh front, by",
      fooling["clone"][at] - fooling["fresh front"][at], "<", 0.1)  # fmt: skip
claim("noise, and images made on a random clone before the same g",
      [fooling["noise"][at], fooling["random clone"][at]], "<", 0.1)  # fmt: skip
claim("at 0.15, made on the first four", [fooling[name][2] for name in names[:4]], ">", 0.9)
compare(guess_fooled, fooling["independent"][at], "share made on the independent one that fools")

# %% [markdown]
# Two readings of this figure:
#
# * The clone is nearly as good a place to prepare such images as the victim itself.
# * The independent network is not far behind, and the fresh front nearer still. Adversarial
#   examples transfer between networks that were trained on the same data, stolen or not, and more
#   so when they share layers. What the theft adds is the difference between clone and fresh front,
#   **and** that the thief needed no labelled data to get there.
#
# A claim "our clone fools the victim" without these two beside it would have sold what anybody with
# labelled data can do as the worth of the theft.

# %% [markdown]
# ## What it saves the thief: labels
#
# The clone cost no label. How many labelled images are as good? That depends on who has them, so
# let the rivals be strong. All may shift their images by two pixels each way, which makes nine of
# one:
#
# * somebody without any of this takes a **support vector machine**, which separates classes by a
#   curved border and learns well from little, or trains the network from scratch;
# * the server without the theft trains a fresh front before $g$, frozen.
#
# And should the thief train the clone further? Common advice says yes, this is *fine-tuning*. Try
# it at a tenth of the usual learning rate, with all layers and with $g$ frozen.
#
# With 50 labelled images, what accuracy has the support vector machine? (The victim has 97%.)

# %%
guess_labels = None  # your guess, 0 to 1

# %%
counts = [20, 50, 200]
brief = {"tiny": 20, "quick": 60, "full": 300}[budget]


def labelled(count, number):
    """Draw `count` training images, each in nine places."""
    order = torch.randperm(len(source.train), generator=seeds.generator(number, "few"))
    own = source.train[order[:count]]
    height, width = shape[1:]
    wide = pad(own.images, (2, 2, 2, 2))
    places = [wide[..., y : y + height, x : x + width] for y in (0, 2, 4) for x in (0, 2, 4)]
    return Split(torch.cat(places), own.labels.repeat(9))


def accuracies(learn, counts=counts):
    """Median accuracies of what `learn(networks, labelled images, number)` returns."""
    return [
        statistics.median(
            share(learn(networks, labelled(count, number), number) == test.labels)
            for networks, number in zip(thefts, numbers, strict=True)
        )
        for count in counts
    ]


def machine(networks, own, number):
    fitted = SVC(C=10).fit(own.images.flatten(1), own.labels)
    return torch.from_numpy(fitted.predict(test.images.flatten(1).cpu())).to(device)


def scratch(networks, own, number):
    network = models.for_images(shape, seeds.derive(number, "scratch")).to(device)
    return answers(train(network, own, 7 * brief, number, rate=5e-3), test.images)


def fresh(networks, own, number):
    steps = 2 * brief if len(own) < 9 * counts[-1] else 10 * brief  # few labels: no more, by trial
    network = before_frozen(*networks["random clone"])
    return answers(train(network, own, steps, number), test.images)


def further(networks, own, number):
    return answers(train(networks["clone"], own, brief, number, rate=3e-4), test.images)


def further_frozen(networks, own, number):
    network = before_frozen(*networks["clone"])
    return answers(train(network, own, brief, number, rate=3e-4), test.images)


learned = {
    "support vector machine": accuracies(machine),
    "fresh front before frozen g": accuracies(fresh),
    "clone, all layers further": accuracies(further),
    "clone further before frozen g": accuracies(further_frozen),
}
(from_scratch,) = accuracies(scratch, counts[-1:])
untouched = middle["clone"][0]
curves = {name: [100 * value for value in values] for name, values in learned.items()}
plots.lines(
    counts,
    {**curves, "clone as stolen": [100 * untouched] * len(counts)},
    "labelled images",
    "% accuracy",
)

# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
print(f"{'accuracy, medians':30}" + "".join(f"{count:>8}" for count in counts) + "   labels")
for name, values in learned.items():
    print(f"{name:30}" + "".join(f"{value:8.1%}" for value in values))
print(f"{'the network from scratch':30}{from_scratch:24.1%}")
print(f"{'clone as stolen':30}{untouched:8.1%}  with none")

# %%
vectors, front, every, frozen = learned.values()
claim(f"with {counts[2]} labels a support vector machine differs from the clone by",
      abs(vectors[2] - untouched), "<", 0.02)  # fmt: skip
claim(f"with {counts[1]} it is below it by", untouched - vectors[1], ">", 0.05)
claim(f"the network from scratch, with {counts[2]}, differs by",
      abs(from_scratch - untouched), "<", 0.03)  # fmt: skip
claim(f"a fresh front before the frozen g, with {counts[0]}, is below by",
      untouched - front[0], "<", 0.05)  # fmt: skip
claim(f"with {counts[2]}, and five times the steps, it differs by",
      abs(front[2] - untouched), "<", 0.02)  # fmt: skip
claim(f"training all layers of the clone on {counts[0]} costs", untouched - every[0], ">", 0)
claim(f"on {counts[2]} it moves the accuracy by", abs(untouched - every[2]), "<", 0.01)
claim("with g frozen it costs at most", untouched - min(frozen), "<", 0.01)
compare(guess_labels, vectors[1], f"accuracy of a support vector machine with {counts[1]} labels")

# %% [markdown]
# * **Two hundred labelled images are as good as the theft**, to a support vector machine; fifty are
#   not. The network itself comes close as well, from two hundred and with time enough to learn
#   them. (Two points are seven of the 360 test images.)
# * **For the server they are far fewer.** Much of the worth is in its own layers, which nobody had
#   to steal: before them, twenty labels bring a fresh front within a few points of the clone, and
#   two hundred, with time to learn them, to where it is. That is what the theft saved this thief.
# * **Fine-tuning all layers on twenty labels does harm**, even at this learning rate. In the run
#   shown, two hundred labels leave the median where it was. With $g$ frozen, what the victim
#   learned there stays, and there is no such harm; nor is there much to gain. (For a poor clone, at
#   `budget = "tiny"` or `cut = "pool2"`, see whether labels help it.)

# %%
# what `sltools sweep` keeps of this lesson
collected = {
    "clone_accuracy": middle["clone"][0],
    "clone_agreement": middle["clone"][1],
    "fooled_by_clone": fooling["clone"][at],
    "fooled_by_fresh_front": fooling["fresh front"][at],
    "fooled_by_independent": fooling["independent"][at],
    "clone_agreement_noise_1": agreed["clone"][3],
    "fresh_front_agreement_noise_1": agreed["fresh front"][3],
}

# %% [markdown]
# **The clinic** can say what the theft is worth: a place to prepare images that mislead its
# service, perhaps about a patient, and the labels saved. It does not call a network stolen, or an
# attack the copy's doing, before an honest network has been tried in its place.
#
# ## Limitations
#
# * **These digits are easy**, and the networks small. Adversarial examples on digits need changes
#   that one can see.
# * **Three victims are few**, and medians of three hide much. The figures show what to measure.
# * **Both honest networks had the victim's own training data.** Somebody with other data of the
#   same kind would transfer less; somebody without data, not at all.
# * **The attacked images** are among the test images that everything is scored on.
# * **The labels of the test images** were used to prepare and to count adversarial examples. An
#   attacker would use the network's own answers, which are right nearly as often.
# * **Steps, learning rates and shifts** of the last experiment were chosen by hand, on victims and
#   images of this lesson, so that each rival does well. Nothing says that none can do better (try
#   `budget = "full"`).
# * **A thief who only wants to run the service** needs none of this: the clone's accuracy, in the
#   first table, is the answer.
#
# ## Try it
#
# * Set `cut = "pool1"`, then "pool2". Which of the three uses suffers first from a worse clone?
# * Prepare adversarial examples on all three clones at once, by the mean of their losses. Do they
#   transfer better?
# * Repeat the fine-tuning of all layers with learning rate 1e-4, then 3e-3. Does it ever help?
# * Train $g$ before the frozen clone instead. Which half should a thief leave alone?
# * Steal with forty images instead of ten. What happens to agreement far from the data?
# * Set `dataset = "mnist"`.
#
# ## Review questions
#
# **1.** A vendor finds a network on the market that agrees with its own on 98% of the test images
# and repeats 70% of its mistakes. Is it stolen?
#
# <details><summary>Answer</summary>
#
# That cannot be told from these numbers. Two networks trained independently on the same kind of
# data agree that often and share mistakes on the same hard images. What is needed is the same pair
# of numbers for networks that are known to be honest and had every advantage but the theft: the
# same training data, and the same layers of the server. If answers do not separate the suspect from
# these, as here, compare what the fronts send.
#
# </details>
#
# **2.** Images prepared on a clone fool the victim in 80 of 100 cases. Which two further numbers do
# you ask for before you call the clone dangerous?
#
# <details><summary>Answer</summary>
#
# How many images prepared on an honest network fool it, best one that shares the server's layers,
# and how many with noise of the same size. Only the difference from the first is due to the theft;
# the second says whether the victim is simply brittle.
#
# </details>
#
# **3.** Why can training a good clone on twenty labelled images make it worse, and what helps?
#
# <details><summary>Answer</summary>
#
# All weights move until twenty images are fitted, which can be done in many ways, and many of them
# may be worse on other images than the weights that the victim learned from many. The clone carries
# knowledge of the victim's data; twenty images cannot replace it, but they can overwrite it.
# Freezing $g$ helped here: it holds much of that knowledge, and is exactly the victim's.
#
# </details>
#
# ## Further reading
#
# * E. Erdoğan, A. Küpçü, A. E. Çiçek: *UnSplit: Data-Oblivious Model Inversion, Model Stealing, and
#   Label Inference Attacks Against Split Learning*, WPES 2022.
#   [arXiv 2108.09033](https://arxiv.org/abs/2108.09033). The theft.
# * M. Jagielski et al.: *High Accuracy and High Fidelity Extraction of Neural Networks*, USENIX
#   Security 2020. [arXiv 1909.01838](https://arxiv.org/abs/1909.01838). Accuracy against fidelity.
# * N. Papernot et al.: *Practical Black-Box Attacks against Machine Learning*, ASIA CCS 2017.
#   [arXiv 1602.02697](https://arxiv.org/abs/1602.02697). Adversarial examples made on a substitute.
# * P. Maini, M. Yaghini, N. Papernot: *Dataset Inference: Ownership Resolution in Machine
#   Learning*, ICLR 2021. [arXiv 2104.10706](https://arxiv.org/abs/2104.10706). Tells a stolen
#   network by what it knows of the owner's training data; our honest networks, which had these,
#   would count as stolen.
# * I. Goodfellow, J. Shlens, C. Szegedy: *Explaining and Harnessing Adversarial Examples*, ICLR
#   2015. [arXiv 1412.6572](https://arxiv.org/abs/1412.6572). FGSM.
# * A. Madry et al.: *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018.
#   [arXiv 1706.06083](https://arxiv.org/abs/1706.06083). PGD.
#
# **Next:** [lesson 07](07_label_inference.ipynb), on the labels that a client keeps to itself.
