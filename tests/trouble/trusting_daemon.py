"""A daemon with a planted fault: python -m tests.trouble.trusting_daemon TRUSTED PROGRAM ARGUMENTS…

It trusts what its host remembers: the "names" of files, their "attributes", or "all".
"""

import sys

from lockd.linux import file_servers

if __name__ == "__main__":
    _, trusted, *sys.argv = sys.argv
    if trusted in {"names", "all"}:
        vars(file_servers)["look_up_anew"] = lambda path: None
    if trusted in {"attributes", "all"}:
        vars(file_servers)["is_removed"] = lambda fd: False
    from lockd.daemon.main import main

    main()
