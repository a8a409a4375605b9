# ---
# jupyter:
#   sltools:
#     minutes: 10
# ---

# %% [markdown]
# # The field map: who attacks, and who answers
#
# The course takes a few attacks apart. There are many more, and for a system of your own another
# one may matter: a language model, a table whose columns lie in two houses, a backdoor. Here is a
# map of works on attacking and protecting split learning, with **one threat card each**: who
# attacks, what that needs, what it gets, who answered it, where to read on, and whether this course
# **runs** it, **explains** it or only **lists** it.
#
# The same on the command line: `sltools map --needs labels --world vfl`. Names of two words need
# quotes there: `sltools map --needs "smashed data"`.
#
# **Time.** About 10 minutes (estimated). Nothing here is trained, so there are no settings.

# %%
from sltools import fieldmap, plots, widgets
from sltools.claims import Claims, compare

claim = Claims(as_shown=True)
works = fieldmap.works()
print(f"{len(works)} works")
for status, meaning in fieldmap.STATUSES.items():
    print(f"{len(fieldmap.find(status=status)):4} {status}: {meaning}")

# %% [markdown]
# A card says **not known to us** where our sources were silent. Most of them are abstracts; of
# a few works we know the title alone: these are `unread`, and their cards say nothing else.

# %%
for title in ("SplitGuard", "Unlocking Visual Secrets"):
    print(fieldmap.card(fieldmap.find(text=title)[0]), end="\n\n")
print("title alone:", len(fieldmap.find(status="unread")), "works")

# %% [markdown]
# ## What does it take?
#
# A client can notice a server that *sends* something else than it should
# ([lesson 09](../09_malicious_server.ipynb)). It cannot notice one that only listens. Of the
# attacks on the map that go for private **inputs**, how many have an attacker that need not change
# a message? Your guess, as a share:

# %%
guess_listening = None  # your guess: a share, 0 to 1

# %%
after_inputs = fieldmap.find(kind="attack", gets="inputs")
listening, unknown = [], []
for work in after_inputs:
    needs = [threat.needs for threat in work.threats if "inputs" in threat.gets]
    if any(need is not None and "changed messages" not in need for need in needs):
        listening.append(work)
    elif None in needs:
        unknown.append(work)
share = len(listening) / len(after_inputs)
print(f"{len(after_inputs)} attacks on inputs; by listening: {len(listening)}; "
      f"we do not know: {len(unknown)}")  # fmt: skip
compare(guess_listening, share, "share that works by listening")
claim("share that works by listening", share, ">", 0.5)

# %% [markdown]
# A detector has nothing to say about those. What they need instead is the question to ask of a
# system: below, each cell counts the attacks with an attacker that needs what stands to its left
# and gets what stands above. (One work counts in several cells: an attacker needs several things.)

# %%
WHAT = ("what it gets", "what the attacker needs")
plots.heat_map(fieldmap.needs_and_gets(fieldmap.find(kind="attack")), *WHAT)

# %% [markdown]
# The words of the rows:

# %%
for need, meaning in fieldmap.NEEDS.items():
    print(f"{need:18} {meaning}")

# %%
free = [
    work
    for work in fieldmap.find(kind="attack", gets="labels", needs="gradients")
    if any(t.needs == ("gradients",) and "labels" in t.gets for t in work.threats)
]
claim("attacks on labels that need the gradients they are sent, and nothing else", len(free),
      ">", 2)  # fmt: skip
for work in free:
    print(f"  {work.name} ({work.year}): {work.status}")

# %% [markdown]
# ## Look for your own case
#
# Choose what you know of your system in the menus, or type words (`gradients`, `noise`, a name).
# Below the figure stands a table of what was found.

# %%
ANY = "any"


def draw(**chosen):
    """The works that are all that was chosen: their needs and gets, and a table."""
    asked = {name: None if value == ANY else value for name, value in chosen.items()}
    found = fieldmap.find(**asked)
    return plots.heat_map(fieldmap.needs_and_gets(found), *WHAT), fieldmap.table(found)


menus = {
    "needs": fieldmap.NEEDS, "gets": fieldmap.GETS, "world": fieldmap.WORLDS,
    "kind": fieldmap.KINDS, "status": fieldmap.STATUSES,
}  # fmt: skip
words = widgets.Words(["", "gradients", "discriminator", "noise", "decoder", "Pasquini"])
widgets.show(
    draw,
    {"kind": "attack", "status": "runs"},
    **{name: [ANY, *values] for name, values in menus.items()},
    text=words,
)

# %% [markdown]
# Without the widget: the figure shows the attacks that the course runs, and this is their table.
# The numbers in its last column are those of the lessons, or of notebooks of their appendix.

# %%
print(fieldmap.table(fieldmap.find(kind="attack", status="runs")))

# %% [markdown]
# In Python, `find` takes the same. Vertical federated learning, where the other party has the
# labels; and then what is done about a client that plants a backdoor:

# %%
print(fieldmap.table(fieldmap.find(world="vfl", gets="labels", kind="attack")))
print()
print(fieldmap.table(fieldmap.find(gets="backdoor", kind="defence")))

# %% [markdown]
# ## Who answers whom?
#
# A work *answers* another if, by its own account, it defends against it, detects it, evades it or
# breaks it. Those with most answers come first:

# %%
names = {work.id: work.name for work in works}
for work in sorted(works, key=lambda work: -len(work.answered_by)):
    if work.answered_by:
        print(f"{work.name}: answered by {'; '.join(names[key] for key in work.answered_by)}")

# %%
attacking = {work.id for work in fieldmap.find(kind="attack")}
protecting = {work for kind in ("defence", "detector", "cryptography")
              for work in fieldmap.find(kind=kind)}  # fmt: skip
broken = [w.name for w in works if w in protecting and attacking & {*w.answered_by}]
claim("defences, detectors and protocols that an attack evades or breaks", len(broken), ">", 3)
print("  " + "; ".join(broken))

# %% [markdown]
# ## All works
#
# In the order of the map: attacks on inputs, language models, labels, integrity; defences,
# detectors; other loot; cryptography, frameworks, surveys.

# %%
print(fieldmap.table(works))

# %% [markdown]
# ## Limitations
#
# * **No census.** The map holds the works that the page of the paper lists, those that the course
#   uses or cites, and some that answer one of these. What is counted is the map, not the field.
# * **Mostly abstracts.** A need that no abstract mentions is missing from its card, so attacks look
#   cheaper than they are. Nobody here has run what is only listed.
# * **A cell says that somebody got something**, not how well, or on which network. For that run it:
#   the lessons do.
# * **Not answered** means not answered on this map.
#
# ## Try it
#
# * Which attacks would apply to a system of yours? Begin with what the other party already has.
# * Which of their needs could you take away? [Lesson 08](../08_defences.ipynb) has the tools.
# * A work is missing, or a card is wrong? It is one entry of a file; send it to the project.
#
# **Back:** [lesson 00](../00_start_here.ipynb).
