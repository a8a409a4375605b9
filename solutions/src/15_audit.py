# %% [markdown]
# # Exercises 15: audit a client that nobody has looked at
#
# For [lesson 15](../course/15_audit.ipynb). You write what an auditor needs: a share with its
# interval, a report that a vendor cannot bend, two detectors, two recommendations. At the end you
# have an hour with clients that nobody knows. The tasks' minutes add up to three hours, which are
# estimated; one reader who had done the lessons needed less than one. Each task stands alone, so
# skip what does not draw you.
#
# `check` tells at once whether an answer is right, and if not, why. Where an answer has several
# parts, each part that is right earns its share. `hint` gives one hint after another. Both can be
# called as often as you like: nothing is deducted, and nothing leaves your machine.

# %%
from itertools import combinations

import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from sltools.attacks.regression import fitted_decoder
from sltools.detectors.scrutinizer import gap, similarities
from sltools.exercises import check, hint, progress, quiz
from sltools.experiments import unseen
from sltools.view import View

# %% [markdown]
# `unseen.make(seed)` makes a client to practise on: another network, another cut, perhaps a
# defence, perhaps a malicious server. The checks use others of the same kind. You are the auditor.
# You are given `view`: the activations of 60 private images, sent twice, with the client's weights
# granted; 300 labelled images of your `own`; and of the client's training the `labels` and
# `gradients` of its last twelve batches, of 64 samples each. A server that steered the training hid
# it: its gradients have the norms of an honest server's. `defence`, `hijacked`, `private` and
# `server`, the vendor's part of the network, are the truth: in practice you may look, and in the
# checks you are not told. The checks of `15.defended`, `15.hijacked` and the challenge train
# clients first, and show how far they are.

# %%
client = unseen.make(1)
print(client.view, client.own, tuple(client.gradients.shape), sep="\n")
print("defence:", client.defence, "· hijacked:", client.hijacked)

# %% [markdown]
# {{task 15.identified}}
#
# `found` and `truth`, both $(N, 1, H, W)$, are reconstructions and their originals, in one order.
# Reconstruction $i$ is **identified** if it correlates with original $i$ more than with any other,
# and above 0: the correlation of two images is that of their pixels. Return four numbers: how many
# are identified, of how many, and the two ends of the 95% interval of that share, low and high, by
# Wilson's score. The count alone earns half of the points.


# %%
def identified(found: Tensor, truth: Tensor) -> tuple[int, int, float, float]:
    ### BEGIN SOLUTION
    rows, owners = (
        torch.nn.functional.normalize(some.flatten(1) - some.flatten(1).mean(1, keepdim=True))
        for some in (found, truth)
    )
    likeness = rows @ owners.T
    own = likeness.diagonal()
    right = int(((likeness.argmax(1) == torch.arange(len(found))) & (own > 0)).sum())
    ends = binomtest(right, len(found)).proportion_ci(0.95, method="wilson")
    return right, len(found), ends.low, ends.high
    ### END SOLUTION


check("15.identified", identified)

# %% [markdown]
# Stuck? Take the `#` away.

# %%
# hint("15.identified")

# %% [markdown]
# {{task 15.fair_report}}
#
# A vendor had its split audited, and writes up the result by this function:
#
# ```python
# def fair_report(errors, guesses):
#     bar = torch.stack(list(guesses.values())).amin(0).median()
#     words = {}
#     for attacker, runs in errors.items():
#         if runs is None:  # not tried
#             words[attacker] = "no better"
#             continue
#         ratio = runs.median(1).values.max() / bar
#         words[attacker] = (
#             "recovered" if ratio <= 0.5 else "partly" if ratio <= 0.9 else "no better"
#         )
#     return words
# ```
#
# `errors` holds for each attacker the errors of its runs, $(R, N)$ for $R$ runs and $N$ targets, or
# None; `guesses` holds for each guess without an attack (a blank image, the mean, the mean of the
# class) its error at each target, $(N,)$. The criterion was stated before: the median run, by the
# median over its targets, beside **the guess of the least median**: up to 0.5 of it "recovered", up
# to 0.9 "partly", else "no better", and "not tried" for what was not. Three things in the function
# flatter the split. Mend them; each earns its third.


