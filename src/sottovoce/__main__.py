"""`python -m sottovoce`, which is also how torchrun starts the command."""

from sottovoce.cli import main

if __name__ == "__main__":
    main()
