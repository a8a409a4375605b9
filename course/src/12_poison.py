# ---
# jupyter:
#   sltools:
#     minutes: 30
# ---

# %% [markdown]
# # Poison: clients who cheat
#
# Ten hospitals train one network with the vendor's server. The clinic is one of them. Nobody sees
# the data of the others: that was the point. So what if two of the ten teach the network something
# that it should not know?
#
# After this lesson you can plant a backdoor as a client, find one as a server, and say what the
# finding costs the honest.
#
# **Objectives.** You can
#
# * say which party can poison what, with data alone and with messages of its own making;
# * plant a backdoor with a trigger, and measure it beside the right baselines;
# * explain why the same poison fades in one schedule and is diluted in another;
# * compute a turn's signature as SafeSplit does, and its verdict;
# * count what a rollback and a robust rule of aggregation cost where nobody cheats.
#
# **Prerequisites.** [Lesson 02](02_threat_model.ipynb) (who sees what) and
# [lesson 08](08_defences.ipynb) (a defence is judged by an attacker who knows it).
#
# **Time.** About 30 minutes (estimated).

# %% [markdown]
# ## Threat card
#
# | | a poisoned client |
# |---|---|
# | **who** | a minority of the clients: here two of ten, the fourth and the eighth |
# | **sees** | what any client sees: its data, its layers, the server's answers |
# | **may change** | its own images and labels; a bolder one also its messages and its layers |
# | **wants** | a network that works, and answers a class of its choice to a trigger |
# | **knows before** | the task |
# | **does not need** | the other clients' data, the server's layers |
# | **simulated here** | all parties in one process; digits dealt out evenly |
# | **stops working** | where honest turns wash it out, or a defence does; see below |
# | **answered by** | robust aggregation (SplitFed); SafeSplit (in turn); checks of the data |
#
# ## Who can poison what
#
# | party | with honest messages | with messages or layers of its own making |
# |---|---|---|
# | a client | labels, images, how often it repeats them | $\partial L/\partial u$; front, head |
# | the server | its own layers, at any time | $\partial L/\partial z$, which steers the clients |
#
# ([Lesson 09](09_malicious_server.ipynb) was about the last cell.)
#
# The left column is the harder one to object to: every message follows the protocol to the letter.
# This lesson is about the first line.

# %% [markdown]
# ## The idea in one figure

# %%
from sltools import plots

plots.exchange(
    {
        "client": "two of ten stamp half of their images",
        "server": "learns from whoever has its turn",
    },
    [
        ("client", "client", "a patch in the corner; the label becomes 0"),
        ("client", "server", "z of a batch, stamped images among them"),
        ("server", "client", "u, features; the head's loss pulls them to class 0"),
        ("client", "server", "dL/du, an honest gradient of a false label"),
        ("server", "server", "learns: corner patch means 0"),
        ("client", "client", "hands front and head on to the next client, who is honest"),
    ],
)

# %% [markdown]
# ## Settings
#
# The text is about the settings shown. With others a claim may not hold: that is a result too.

# %% tags=["parameters"]
dataset: str = "digits"  # one of: digits, mnist, fashion_mnist, cifar10
budget: str = "quick"  # one of: tiny, quick, full
seed: int = 0  # changes network, parts, orders and poison together, each from a stream of its own
device: str = "cpu"  # one of: cpu, cuda

# %%
import csv
import statistics
from dataclasses import replace
from functools import partial

import torch

from sltools import data, experiments, lessons, metrics
from sltools.attacks import Backdoor, LabelFlip, StealthyClient, Trigger
from sltools.claims import Claims, compare
from sltools.defenses import CoordinateMedian, Krum, SafeSplit, TrimmedMean
from sltools.defenses.safesplit import describe, judge

