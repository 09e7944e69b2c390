"""A view that is updated in place, on the alternate screen of the terminal (xterm's mode 1049)."""

import sys
import time
from collections.abc import Callable

from lockd.ctl import terminal

_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME = "\x1b[H"
_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"


def watch(view: Callable[[], list[str]], seconds: float) -> None:
    """Show a view and update it, until the user interrupts it with SIGINT.

    :param view: returns the lines to show.
    :param seconds: the time between two updates.
    """
    sys.stdout.write(_ENTER)
    try:
        while True:
            lines = _fitting(view(), terminal.size(sys.stdout)[1])
            shown = f"{_CLEAR_LINE}\r\n".join(lines)
            # One write that overwrites the old text, without clearing the screen first, does not flicker.
            sys.stdout.write(f"{_HOME}{shown}{_CLEAR_LINE}{_CLEAR_BELOW}")
            sys.stdout.flush()
            time.sleep(seconds)
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def _fitting(lines: list[str], height: int) -> list[str]:
    if len(lines) <= height:
        return lines
    hidden = len(lines) - height + 1
    return [*lines[: height - 1], f"and {hidden} more"]
