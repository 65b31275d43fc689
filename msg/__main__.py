"""`python -m msg`: the command line; without a command it serves, as the original did."""

import sys

from msg.cli.main import main

if __name__ == "__main__":
    has_command = len(sys.argv) > 1 and not sys.argv[1].startswith("-")
    main(sys.argv[1:] if has_command else ["serve", *sys.argv[1:]])
