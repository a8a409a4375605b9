"""Put the tables of attackers with data and of attacks on integrity into docs/results.md.

python -m tools.results
"""

import re
from collections.abc import Iterable

from benchmarks import record_auxiliary, record_poisoning, record_server_integrity
from sltools import storage
from tools.notebooks import ROOT

PAGE = ROOT / "docs" / "results.md"
TABLE = re.compile(r"(?:^\|.*\n)+", re.M)


def main() -> None:
    """Replace each table of the three sections by the one that stands there."""
    digits, mnist = (record_auxiliary.tables(name) for name in ("digits", "mnist"))
    pairs = zip(digits, mnist, strict=False)  # the last one is of MNIST alone
    with_data = [*(table for pair in pairs for table in pair), *mnist[len(digits) :]]
    text = _filled(
        PAGE.read_text(encoding="utf-8"), "And for a server with data?", "### ", with_data
    )
    poisoned = [
        *record_poisoning.tables("digits"),
        *record_poisoning.tables("mnist"),
        record_poisoning.published_table(),
    ]
    text = _filled(text, "And clients who cheat?", "## ", poisoned)
    lying = record_server_integrity.tables(record_server_integrity.read())
    text = _filled(text, "What can a lying server do to the network?", "## ", lying)
    storage.write_atomic(PAGE, text)


def _filled(text: str, heading: str, until: str, tables: Iterable[str]) -> str:
    """The page with other tables between a heading and what comes next."""
    section = re.search(rf"(?<=\n## {re.escape(heading)}\n).*?(?=\n{until})", text, re.S)
    assert section is not None
    made = iter(tables)
    written = TABLE.sub(lambda _: next(made) + "\n", section.group())
    return text.replace(section.group(), written)


if __name__ == "__main__":
    main()
