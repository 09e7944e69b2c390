"""Interest: whether grants and releases are logged; cached for the hot path.

Every acquire and release needs the answer. Reading an attribute of a compiled object is much faster than
asking the ``logging`` module.
"""

from typing import Final


class Interest:
    """Which events are logged.

    :ivar in_grants: whether grants and releases are logged; ``events.look_again`` keeps it up to date.
    """

    def __init__(self) -> None:
        self.in_grants = False


interest: Final = Interest()
