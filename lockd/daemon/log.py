"""Logging, to where the configuration says."""

import logging
import sys

from lockd.daemon.config import Config

_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}


def configure(config: Config, *, verbose: bool) -> None:
    """Log from now on; ``verbose`` means information where the configuration says nothing else."""
    level = _LEVELS[config.log_level or (2 if verbose else 3)]
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