# %%
def fair_report(errors: dict[str, Tensor | None], guesses: dict[str, Tensor]) -> dict[str, str]:
    ### BEGIN SOLUTION
    bar = min(guess.median() for guess in guesses.values())
    words = {}
    for attacker, runs in errors.items():
        if runs is None:
            words[attacker] = "not tried"
            continue
        ratio = runs.median(1).values.median() / bar
        words[attacker] = "recovered" if ratio <= 0.5 else "partly" if ratio <= 0.9 else "no better"
    return words
    ### END SOLUTION


check("15.fair_report", fair_report)

# %%
# hint("15.fair_report")

# %% [markdown]
# {{task 15.defended}}
#
# `first` and `second`, $(N, \ldots)$, are recordings of the same images, sent twice by one client.
# Say what was done to the activations: `"none"`, `"noise"`, `"quantised"` (to 4 bits),
# `"top-k"` or `"clipped"` (most samples are longer than the client allows). You meet five clients,
# each of a network and a cut of its own, one of each kind. One right answer is luck; each further
# one earns a quarter.


# %%
def defence(first: Tensor, second: Tensor) -> str:
    ### BEGIN SOLUTION
    if (first != second).any():
        return "noise"
    if len(first.unique()) <= 16:
        return "quantised"
    sent = (first.flatten(1) != 0).sum(1)
    if (sent == sent[0]).all() and sent[0] < first[0].numel():
        return "top-k"
    norms = first.flatten(1).norm(dim=1)
    if (norms > 0.999 * norms.max()).double().mean() > 0.5:
        return "clipped"
    return "none"
    ### END SOLUTION


check("15.defended", defence)

# %%
# hint("15.defended")

# %% [markdown]
# {{task 15.hijacked}}
#
# `labels`, $(768,)$, and `gradients`, $(768, \ldots)$, are what a client asked about and was sent
# in the last twelve batches of its training, 64 samples each, one batch after another. Say True if
# its server steered the training by feature-space hijacking, else False. You meet eight clients, of
# whom three were steered, and all eight have to be right: some of them are by luck.


# %%
def hijacked(labels: Tensor, gradients: Tensor) -> bool:
    ### BEGIN SOLUTION
    batches = zip(labels.split(64), gradients.split(64), strict=True)
    gaps = [gap(similarities(sent, asked)) for asked, sent in batches]
    return sum(gaps) / len(gaps) < 0.1
    ### END SOLUTION


check("15.hijacked", hijacked)

# %%
# hint("15.hijacked")

# %% [markdown]
# {{task 15.permissions}}
#
# Each attacker needs something: `needs` holds a list for each. `words` says what became of them, as
# in `fair_report`. `possible` lists what the clinic can withhold, by contract or by another role.
# Return the smallest list of things to withhold, such that every attacker with the word "recovered"
# lacks one of its needs, or None if that cannot be. If there are several, any will do.


# %%
def withhold(
    needs: dict[str, list[str]], words: dict[str, str], possible: list[str]
) -> list[str] | None:
    ### BEGIN SOLUTION
    through = [set(needs[name]) for name, word in words.items() if word == "recovered"]
    for count in range(len(possible) + 1):
        for chosen in combinations(possible, count):
            if all(needed & set(chosen) for needed in through):
                return list(chosen)
    return None
    ### END SOLUTION


check("15.permissions", withhold)

# %%
# hint("15.permissions")

# %% [markdown]
# {{task 15.recommend}}
#
# `options` are cuts and defences that were measured. Each is a dictionary: its `name`; `accuracy`,
# as (right, of) on held-out samples; `bytes` for each input; `operations` of the client for each
# input; `decoder_mse`, the error of a decoder that knows the weights and the defence. `budget` says
# the least `accuracy`, and the most `bytes` and `operations`. The accuracy has to be there for
# sure: the low end of its 95% interval (Wilson) must not be below the budget's. Return the name of
# the option within the budget that leaves the decoder the largest error, or None if none is within.


# %%
def recommend(options: list[dict], budget: dict[str, float]) -> str | None:
    ### BEGIN SOLUTION
    def is_within(option: dict) -> bool:
        low = binomtest(*option["accuracy"]).proportion_ci(0.95, method="wilson").low
        cheap = all(option[price] <= budget[price] for price in ("bytes", "operations"))
        return cheap and low >= budget["accuracy"]

    within = [option for option in options if is_within(option)]
    return max(within, key=lambda option: option["decoder_mse"])["name"] if within else None
    ### END SOLUTION


