"""`python -m sottovoce.cli`, which is how torchrun starts the command."""

from sottovoce.cli import main

if __name__ == "__main__":
    main()
