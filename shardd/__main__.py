"""`python -m shardd`, and the entry point of the installed command."""

import sys

from shardd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
