"""``python -m rft3d_cli``: the same command line, for ``accelerate launch -m``."""

if __name__ == "__main__":
    # Not at the top: processes that work for a command import this module again, and need no command line.
    from rft3d_cli.cli import main

    main()
