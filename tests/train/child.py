"""A command of rft3d in a process of its own that sends itself a signal when a given step has been logged.

Arguments: the signal's name, the step, and the command.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from rft3d_cli import cli
from rft3d_cli.train import monitor

name, step, *command = sys.argv[1:]
write = monitor.MetricsLog.on_log


def on_log(self: monitor.MetricsLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    write(self, args, state, control, **kwargs)
    if state.global_step == int(step):
        os.kill(os.getpid(), signal.Signals[name])


monitor.MetricsLog.on_log = on_log  # type: ignore[method-assign]
cli.main(command)