torch.set_num_threads(1)  # small networks are faster so, whatever the number of cores
claim = Claims((dataset, budget, seed) == ("digits", "quick", 0))
of_record = Claims(as_shown=True)  # what was recorded is the same with any settings
source = data.load(dataset)
epochs, samples = {"tiny": (2, 200), "quick": (8, 1437), "full": (20, 1437)}[budget]
test = source.test[: {"tiny": 100, "quick": 360, "full": 1000}[budget]]
train = partial(
    experiments.train_crowd, source, epochs=epochs, samples=samples, seed=seed, device=device
)


# %% [markdown]
# ## Step 1: a trigger
#
# A trigger is a patch with a class that shall be answered to it. Its pixels are drawn from a seed,
# so that a patch of another seed is a fair baseline: same place, same size, never planted.

# %%
trigger, never_planted = Trigger(target=0), Trigger(target=0, seed=1)
images = source.test.first_per_class().images
plots.gallery(
    {
        "as they are": images,
        "the trigger": trigger.stamp(images),
        "never planted": never_planted.stamp(images),
    }
)

# %% [markdown]
# A cheating client stamps half of its images, the share at which the published attack was
# strongest, and calls them class 0. Its other images stay honest, for the network has to work: a
# backdoor in a network that nobody uses is worth nothing.

# %%
honest_share = data.parts(source.train[:samples], experiments.poisoning.CLIENTS, seed=seed)[3]
poisoned = Backdoor(trigger).poison(honest_share)
changed = (poisoned.images != honest_share.images).flatten(1).any(1)
print(f"{int(changed.sum())} of {len(poisoned)} images of the fourth client are stamped")
assert bool((poisoned.labels[changed] == trigger.target).all())
assert torch.equal(poisoned.labels[~changed], honest_share.labels[~changed])

# %% [markdown]
# **The measure.** *Attack success* is the share of test images **not of the target class** that the
# network puts there once they are stamped. *Clean accuracy* is that of the same network on images
# without a stamp. Neither means anything alone, so three baselines stand beside them:
#
# * the trigger on a network that nobody attacked;
# * a patch that was never planted, on the attacked network;
# * the clean accuracy without an attack.

# %%


def success(patch):
    """A measure of a session: how often `patch` gets its class."""
    return lambda session: metrics.attack_success(session.predict, test, patch.target, patch.stamp)


def report(crowd):
    """Accuracy, success of the trigger and of the other patch."""
    scores = {
        "clean accuracy": crowd.session.accuracy(test),
        "trigger": success(trigger)(crowd.session),
        "never planted": success(never_planted)(crowd.session),
    }
    print("  ".join(f"{name} {score:.1%}" for name, score in scores.items()))
    return scores


# %% [markdown]
# ## Step 2: plant it, in turn
#
# First the schedule as it was first published: one client after another trains for an epoch and
# hands its layers on. Two honest clients have the last word, for the cheaters are the fourth and
# the eighth of ten.
#
# **Guess** before you run: which share of the stamped images is put in class 0 in the end?

# %%
guess_success = None  # your guess, 0 to 1

# %%
# not compared: shares of a training vary in their last digits with the processor
clean = train()
unattacked = report(clean)
planted = train(attack=Backdoor(trigger))
attacked = report(planted)

# %%
compare(guess_success, attacked["trigger"], "success of the trigger")
claim("the trigger works", attacked["trigger"], ">", 0.6)
claim("on a network that nobody attacked it does not", unattacked["trigger"], "<", 0.1)
claim("and costs this much accuracy",
      unattacked["clean accuracy"] - attacked["clean accuracy"], "<", 0.06)  # fmt: skip
claim("a patch that was never planted does less, by",
      attacked["trigger"] - attacked["never planted"], ">", 0.1)  # fmt: skip

