"""`python -m msg.broker`: serve, under the name that the original project documents."""

import sys

from msg.cli.main import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
