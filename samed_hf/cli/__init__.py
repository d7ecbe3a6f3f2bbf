"""The command line, `samed-hf COMMAND`: one module for each command, with `add_parser(commands)` and `run(args)`.

The top of a command's module imports little more than argparse; `run` imports the libraries of the command. This keeps
`samed-hf --help` and the help of every command fast.
"""

from .parser import main, run_command

__all__ = ["main", "run_command"]
