"""The configurations of examples/accelerate: each is one to Accelerate, and what can run here runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

from samed_hf.model import vision_encoder
from samed_hf.training import parse_arguments

from ..conftest import TINY_SIZE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "accelerate"
TYPES = {
    "ddp": DistributedType.MULTI_GPU,
    "ddp_cpu": DistributedType.MULTI_GPU,
    "two_machines": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "deepspeed_zero2": DistributedType.DEEPSPEED,
    "small_gpu": DistributedType.NO,
}


def test_every_file_is_described_and_tested():
    readme = (FOLDER / "README.md").read_text()
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    assert names == sorted(TYPES)
    assert all(f"| `{name}.yaml` |" in readme for name in names)


@pytest.mark.parametrize("name", TYPES)
def test_accelerate_reads_it(name):
    """Its loader refuses keys it doesn't know; those of FSDP and DeepSpeed must be flags of its launcher."""
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.distributed_type == TYPES[name]
    assert config.mixed_precision == ("no" if name == "ddp_cpu" else "bf16")
    flags = vars(launch_command_parser().parse_args(["script.py"]))
    for key, value in (config.fsdp_config | config.deepspeed_config).items():
        assert key in flags, key
        assert value is not None


def test_the_layer_that_is_divided_is_the_encoders():
    layer = load_config_from_file(str(FOLDER / "fsdp2.yaml")).fsdp_config["fsdp_transformer_layer_cls_to_wrap"]
    assert hasattr(vision_encoder, layer)


def test_the_readmes_commands_have_flags_that_exist():
    commands = re.findall(r"^accelerate launch .*?[^\\]$", (FOLDER / "README.md").read_text(), re.M | re.S)
    flags = [
        command.replace("\\\n", " ").partition("train_synapse.py")[2].split("#")[0].split() for command in commands
    ]
    assert len(flags) == 4
    for arguments in flags:
        parse_arguments([argument for argument in arguments if argument != "..."])


@pytest.mark.slow
def test_accelerate_launch_trains_in_two_processes_on_the_cpu(tiny_sam, tiny_data, tmp_path):
    settings = {
        "model_name_or_path": tiny_sam,
        "data_dir": tiny_data,
        "output_dir": tmp_path / "run",
        "image_size": TINY_SIZE,
        "per_device_train_batch_size": 3,
        "max_train_steps": 2,
        "num_validation_cases": 0,
        "checkpointing_steps": 0,
        "report_to": "none",
    }
    result = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "ddp_cpu.yaml")),
            # Any free port: another run may hold Accelerate's own.
            *("--main_process_port", "0", "examples/train_synapse.py"),
            *(f"--{key}={value}" for key, value in settings.items()),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "2 steps of 6 slices" in result.stdout
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
