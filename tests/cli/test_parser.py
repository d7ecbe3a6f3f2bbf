"""The parsers of all commands: what their help imports, verbosity, and the errors of broken packages."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from samed_hf import __version__
from samed_hf.cli import main, run_command
from samed_hf.cli.parser import make_parser

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "peft", "accelerate", "SimpleITK", "pydicom", "numpy"}
COMMANDS = [
    [],
    ["prepare"],
    ["prepare", "synapse"],
    ["prepare", "phantom"],
    ["validate"],
    ["train"],
    ["evaluate"],
    ["predict"],
    ["merge-predictions"],
    ["convert"],
    ["convert", "sam"],
    ["convert", "samed"],
    ["convert", "original"],
    ["compare"],
    ["push"],
    ["doctor"],
]
SCRIPT = """
import atexit, json, sys
sys.argv[0] = "samed-hf"
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
from samed_hf.cli import main
main()
"""


def run(*argv, path=None):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)]))}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("command", [["--version"], *([*command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_imports_no_heavy_package(command):
    done = run("-c", SCRIPT, *command)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(json.loads(done.stderr.splitlines()[-1]))
    assert done.stdout.startswith("samed-hf " if command == ["--version"] else "usage: samed-hf")


@pytest.mark.parametrize("module", ["samed_hf", "samed_hf.cli"])
def test_version_of_the_modules(module):
    assert run("-m", module, "--version").stdout == f"samed-hf {__version__}\n"


def test_every_command_has_help_and_verbosity(capsys):
    for command in COMMANDS[1:]:
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--help"])
        assert stopped.value.code == 0
        printed = capsys.readouterr().out
        assert f"usage: samed-hf {' '.join(command)}" in printed
        assert "--quiet" in printed or len(command) == 1


def test_the_help_of_train_lists_each_flag_once(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    listed = re.findall(r"^  (--?\w[\w-]*)", capsys.readouterr().out, re.M)
    assert len(listed) == len(set(listed))
    assert {"--per_device_train_batch_size", "--save_best", "--no_save_best", "--config", "--dry_run"} <= set(listed)
    assert not any("-" in flag.lstrip("-") for flag in listed)


@pytest.mark.parametrize(
    ("argv", "level"),
    [
        (["compare", "x"], 20),
        (["--verbose", "compare", "x"], 10),
        (["compare", "x", "--verbose"], 10),
        (["--quiet", "compare", "x"], 30),
        (["compare", "--quiet", "x"], 30),
        (["--quiet", "convert", "sam", "x", "--output", "y"], 30),
        (["convert", "sam", "x", "--output", "y", "--quiet"], 30),
        (["--verbose", "compare", "x", "--quiet"], 30),
    ],
)
def test_verbosity_before_and_after_the_command(argv, level):
    assert make_parser().parse_args(argv).log_level == level


@pytest.mark.slow
def test_quiet_hides_what_is_logged_and_not_the_result(tiny_data, tmp_path, capsys):
    argv = ["train", "--data_dir", str(tiny_data), "--output_dir", str(tmp_path / "run"), "--dry_run"]
    assert main([*argv, "--quiet"]) == 0
    assert "device " not in capsys.readouterr().out
    assert main(argv) == 0
    assert "device " in capsys.readouterr().out


def test_unknown_flags_end_with_2(capsys):
    for argv in (["evaluate", "adapter", "--colour", "red"], ["train", "--colour", "red"], ["doctor", "more"]):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        assert stopped.value.code == 2
        assert argv[-1] in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "content", "reason"),
    [
        ("torch", "raise OSError('libtorch.so: undefined symbol')", "undefined symbol"),
        ("peft", "raise ImportError('no peft')", "no peft"),
        ("transformers", "raise RuntimeError('operator is missing')", "operator is missing"),
        ("accelerate", "import no_such_package", "no_such_package"),
    ],
)
def test_a_broken_package_is_named_with_its_reason(package, content, reason, tiny_adapter, tmp_path):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(content)
    command = ["predict", str(tiny_adapter), "scan.nii.gz", "--output", str(tmp_path / "out")]
    done = run("-m", "samed_hf", *command, path=str(tmp_path))
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {package} can't be imported")
    assert reason in line
    assert "samed-hf doctor" in line


def test_errors_of_the_package_itself_keep_their_message(capsys):
    def needs_an_extra():
        raise ImportError("adamw_8bit needs bitsandbytes:\n pip install bitsandbytes")

    assert run_command(needs_an_extra) == 2
    assert capsys.readouterr().err == "error: adamw_8bit needs bitsandbytes: pip install bitsandbytes\n"


def test_a_mistake_of_the_program_is_no_bad_input(capsys):
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)

    def runs_out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert run_command(runs_out_of_memory) == 2
    assert capsys.readouterr().err == "error: CUDA out of memory.\n"
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 1) == 1
