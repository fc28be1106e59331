"""``rft3d prepare``: raw data in, records out. One file a command; each adds itself to ``app``."""

from rft3d_cli.commands.prepare import (  # noqa: F401
    cot,
    embodiedscan,
    export,
    merge,
    posed,
    qa,
    rooms,
    scan2cap,
    scannet,
    scanrefer,
    spatialqa,
    sqa3d,
    vgllm,
    video,
    vsibench,
)
from rft3d_cli.commands.prepare._shared import app

__all__ = ["app"]
