"""The card is rendered from the files of a run, and from nothing else."""

import html
import json
import re

import pytest
from huggingface_hub import ModelCard

from samed_hf import samed_lora_config
from samed_hf.hub import write_card
from samed_hf.hub.card import _NOT_ON_CARD, PRIVATE_SETTINGS, is_local_base
from samed_hf.training import SamedTrainingArguments
from samed_hf.utils.settings import field_names

METRICS = {
    "protocol": "strict",
    "distance_unit": "mm",
    "mean": {"dice": 0.4512345, "hd95": 1.5},
    "per_class": {"disc": {"dice": 0.9, "hd95": 1.504}, "bar": {"dice": 0.0, "hd95": None}},
    "per_case": {"case0006": {}, "case0007": {}},
}
SETTINGS = {
    "rank": 4,
    "learning_rate": 0.005,
    "gradient_checkpointing": False,
    "max_train_steps": None,
    "data_dir": "/home/someone/scans",
    "run": {"data": "Synapse multi-organ CT", "train_cases": 18, "optimizer_steps": 300},
}
CONFIG = {"id2label": {"2": "bar", "0": "background", "1": "disc"}, "image_size": 64}
ADAPTER = {"r": 4, "base_model_name_or_path": "facebook/sam-vit-base", "revision": "abc123"}


@pytest.fixture
def card(tmp_path):
    """Writes the files of a run with some things changed, then its card, and reads it."""

    def write(name="ward/discs", images=(), **changes):
        files = {"config": CONFIG, "adapter_config": ADAPTER, "metrics": METRICS, "training_settings": SETTINGS}
        for file, content in (files | changes).items():
            (tmp_path / f"{file}.json").unlink(missing_ok=True)
            if content is not None:
                (tmp_path / f"{file}.json").write_text(json.dumps(content))
        for image in images:
            (tmp_path / image).parent.mkdir(exist_ok=True)
            (tmp_path / image).write_bytes(b"png")
        write_card(tmp_path, name=name)
        return ModelCard.load(tmp_path / "README.md")

    return write