check("15.recommend", recommend)

# %%
# hint("15.recommend")

# %% [markdown]
# {{task 15.challenge}}
#
# Now all of it. You meet three clients, each in a call of its own, with another defence each; one
# or two of them were hijacked. The arguments are those of `unseen.make`: `view`, whose
# `view.payloads("smashed")` are two recordings of 60 images, and `view.client_model` the weights
# that were granted; `images` and `labels`, your own; `asked` and `gradients`, what the client asked
# about and was sent. The vendor keeps its own part. Return the card as a dictionary:
#
# * `"defence"` and `"hijacked"`: as above;
# * `"labels"`, $(60,)$: the classes of the private images. No more than ten in a hundred worse than
#   the vendor's part is well enough;
# * `"images"`, $(60, 1, 14, 14)$: their reconstructions. They have to be *recovered*: their median
#   error is at most half of that of the mean image of the right class, made of your own images;
# * `"error"`: the median error of your reconstructions as you **estimate** it, without having seen
#   an original; off by a factor of at most 1.5.
#
# Each of the five earns its fifth if it holds for all three clients. A call may take 150 seconds of
# CPU time when it is graded.


# %%
def threat_card(
    view: View, images: Tensor, labels: Tensor, asked: Tensor, gradients: Tensor
) -> dict:
    ### BEGIN SOLUTION
    first, second = view.payloads("smashed")
    kind, sent = defence(first, second), (first + second) / 2
    with torch.no_grad():
        own = imitated(kind, first, second, view.client_model.eval()(images))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    probe.fit(own.flatten(1), labels)
    errors = []
    for part in range(4):  # decoders that have not seen the images that they are tried on
        held_out = torch.arange(len(images)) % 4 == part
        decoder = fitted_decoder(own[~held_out], images[~held_out], ridge=3e-4, seed=0)
        errors.append((decoder(own[held_out]) - images[held_out]).square().mean((1, 2, 3)))
    decoder = fitted_decoder(own, images, ridge=3e-4, seed=0)
    return {
        "defence": kind,
        "hijacked": hijacked(asked, gradients),
        "labels": torch.from_numpy(probe.predict(sent.flatten(1))),
        "images": decoder(sent),
        "error": torch.cat(errors).median().item(),
    }


def imitated(kind: str, first: Tensor, second: Tensor, z: Tensor) -> Tensor:
    """What a client with this defence would send for z, (N, ...)."""
    if kind == "noise":  # the mean of two recordings has half of its variance
        return z + (first - second).std() / 2 * torch.randn(z.shape)
    if kind == "quantised":
        levels = first.unique()
        steps = levels.diff()
        step = steps[steps > 1e-4 * steps.max()].min()
        places = ((z - levels.min()) / step).round()
        return (
            levels.min()
            + places.clamp(0, round(float((levels.max() - levels.min()) / step))) * step
        )
    if kind == "top-k":
        flat, count = z.flatten(1).abs(), int((first[0] != 0).sum())
        least = flat.topk(count).values[:, -1:]
        return z * (flat >= least).view_as(z)
    if kind == "clipped":
        norms = z.flatten(1).norm(dim=1).view(-1, *[1] * (z.ndim - 1))
        return z * (first.flatten(1).norm(dim=1).max() / norms).clamp(max=1)
    return z
    ### END SOLUTION


# %% tags=["nbval-ignore-output"]
# not compared: the last digits depend on the machine
check("15.challenge", threat_card)

# %%
# hint("15.challenge")

# %% [markdown]
# ## The written part
#
# A card of numbers is not yet an audit. Take `unseen.make` with a seed of your own and write the
# threat card of that client for the clinic, one page: who attacks, what he sees and knows, what he
# gets, each number beside its guess and with its count; what was not tried; what you recommend, at
# what price. The word "safe" does not occur. Nobody grades it here; in a class, the instructor has
# a rubric.
#
# ## Review
#
# Four questions, never graded. Open an option to see what it is worth: click on it, or reach it
# with the Tab key and press Enter.

# %%
quiz("15")

# %% [markdown]
# ## How far you are

# %%
progress("15")
