"""`python -m sltools`: the command line, where scripts are not on the path."""

from sltools.cli import main

main()
