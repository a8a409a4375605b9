"""The command `sltools`, and `python -m sltools` where scripts are not on the path."""

import sys

from sltools.errors import INTERRUPTED


def main() -> None:
    """Run the command line; it takes a moment to load, in which Ctrl-C is no traceback either."""
    try:
        from sltools.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