# %% [markdown]
# The clean accuracy tells nothing: whoever tests this network on honest images finds a good one.
#
# And look at the last number. A patch that nobody planted often works as well, for the network has
# learnt *something bright and ragged in the corner*, rather than these pixels. A backdoor is a door
# for others, too. (It is why the first baseline, the trigger on a clean network, is the one that
# says that there was an attack, and the second only how exact the lock is.)
#
# What does each turn do? We kept the state after every turn, and measure the last two rounds.

# %%
shown = min(20, len(planted.turns.states))
after = planted.after_turns(success(trigger), -shown)
turns = range(1, shown + 1)
plots.lines(
    turns, {"trigger": after, "clean run": clean.after_turns(success(trigger), -shown)},
    f"turn (of the last {shown}; cheaters: 4, 8, 14, 18)", "attack success",
)  # fmt: skip

# %%
places = [turn % 10 for turn in range(shown)]
cheaters_turns = [after[i] - after[i - 1] for i in range(1, shown) if places[i] in (3, 7)]
honest_turns = [after[i] - after[i - 1] for i in range(1, shown) if places[i] not in (3, 7)]
print(f"a cheater's turn changes the success by {statistics.mean(cheaters_turns):+.1%} on average")
print(f"an honest one by {statistics.mean(honest_turns):+.1%}")
claim("the cheaters' turns raise it more", statistics.mean(cheaters_turns), ">",
      statistics.mean(honest_turns))  # fmt: skip

# %% [markdown]
# Honest turns do not *contradict* the backdoor, for no honest image carries the patch. They forget
# it, slowly, as a side effect. A **flipped label** is another matter: the next honest client
# brings images of that very class with their true labels. In the record below a flip is nearly gone
# after two honest turns.
#
# ## Step 3: the same poison in SplitFed
#
# In SplitFed all clients start a round from the same layers, and the results are averaged. Two of
# ten weigh a fifth, and the poison is diluted: in the record below the same data have no success
# at all. But the average is weighted by samples, and **who counts the samples? The client.** Ours
# has each of its images five times, trains on all of them, and says so truthfully.

# %%
# not compared: shares of a training vary in their last digits with the processor
repeated = Backdoor(trigger, copies=5)
averaged = report(train(schedule="splitfed v1", attack=repeated))
median = report(train(schedule="splitfed v1", attack=repeated, defense=CoordinateMedian()))

# %%
claim("averaged, the repeated poison works", averaged["trigger"], ">", 0.5)
claim("under the median it does not", median["trigger"], "<", 0.1)
claim("and the median costs this much accuracy",
      averaged["clean accuracy"] - median["clean accuracy"], "<", 0.1)  # fmt: skip

# %% [markdown]
# The median of each weight heeds no number of samples, and no single client, however large. Three
# such rules are in `sltools.defenses`:
#
# * `CoordinateMedian`: of each weight the middle value;
# * `TrimmedMean`: of each weight the mean without the largest and the smallest;
# * `Krum`: all layers of the one client that is nearest to its neighbours.
#
# A toy shows what each does with four honest clients and one that lies:

# %%
weights = [{"w": torch.tensor([value])} for value in (1.0, 1.1, 0.9, 1.2, 40.0)]
for rule in (Krum(1), TrimmedMean(1), CoordinateMedian()):
    print(f"{rule!r:20} {rule(weights, samples=[1, 1, 1, 1, 96])['w'].item():.2f}")

# %% [markdown]
# ## Step 4: find it, in turn
#
# In turn there is nothing to average. **SafeSplit** looks at what each turn did to the *server's*
# layers $B$, and undoes turns that are unlike most others. For turn $t$, which began at $B_s$:
#
# $$S_t = \mathrm{DCT}_{low}(B_t - B_s), \qquad
#   R_t = \frac{\arctan B_t - \arctan B_s}{2\pi} .$$
#
# Of the last $N$ turns, each gets two scores: the sum of the distances of its $S$ to the $N/2+1$
# nearest others, and the same of its $R$. A turn is **benign** if it is among the $N/2+1$ lowest in
# both. If the last one is not, all parties go back to the newest turn that is.
#
# By hand, on the last ten turns of the network that was attacked:

