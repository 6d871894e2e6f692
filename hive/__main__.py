"""``python -m hive``, the `hive` script and the single binary all start here."""

from __future__ import annotations

import sys


def main() -> None:
    """Do what the command line says, and exit with its code."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:  # asked for by tools on every start; not worth importing anything
        from hive import __version__

        sys.stdout.write(f"hive {__version__}\n")
        return
    from hive.cli.app import run
    from hive.config import environment

    sys.exit(run(arguments, environment()))


if __name__ == "__main__":
    main()
