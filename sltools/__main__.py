"""The command `sltools`, and `python -m sltools` where scripts are not on the path."""

import sys


def main() -> None:
    """Run the command line; it takes a moment to load, in which Ctrl-C is no traceback either."""
    try:
        from sltools.cli import INTERRUPTED
        from sltools.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