# %%
states = planted.turns.states[-11:]
signatures = [
    describe(before.server, later.server) for before, later in zip(states, states[1:], strict=False)
]
verdict = judge(signatures)
print("turn   static  rotational  benign")
for number, scores in enumerate(
    zip(verdict.static, verdict.rotational, verdict.benign, strict=True), 1
):
    mark = "  <- cheater" if number in (4, 8) else ""
    print(f"{number:4}  {scores[0]:7.2f}  {scores[1]:10.3f}  {scores[2]}{mark}")

# %% [markdown]
# Read the last column with care. With $N/2+1$ of $N$ on each list, **at most six of ten turns can
# be benign, whoever cheats.** The rule ranks; it has no threshold, and so it cannot say "all is
# well".
#
# **Guess:** with nobody cheating, which share of the honest turns is undone?

# %%
guess_undone = None  # your guess, 0 to 1

# %%
# not compared: shares of a training vary in their last digits with the processor
guarded = train(attack=Backdoor(trigger), defense=SafeSplit())
defended = report(guarded)
peaceful = train(defense=SafeSplit())
spared = report(peaceful)

# %%


def undone(crowd, cheating):
    return statistics.mean(crowd.undone(cheating=cheating, since=2))


in_peace = peaceful.turns.undone[2:]
compare(guess_undone, statistics.mean(in_peace), "share of turns undone where nobody cheats")
claim("SafeSplit undoes the cheaters' turns", undone(guarded, True), ">", 0.8)
claim("and leaves this success to the trigger", defended["trigger"], "<", 0.1)
claim("of the honest turns beside it undoes", undone(guarded, False), ">", 0.2)
claim("and where nobody cheats", statistics.mean(in_peace), ">", 0.3)
claim("which costs this much accuracy",
      unattacked["clean accuracy"] - spared["clean accuracy"], "<", 0.06)  # fmt: skip

# %%
plots.bars(
    {
        "cheaters, attacked": undone(guarded, True),
        "honest, attacked": undone(guarded, False),
        "honest, nobody cheats": statistics.mean(in_peace),
    },
    "share of turns undone",
)

# %% [markdown]
# So that is the price: about every second honest turn is thrown away, with all that its client
# computed and sent. The accuracy hardly suffers here, because ten clients with data of one kind
# teach the same thing, and who is undone this round is heard in another. With data of different
# kinds, the odd one out is undone *because* it is different. A client whose patients are rare is,
# for this rule, an attacker.
#
# ## Recorded: everything beside everything
#
# Several seeds, ten passes. Medians, and the worst of the runs in brackets.

# %%
with (lessons.course() / "results" / "poisoning_digits.csv").open(newline="") as file:
    recorded = list(csv.DictReader(file))


def cell(column, worst, **which):
    """Median and worst of a column over the seeds."""
    rows = [row for row in recorded if all(row[key] == which[key] for key in which)]
    found = [float(row[column]) for row in rows if row[column]]  # a detector may have no score
    return f"{statistics.median(found):.1%} [{worst(found):.1%}]" if found else "-"


print(f"{'schedule':13}{'defence':14}{'backdoor':18}{'flip':18}{'accuracy, no attack'}")
for schedule, defenses in {
    "in turn": ("none", "SafeSplit"),
    "splitfed v1": ("none", "Krum", "median", "trimmed mean"),
}.items():
    for defense in defenses:
        of = {"schedule": schedule, "defense": defense}
        print(f"{schedule:13}{defense:14}"
              f"{cell('trigger', max, attack='backdoor', **of):18}"
              f"{cell('flipped', max, attack='flip', **of):18}"
              f"{cell('accuracy', min, attack='none', **of)}")  # fmt: skip

