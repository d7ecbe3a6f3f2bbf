"""The command line, `samed-hf COMMAND`: one module for each command, with `add_parser(commands)` and `run(args)`.

A command's module imports argparse and little more; `run` imports what the command works with. So `samed-hf --help`
and the help of every command answer at once.
"""

from .parser import main, run_command

__all__ = ["main", "run_command"]
