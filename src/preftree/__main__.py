"""`python -m preftree`, which is also what torchrun starts."""

from preftree.cli.main import main

if __name__ == "__main__":
    main()
