"""transformers' Trainer on SAMed: alone and in two processes, with `add_adapter`, `get_peft_model` and no adapter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from peft import get_peft_model
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments, default_data_collator

from samed_hf import SamedForSemanticSegmentation, samed_lora_config
from samed_hf.training import SamedTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it

LABELS = {0: "background", 1: "disc", 2: "bar"}
WAYS = {"add_adapter": SamedTrainer, "get_peft_model": Trainer, "whole": Trainer}


def make_model(way, base):
    torch.manual_seed(0)
    model = SamedForSemanticSegmentation.from_pretrained(base, image_size=64, id2label=LABELS)
    if way == "add_adapter":
        model.add_adapter(samed_lora_config(rank=2))
    return get_peft_model(model, samed_lora_config(rank=2)) if way == "get_peft_model" else model


def make_samples(number=8):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (number, 4, 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[0, :3] = 255
    pixels = labels.clamp(max=2).float().repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None] / 2
    return [
        {"pixel_values": image.expand(3, -1, -1), "labels": label} for image, label in zip(pixels, labels, strict=True)
    ]


def accuracy(prediction):
    known = prediction.label_ids != 255
    return {"accuracy": (prediction.predictions.argmax(1) == prediction.label_ids)[known].mean().item()}


def make_trainer(way, base, output, **options):
    options = {"max_steps": 4, "save_steps": 2, "eval_steps": 2, "eval_strategy": "steps"} | options
    args = TrainingArguments(
        str(output),
        learning_rate=0.01,
        weight_decay=0.1,
        per_device_train_batch_size=2,
        logging_steps=1,
        metric_for_best_model="accuracy",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    model, samples = make_model(way, base), make_samples()
    return WAYS[way](model, args, train_dataset=samples, eval_dataset=samples, compute_metrics=accuracy)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(autouse=True)
def fresh_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_it_trains_and_resumes(way, tiny_sam, tmp_path):
    trainer = make_trainer(way, tiny_sam, tmp_path)
    before = weights(trainer.model)
    trainer.train()
    after = weights(trainer.model)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert any("upscale_conv1" in name for name in changed)
    # Weight decay, too, leaves alone what never gets a gradient.
    assert not any(part in name for name in changed for part in ("iou_prediction", "positional", "not_a_point"))
    resumed = make_trainer(way, tiny_sam, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert equal(weights(resumed.model), after)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_best_model_is_loaded(way, tiny_sam, tmp_path):
    trainer = make_trainer(way, tiny_sam, tmp_path, load_best_model_at_end=True)
    trainer.compute_metrics = lambda evaluated: {"accuracy": -trainer.state.global_step}
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    stopped = make_trainer(way, tiny_sam, tmp_path / "stopped")
    stopped._load_from_checkpoint(str(tmp_path / "checkpoint-2"))
    assert equal(weights(trainer.model), weights(stopped.model))
    assert not equal(weights(trainer.model), weights(make_model(way, tiny_sam)))


def test_predictions_are_the_logits(tiny_sam, tmp_path):
    trainer = make_trainer("add_adapter", tiny_sam, tmp_path, eval_strategy="no")
    output = trainer.predict(make_samples(3))
    assert output.predictions.shape == (3, 3, 16, 16)
    assert output.label_ids.shape == (3, 16, 16)
    assert 0 <= output.metrics["test_accuracy"] <= 1
    assert trainer.model_accepts_loss_kwargs is False


def test_a_checkpoint_loads_by_from_pretrained(tiny_sam, tmp_path):
    trainer = make_trainer("add_adapter", tiny_sam, tmp_path, max_steps=2)
    trainer.train()
    model = SamedForSemanticSegmentation.from_pretrained(tmp_path / "checkpoint-2")
    pixels = make_samples(1)[0]["pixel_values"][None]
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, trainer.model.eval()(pixels).logits)


def test_a_checkpoint_without_adapter_is_refused(tiny_sam, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adapter_model.safetensors"):
        make_trainer("add_adapter", tiny_sam, tmp_path)._load_from_checkpoint(str(tmp_path / "checkpoint-7"))


def error_of_two_steps(model):
    """The second one fails if a gradient was missing in the first. The reducer must end before the process group."""
    parallel = DistributedDataParallel(model)
    try:
        for _ in range(2):
            parallel(**default_data_collator(make_samples(2))).loss.backward()
    except RuntimeError as error:
        return str(error)
    return None


@pytest.mark.parametrize("variant", ["samed", "samed_s", None])
def test_no_gradient_is_missing_under_ddp(variant, tiny_model, tmp_path):
    model = tiny_model if variant is None else get_peft_model(tiny_model, samed_lora_config(variant=variant))
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        error = error_of_two_steps(model.train())
    finally:
        distributed.destroy_process_group()
    assert error is None
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert any("upscale_conv1" in name for name in trained)
    assert not any("iou_prediction" in name for name in trained)


@pytest.mark.slow
def test_two_processes(tiny_sam, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, str(tiny_sam), str(tmp_path)], env=environment, check=True, timeout=300)
    for way in WAYS:
        first, second = (torch.load(tmp_path / way / f"{rank}.pt", weights_only=True) for rank in range(2))
        assert equal(first["trained"], second["trained"]), way
        for result in (first, second):
            assert equal(result["resumed"], result["trained"]), way


def train_in_this_process(way, base, output):
    """One of two processes: train, and resume from the middle."""
    options = {"ddp_find_unused_parameters": False, "load_best_model_at_end": True}
    trained, resumed = (make_trainer(way, base, output, **options) for _ in range(2))
    trained.train()
    resumed.train(resume_from_checkpoint=str(output / "checkpoint-2"))
    assert trained.accelerator.num_processes == 2
    result = {"trained": weights(trained.model), "resumed": weights(resumed.model)}
    torch.save(result, output / f"{trained.accelerator.process_index}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for way in WAYS:  # importing takes longer than training
        train_in_this_process(way, sys.argv[1], Path(sys.argv[2]) / way)
