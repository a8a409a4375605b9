"""Put the tables of attackers with data into docs/results.md, as their records are now.

python -m tools.results
"""

import re

from benchmarks import record_auxiliary
from sltools import storage
from tools.notebooks import ROOT

PAGE = ROOT / "docs" / "results.md"
SECTION = re.compile(r"(?<=\n## And for a server with data\?\n).*?(?=\n### )", re.S)
TABLE = re.compile(r"(?:^\|.*\n)+", re.M)


def main() -> None:
    """Replace each table of the section by the one that stands there."""
    digits, mnist = (record_auxiliary.tables(name) for name in ("digits", "mnist"))
    pairs = zip(digits, mnist, strict=False)  # the last one is of MNIST alone
    made = iter([*(table for pair in pairs for table in pair), *mnist[len(digits) :]])
    text = PAGE.read_text(encoding="utf-8")
    section = SECTION.search(text)
    assert section is not None
    written = TABLE.sub(lambda _: next(made) + "\n", section.group())
    storage.write_atomic(PAGE, text.replace(section.group(), written))


if __name__ == "__main__":
    main()
