"""`python -m blemish`."""

from blemish.cli import main

if __name__ == "__main__":
    main()
