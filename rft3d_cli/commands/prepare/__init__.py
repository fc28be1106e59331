"""``rft3d prepare``: raw data in, records out. One file a data set; each adds its command to ``app``."""

from rft3d_cli.commands.prepare import merge, rooms, scannet, scanrefer, vsibench  # noqa: F401 - the order of the help
from rft3d_cli.commands.prepare._shared import app

__all__ = ["app"]
