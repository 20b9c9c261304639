"""``python -m idemstore``: the command line."""

from idemstore.cli import main

if __name__ == "__main__":
    main()
