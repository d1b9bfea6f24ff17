"""`python -m blemish`."""

from blemish.cli.commands import main

if __name__ == "__main__":
    main()
