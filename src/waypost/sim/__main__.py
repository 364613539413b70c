"""`python -m waypost.sim`: the simulator on its own."""

from __future__ import annotations

import argparse
import pathlib

from waypost.sim.app import run
from waypost.sim.names import render_list


def main() -> None:
    """Read the arguments and serve, or print the table of names."""
    parser = argparse.ArgumentParser(prog="python -m waypost.sim", description="A simulated provider.")
    parser.add_argument("--listen", default="127.0.0.1:0", help="HOST:PORT or unix:/path (default: a free port)")
    parser.add_argument("--journal", type=pathlib.Path, help="append what is received and sent to this file")
    parser.add_argument("--list", action="store_true", help="print what a model name may ask for, and stop")
    arguments = parser.parse_args()
    if arguments.list:
        print(render_list())
        return
    run(arguments.listen, arguments.journal, lambda address: print(f"listening on {address}", flush=True))


if __name__ == "__main__":
    main()
