"""Put tables into docs/results.md, as their records are now: attackers with data, lying servers.

python -m tools.results
"""

import re
from collections.abc import Sequence

from benchmarks import record_auxiliary, record_server_integrity
from sltools import storage
from tools.notebooks import ROOT

PAGE = ROOT / "docs" / "results.md"
SECTION = r"(?<=\n{}\n).*?(?=\n##)"  # from a heading to the next
TABLE = re.compile(r"(?:^\|.*\n)+", re.M)


def main() -> None:
    """Replace each table of the two sections by the one that stands there."""
    digits, mnist = (record_auxiliary.tables(name) for name in ("digits", "mnist"))
    pairs = zip(digits, mnist, strict=False)  # the last one is of MNIST alone
    with_data = [*(table for pair in pairs for table in pair), *mnist[len(digits) :]]
    page = PAGE.read_text(encoding="utf-8")
    page = _replaced(page, "## And for a server with data?", with_data)
    lying = record_server_integrity.tables(record_server_integrity.read())
    page = _replaced(page, "## What can a lying server do to the network?", lying)
    storage.write_atomic(PAGE, page)


def _replaced(page: str, heading: str, tables: Sequence[str]) -> str:
    """The page with these `tables` in the section under a `heading`, in their order."""
    section = re.search(SECTION.format(re.escape(heading)), page, re.S)
    assert section is not None
    made = iter(tables)
    written = TABLE.sub(lambda _: next(made) + "\n", section.group())
    return page.replace(section.group(), written)


if __name__ == "__main__":
    main()