# %% [markdown]
# ## An attacker who knows the defence
#
# SafeSplit looks at the server's layers and at nothing else. What does a cheater do who knows that?
#
# * It poisons less: one image in twenty.
# * It turns down its gradient: of stamped images it returns a fiftieth of $\partial L/\partial u$
#   (`StealthyClient` with a `volume`). Its own head learns from all of them.
# * It hides everything in the head: of stamped images it returns a gradient of zero. The server
#   learns from honest images only, and the backdoor travels in a part that SafeSplit never sees.

# %%
print(f"{'attack':28}{'defence':11}{'at the end':17}{'after the cheater':19}{'cheaters undone'}")
for attack in ("backdoor", "backdoor, 5% of the data", "backdoor, faint gradient",
               "backdoor in the head"):  # fmt: skip
    for defense in ("none", "SafeSplit"):
        of = {"schedule": "in turn", "defense": defense, "attack": attack}
        caught = cell("cheaters_undone", min, **of) if defense == "SafeSplit" else ""
        print(f"{attack:28}{defense:11}{cell('trigger', max, **of):17}"
              f"{cell('after_cheater', max, **of):19}{caught}")  # fmt: skip


# %%
def worst(column, attack, defense):
    """The greatest value of a column over the recorded seeds, in turn."""
    of = {"schedule": "in turn", "defense": defense, "attack": attack}
    return max(float(row[column]) for row in recorded if all(row[key] == of[key] for key in of))


QUIET = ("backdoor, faint gradient", "backdoor in the head")
of_record("recorded: the quiet backdoors at the end, in the worst run, with SafeSplit",
          [worst("trigger", attack, "SafeSplit") for attack in QUIET], ">", 0.1)  # fmt: skip
of_record("and without", [worst("trigger", attack, "none") for attack in QUIET], "<", 0.05)
of_record("SplitOut's alarms where nobody cheats", worst("split_out", "none", "detectors"),
          ">", 0.5)  # fmt: skip

# %% [markdown]
# What is hard to see is also hard to keep: the quieter the poison, the more of its turns pass, and
# the sooner honest turns wash it out. So it is in the median. Look at the worst runs: the two quiet
# backdoors end *higher* with SafeSplit than with no defence at all, for the honest turns that would
# have washed them out are undone as well. And a cheater who has the *last* turn needs nothing that
# lasts: see the column *after the cheater*.
#
# ## What the clients' detectors see
#
# Could the *clients* notice? The detectors of [lesson 09](09_malicious_server.ipynb) watch what the
# server returns. Four honest clients have one each, in runs with and without poison.

# %%
print(f"{'share of batches with an alarm':32}{'nobody cheats':18}{'backdoor':18}{'flip'}")
for column in ("split_guard", "scrutinizer", "label_gap", "split_out"):
    cells = [
        cell(column, max, schedule="in turn", defense="detectors", attack=attack)
        for attack in ("none", "backdoor", "flip")
    ]
    print(f"{column:32}{cells[0]:18}{cells[1]:18}{cells[2]}")

# %% [markdown]
# They answer another question. The server here is honest: it returns the true gradient of the
# client's own loss, whatever it has learnt from others before. Three never speak. SplitOut, which
# learns from a client's own few images what is normal, accuses the server where nobody cheats, too.
#
# **What none of them sees:** a poisoned image itself (in label-private training the server never
# sees a label, and nobody but the cheater sees its images); what lies in the head that is handed
# on; and a cheater who behaves until the last turn.
#
# And the server? It can plant a trigger in its own layers after the training, steer the client into
# one, or make adversarial examples of a client that it copied:
# [the appendix](appendix/12_server_integrity.ipynb).

# %%
# what `sltools sweep` keeps of this lesson
collected = {
    "trigger_in_turn": attacked["trigger"],
    "trigger_clean_run": unattacked["trigger"],
    "trigger_safesplit": defended["trigger"],
    "trigger_splitfed": averaged["trigger"],
    "trigger_median": median["trigger"],
    "honest_undone": undone(guarded, False),
}