def tables(text):
    """The tables of a page, each a list of rows, each a list of cells."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines()] for block in blocks]


def test_the_settings_kept_off_the_card_are_those_that_the_fields_mark():
    assert set(field_names(SamedTrainingArguments, "private")) == PRIVATE_SETTINGS - {"cases"}
    on_card = set(field_names(SamedTrainingArguments, "on_card"))
    hidden = {key for key in set(field_names(SamedTrainingArguments, "help")) - on_card if key[:4] != "hub_"}
    assert hidden == (PRIVATE_SETTINGS | _NOT_ON_CARD) - {"cases", "deviations", "hub_token"}


def test_the_hub_can_file_it(card):
    data = card().data.to_dict()
    assert data["base_model"] == "facebook/sam-vit-base"
    assert data["base_model_relation"] == "adapter"
    assert data["library_name"] == "samed_hf"
    assert data["pipeline_tag"] == "image-segmentation"
    assert not {"license", "datasets"} & set(data)  # unknown, and on no Hub
    assert {"medical", "lora", "arxiv:2304.13785"} <= set(data["tags"])


def test_the_hubs_scores_are_those_of_the_file_to_the_last_digit(card):
    results = {result.metric_name: result for result in card().data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "Dice, mean": 0.4512345,
        "HD95 in mm, mean": 1.5,
        "Dice, disc": 0.9,
        "HD95 in mm, disc": 1.504,
        "Dice, bar": 0.0,  # its HD95 is defined nowhere
    }
    assert results["Dice, mean"].metric_args == {"protocol": "strict", "cases": 2}
    assert results["Dice, mean"].dataset_name == "Synapse multi-organ CT"


def test_a_base_that_is_not_on_the_hub_is_not_named(card):
    page = card(adapter_config=ADAPTER | {"base_model_name_or_path": "/home/someone/sam"})
    assert not {"base_model", "base_model_relation"} & set(page.data.to_dict())
    assert "The base model is not on the Hub" in page.text
    assert "/home/someone" not in page.content


@pytest.mark.parametrize("base", ["./base_model", "../sam", "/data/sam", "~/sam", "C:\\sam", "a/b/c"])
def test_paths_of_a_file_system(base):
    assert is_local_base(base)


def test_names_on_the_hub():
    assert not is_local_base("facebook/sam-vit-base")
    assert not is_local_base("gpt2")


def test_it_says_what_the_adapter_is(card):
    text = card().text
    assert "\n# ward/discs\n" in text
    assert "It segments disc, bar, slice by slice at 64×64 pixels." in text
    assert "background," not in text
    assert "Trained on Synapse multi-organ CT: 18 cases; 300 optimizer steps." in text
    assert "not a medical device" in text
    assert "at revision `abc123`" in text


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({}, "LoRA of rank 4 on q and v of the image encoder, and"),
        ({"targets": "o,k,mlp"}, "LoRA of rank 4 on k, o and the MLP of the image encoder, and"),
        ({"variant": "samed_s"}, "on q and v of the image encoder and on q and v of the mask decoder, and"),
        ({"encoder": "frozen"}, "trained whole, without LoRA; the base model is"),
        ({"encoder": "full", "variant": "samed_s"}, "LoRA of rank 4 on q and v of the mask decoder, and"),
    ],
    ids=str,
)
def test_it_says_what_was_trained(card, recipe, expected):
    config = samed_lora_config(4, **recipe)
    modules = {"target_modules": config.target_modules, "modules_to_save": config.modules_to_save}
    text = card(adapter_config=ADAPTER | modules).text
    assert expected in text
    assert ("The whole image encoder is trained" in text) == (recipe.get("encoder") == "full")
    assert ("The image encoder is the base model's, unchanged." in text) == (recipe.get("encoder") == "frozen")


def test_the_scores_are_those_of_the_run(card):
    page = card()
    assert "Protocol `strict`, 2 cases; distances in mm." in page.text
    assert [
        ["label", "DSC", "HD95"],
        ["---", "---", "---"],
        ["disc", "0.9000", "1.50"],
        ["bar", "0.0000", "–"],
        ["**mean**", "0.4512", "1.50"],
    ] in tables(page.text)


@pytest.mark.parametrize(
    ("trained_on", "expected"),
    [(["case0001"], "none of them trained on"), (["case0001", "case0007"], "1 of them trained on"), (None, None)],
)
def test_scores_of_cases_that_were_trained_on(card, trained_on, expected):
    settings = SETTINGS | ({"cases": {"train": trained_on}} if trained_on else {})
    page = card(training_settings=settings, images=["overlay.png"]).text
    assert re.findall("(?:none|[0-9]+) of them trained on", page) == ([expected] if expected else [])
    assert ("on a case not trained on" in page) == (expected == "none of them trained on")
    assert "case0001" not in page


def test_the_licences_are_those_that_were_given(card):
    lines = r"^- (?:Adapter weights|Base model|Data): ([a-z0-9.-]*\w)"
    assert re.findall(lines, card().text, re.M) == ["unknown", "apache-2.0", "unknown"]  # as facebook/sam-vit-base's
    page = card(adapter_config=ADAPTER | {"base_model_name_or_path": "lab/sam"})
    assert re.findall(lines, page.text, re.M) == ["unknown"] * 3
    given = {"license": "cc-by-nc-4.0", "base_license": "apache-2.0", "data_license": "cc-by-4.0"}
    page = card(training_settings=SETTINGS | given)
    assert page.data.license == "cc-by-nc-4.0"
    assert re.findall(lines, page.text, re.M) == [*given.values()]
    with pytest.raises(ValueError, match=r"data_license is 'CC BY'"):
        card(training_settings=SETTINGS | {"data_license": "CC BY"})


@pytest.mark.parametrize(("name", "expected"), [("ward/discs", ["ward/discs"]), ("/data/discs", None), ("a/b/c", None)])
def test_a_data_set_of_the_hub_is_named(card, name, expected):
    assert card(training_settings=SETTINGS | {"dataset_name": name}).data.to_dict().get("datasets") == expected


def test_labels_that_are_markdown_or_html(card):
    names = ["left | right", "a<b>&", "two\nlines", "[x](y)", "`code`"]
    config = CONFIG | {"id2label": {str(i): name for i, name in enumerate(["background", *names])}}
    row = {"dice": 0.5, "hd95": 1.0}
    page = card(config=config, metrics=METRICS | {"per_class": dict.fromkeys(names, row)})
    table = next(table for table in tables(page.text) if table[0] == ["label", "DSC", "HD95"])
    assert [len(cells) for cells in table] == [3] * (3 + len(names))
    assert [html.unescape(cells[0]) for cells in table[2:-1]] == [" ".join(name.split()) for name in names]
    assert "<b>" not in page.text
    assert "[x](y)" not in page.text
    assert [result.metric_name for result in page.data.eval_results[2::2]] == [f"Dice, {name}" for name in names]


def test_what_others_wrote_into_the_card_stays(card, tmp_path):
    card(training_settings=SETTINGS | {"license": "mit"})
    file = tmp_path / "README.md"
    text = file.read_text().replace("Protocol", "Forged").replace("license: mit", "license: cc0-1.0\nlanguage: en")
    text = text.replace("- medical", "- medical\n- ward-7")
    first, rest = text.split("<!-- samed_hf: begin", 1)
    file.write_text(f"{first}Our words.\n\n<!-- samed_hf: begin{rest}\nMore of them --- here.\n")
    page = card(metrics=None)
    assert page.text.lstrip().startswith("Our words.\n\n<!-- samed_hf: begin")
    assert page.text.rstrip().endswith("More of them --- here.")
    assert page.text.count("# ward/discs") == 1
    assert "Forged" not in page.text
    data = page.data.to_dict()
    assert (data["license"], data["language"], data["tags"][:2]) == ("cc0-1.0", "en", ["medical", "ward-7"])
    assert "model-index" not in data
    assert card(training_settings=SETTINGS | {"license": "mit"}).data.license == "mit"
    before = file.read_text()
    card(training_settings=SETTINGS | {"license": "mit"})
    assert file.read_text() == before


def test_a_card_without_marks(card, tmp_path):
    (tmp_path / "README.md").write_text("---\nlanguage: en\n---\nNot ours.\n")
    page = card()
    assert page.text.strip().startswith("Not ours.\n\n<!-- samed_hf: begin")
    assert page.data.language == "en"
    generated = re.sub("<!--.*?-->\n?", "", card().text).replace("Not ours.", "").strip()
    old = f"---\nlicense: apache-2.0\ndatasets:\n- scans\n---\n\n{generated}\n\nTheir words.\n"
    (tmp_path / "README.md").write_text(old)
    page = card()
    assert page.text.count("# ward/discs") == 1
    assert page.text.rstrip().endswith("Their words.")
    assert not {"license", "datasets"} & set(page.data.to_dict())
    (tmp_path / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(ValueError, match=r"README\.md are no YAML"):
        card()


def test_means_that_are_not_defined(card):
    metrics = METRICS | {"mean": {"dice": None, "hd95": None}, "distance_unit": "voxel"}
    text = card(metrics=metrics).text
    assert "| **mean** | – | – |" in text
    assert "distances in voxel." in text


def test_an_adapter_that_was_not_scored(card):
    page = card(metrics=None)
    assert "there are no scores" in page.text
    assert "Protocol" not in page.text
    assert page.data.eval_results is None
    assert "there are no scores" not in card().text


def test_an_adapter_whose_training_is_not_recorded(card):
    page = card(training_settings=None)
    assert "The settings of its training aren't recorded." in page.text
    assert "datasets" not in page.data.to_dict()


def test_random_weights_are_confessed(card):
    random = SETTINGS | {"run": SETTINGS["run"] | {"random_base": True}}
    assert "**random weights**" in card(training_settings=random).text
    assert "random weights" not in card().text


def test_the_settings_without_those_left_open_or_private(card):
    assert [
        ["setting", "value"],
        ["---", "---"],
        ["rank", "4"],
        ["learning_rate", "0.005"],
        ["gradient_checkpointing", "False"],
    ] in tables(card().text)


def test_it_says_how_far_it_is_the_papers_run(card):
    def text(deviations):
        return card(training_settings=SETTINGS | {"preset": "samed_h", "deviations": deviations}).text

    assert "run `samed_h`, but for: rank 8 instead of 4; no warmup." in text(["rank 8 instead of 4", "no warmup"])
    assert "run `samed_h`, without exception." in text([])
    assert "paper's run" not in card().text


def test_existing_images_are_shown(card):
    assert "overlay.png" not in card().text
    page = card(images=["overlay.png", "examples/case0006-slice-3.png"])
    assert "![overlay](overlay.png)" in page.text
    assert page.data.to_dict()["widget"] == [
        {"src": "examples/case0006-slice-3.png", "example_title": "case0006-slice-3"}
    ]


def test_no_placeholder_is_left(card):
    for changes in ({}, {"metrics": None, "training_settings": None}, {"adapter_config": {"r": 4}}):
        assert not re.search(r"{[{%]|[%}]}|\bNone\b|\bUndefined\b", card(**changes).text)


def test_a_new_card_replaces_the_old_one(card, tmp_path):
    card()
    before = {path.name for path in tmp_path.iterdir()}
    assert "# other" in card(name="other").text
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_no_adapter(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_card(tmp_path)
    assert list(tmp_path.iterdir()) == []
