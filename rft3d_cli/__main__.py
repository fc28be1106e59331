"""``python -m rft3d_cli``: the same command line, for ``accelerate launch -m``."""

from rft3d_cli.cli import main

if __name__ == "__main__":
    main()
