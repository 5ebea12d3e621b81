"""``python -m vsad.cli`` is the ``vsad`` command."""

from vsad.cli import main

if __name__ == "__main__":
    main()
