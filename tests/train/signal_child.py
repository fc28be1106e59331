"""A command of rft3d in a process of its own that sends itself a signal when a given step has been logged.

Arguments: the signal's name, the step, and the command. Of several processes, the one of SIGNAL_RANK gets it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main(name: str, step: int, command: list[str]) -> None:
    """Run ``command``, with the signal sent after the step's line is written."""
    from rft3d_cli import cli
    from rft3d_cli.train import monitor

    write = monitor.MetricsLog.on_log

    def on_log(self: monitor.MetricsLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        write(self, args, state, control, **kwargs)
        if state.global_step == step and os.environ.get("SIGNAL_RANK", "0") == os.environ.get("RANK", "0"):
            os.kill(os.getpid(), signal.Signals[name])

    monitor.MetricsLog.on_log = on_log
    cli.main(command)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