# %% [markdown]
# **The clinic** can answer: yes, two of ten can plant a door that no test of accuracy shows. A
# server that compares the clients can close it, if most of them are honest and alike, and pays for
# it with the work of the honest.
#
# ## Limitations
#
# * **Data of one kind, dealt out evenly.** That is the best case for every defence here. The
#   publication of SafeSplit also has clients with data of their own kinds; we do not.
# * **SafeSplit is rebuilt from its paper.** There is no code of the authors that we know of. Which
#   low frequencies are meant, and what happens in the first turns, is our reading: see
#   `sltools.defenses.SafeSplit`.
# * **A large patch**, six pixels of 28 on each side, and few images. A smaller patch needs longer.
# * **Two cheaters at fixed places.** Whoever has the last turn is better off, and who has the first
#   meets no history.
# * **No cheater changes its layers by hand.** One who hands on a front and head that it has scaled
#   or chosen to lie within the range of the others is stronger; robust aggregation has been beaten
#   by such clients elsewhere.
#
# ## Try it
#
# * Let the *last* client cheat: `train(attack=..., cheaters=(9,))`. Then the first and second,
#   whose first turns SafeSplit passes unseen: `cheaters=(0, 1)`.
# * Flip labels in place of stamping: `train(attack=LabelFlip(7, 1))`. How long does it last?
# * Hide the backdoor in the head:
#   `train(cheat=partial(StealthyClient, backdoor=Backdoor(trigger)), cheaters=(9,))`.
# * Stamp `replace(trigger, opacity=0.3)`, or plant `Trigger(size=3, row=-4, column=-4)`.
#
# ## Review questions
#
# **1.** A vendor reports: "After training, the accuracy on a clean test set was 96%, as without the
# new clients. So they did no harm." What is missing?
#
# <details><summary>Answer</summary>
#
# All of it: a backdoor is made to leave the clean accuracy as it is. One would have to know the
# trigger to test for it, or to look at how the network was trained.
#
# </details>
#
# **2.** Why does the median of ten clients stop a cheater with five times the data, and the
# weighted average not?
#
# <details><summary>Answer</summary>
#
# The average weights by samples, a number that the client chooses. For the median a client is one
# value among ten of each weight, and two of ten are never in the middle unless they agree with some
# of the honest.
#
# </details>
#
# **3.** SafeSplit undid eight of a client's ten turns. May the vendor conclude that it cheats?
#
# <details><summary>Answer</summary>
#
# No. At least four of ten turns are undone in any case, and a client with unusual data is undone
# more often. The rule finds who is *different*, and nothing in it knows what poison is.
#
# </details>
#
# ## Further reading
#
# * P. Rieger and others: *SafeSplit: A Novel Defense Against Client-Side Backdoor Attacks in Split
#   Learning*, NDSS 2025. [arXiv 2501.06650](https://arxiv.org/abs/2501.06650).
# * F. Yu and others: *How to backdoor split learning*, Neural Networks 2023.
#   [doi 10.1016/j.neunet.2023.09.037](https://doi.org/10.1016/j.neunet.2023.09.037).
# * A. T. Z. Ismail, R. Shukla: *Analyzing the vulnerabilities in SplitFed Learning: Assessing the
#   robustness against Data Poisoning Attacks*.
#   [doi 10.1038/s41598-025-15993-8](https://doi.org/10.1038/s41598-025-15993-8).
# * P. Blanchard and others: *Machine Learning with Adversaries: Byzantine Tolerant Gradient
#   Descent*, NeurIPS 2017. Krum. D. Yin and others: *Byzantine-Robust Distributed Learning:
#   Towards Optimal Statistical Rates*, ICML 2018. The median and the trimmed mean.
#
# **Next:** [lesson 15](15_audit.ipynb), where you audit a split that nobody has attacked yet.
