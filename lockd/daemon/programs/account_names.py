"""The names of users and groups.

Another process looks them up, getent(1). The lookup opens and closes /etc/passwd, /etc/group and whatever else
nsswitch.conf(5) asks for. Within this process, that would end its locks on these files (Invariant 1). And it may wait
for a server of accounts, as no client of the daemon has to (Invariant 3).
"""

from typing import Final

from lockd.daemon import other_programs

_SECONDS: Final = 5.0
"""How many seconds a lookup may take."""


class AccountNames:
    """Looks up the names of users and groups, and remembers them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], str] = {}

    async def user(self, uid: int) -> str:
        """Return the name of a user.

        :param uid: the number of the user.
        :returns: the name; the number if it has none, or if the name cannot be looked up in time.
        """
        return await self._name("passwd", uid)

    async def group(self, gid: int) -> str:
        """Return the name of a group.

        :param gid: the number of the group.
        :returns: likewise.
        """
        return await self._name("group", gid)

    async def _name(self, database: str, number: int) -> str:
        key = database, number
        if key not in self._known:
            name = await _look_up(database, number)
            if name is None:
                return str(number)
            self._known[key] = name
        return self._known[key]


async def _look_up(database: str, number: int) -> str | None:
    try:
        found = await other_programs.run(["getent", database, str(number)], _SECONDS)
    except (OSError, RuntimeError):
        # There is no such program, or no thread or descriptor to start it and read what it says.
        return None
    return None if found is None else found.stdout.partition(b":")[0].decode(errors="surrogateescape") or None
