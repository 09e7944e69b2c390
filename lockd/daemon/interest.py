"""Interest: whether anybody wants to be told of what is granted, which is most calls.

Every call asks, so it is an attribute of a compiled object: the log itself takes several steps to tell.
"""

from typing import Final


class Interest:
    """What anybody wants to know.

    :ivar in_grants: whether grants and releases are logged; ``events.look_again`` keeps it up to date.
    """

    def __init__(self) -> None:
        self.in_grants = False


interest: Final = Interest()
