"""``lockctl status``: which locks are held."""

import argparse
import json
from typing import Any

from lockd.client.status import StatusConnection
from lockd.ctl.exits import Exit


def add_parser(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser("status", help="list the locks that are held")
    parser.add_argument("-J", "--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Exit:
    """List the locks."""
    with StatusConnection.connect() as connection:
        rows = [
            {
                "mode": lock["mode"],
                "owner": owner["name"],
                "pid": owner["pid"],
                "since": lock["since"],
                "resource": lock["path"],
            }
            for lock in connection.locks()
            for owner in lock["owners"]
        ]
    if options.json:
        print(json.dumps({"locks": rows}, indent=3))
        return Exit.DONE
    print(f"{'MODE':9} {'OWNER':16} {'PID':>7} RESOURCE")
    for row in rows:
        print(f"{row['mode']:9} {row['owner'] or '-':16} {row['pid']:7} {row['resource']}")
    return Exit.DONE
