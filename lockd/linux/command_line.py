"""The parser of a command line whose errors a terminal shows and does not obey."""

import argparse
from typing import NoReturn

from lockd.linux.printable import printable


class CommandLineParser(argparse.ArgumentParser):
    """A parser that escapes what is not printable in its error messages: they repeat arguments."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and an error message, and end the program.

        :param message: the message.
        """
        super().error(printable(message))
