"""The files of `examples/serve`: their commands exist, their ports agree, and they hold no secret."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from samed_hf.cli.parser import make_parser

ROOT = Path(__file__).parents[2] / "examples" / "serve"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
RAY = yaml.safe_load((ROOT / "rayservice.yaml").read_text())["spec"]
PODS = [RAY["rayClusterConfig"]["headGroupSpec"], *RAY["rayClusterConfig"]["workerGroupSpecs"]]


def instruction(name: str) -> list[str]:
    """The list of an instruction of the Dockerfile, which is JSON."""
    return json.loads(re.search(rf"^{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])


def parsed(command: list[str]) -> Any:
    program, *arguments = command
    assert program == "samed-hf"
    return make_parser().parse_args(arguments)


def values(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each text below a tree of YAML, with the path of its keys."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from values(value, f"{path}/{key}")
    else:
        yield path, str(tree)


@pytest.mark.parametrize("command", [instruction("CMD"), SERVICES["serve"]["command"]], ids=["Dockerfile", "compose"])
def test_the_server_listens_where_the_files_expect_it(command):
    args = parsed([*instruction("ENTRYPOINT"), *command])
    assert (args.host, args.port, args.token) == ("0.0.0.0", 8000, None)
    assert re.search(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)[1] == "8000"
    assert "http://127.0.0.1:8000/health'" in DOCKERFILE
    assert "\nUSER 1000\n" in DOCKERFILE
    volumes = [volume.rpartition(":ro")[0] or volume for volume in SERVICES["serve"]["volumes"]]
    assert {*args.adapters, str(args.studies)} <= {volume.rpartition(":")[2] for volume in volumes}


def test_the_watcher_of_compose():
    watch = SERVICES["watch"]
    args = parsed([*watch["entrypoint"], *watch["command"]])
    assert args.store
    assert args.address.startswith("dicomweb+http://orthanc:8042/")
    assert f"output:{args.output}" in watch["volumes"]
    assert COMPOSE["configs"]["netrc"]["content"].startswith("machine orthanc login samed password ${")


def test_ports_of_compose_are_open_on_this_machine_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:8042:8042", "127.0.0.1:4242:4242", "127.0.0.1:8000:8000"]
    assert set(COMPOSE["volumes"]) >= {
        source
        for service in SERVICES.values()
        for source, *_ in (volume.split(":") for volume in service["volumes"])
        if source.isalpha()
    }


def test_the_copied_files_exist():
    allowed = (ROOT / "Dockerfile.dockerignore").read_text().split()
    for sources in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            assert (ROOT.parents[1] / source).exists()
            assert f"!{source}" in allowed


def test_the_manifest_serves_what_the_example_builds():
    ray_serve = pytest.importorskip("examples.serve.ray_serve", reason="Ray Serve is not installed")
    served = yaml.safe_load(RAY["serveConfigV2"])
    (application,) = served["applications"]
    assert application["import_path"] == "examples.serve.ray_serve:build"
    deployed = ray_serve.build(application["args"])
    assert isinstance(deployed, ray_serve.serve.Application)
    models = RAY["rayClusterConfig"]["workerGroupSpecs"][0]
    assert int(models["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) >= application["args"]["cpus"]
    for pod in PODS:
        (container,) = pod["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["serve"] == served["http_options"]["port"]
        assert {one["name"] for one in container["env"]} == {"PYTHONPATH", "SAMED_TOKEN"}
        assert pod["template"]["spec"]["securityContext"]["runAsNonRoot"]
    constraints = (ROOT.parents[1] / "constraints.txt").read_text()
    assert f"ray=={RAY['rayClusterConfig']['rayVersion']}\n" in constraints


def test_an_option_that_does_not_exist_is_refused(capsys):
    ray_serve = pytest.importorskip("examples.serve.ray_serve", reason="Ray Serve is not installed")
    with pytest.raises(SystemExit):
        ray_serve.build({"adapters": "one two", "allow_delete": "True", "number": 1})
    assert "--number=1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--max_replicas 1"):
        ray_serve.build({"adapters": "one two", "replicas": 2, "max_replicas": 1})


def test_no_file_holds_a_secret():
    for path, value in [*values(COMPOSE), *values(RAY)]:
        if re.search("token|password|secret", path, re.IGNORECASE):
            assert value.startswith("${") or path.endswith(("/secretKeyRef/name", "/secretKeyRef/key"))
    for line in re.findall(r"^(?:ARG|ENV) (.*)$", DOCKERFILE, re.MULTILINE):
        assert "TOKEN" not in line


def test_the_commands_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    for command in re.findall(r"^samed-hf .*$", text, re.MULTILINE):
        parsed(shlex.split(command))
    for file in re.findall(r"examples/serve/[\w.]+\w", text + (ROOT / "compose.yaml").read_text()):
        assert (ROOT.parents[1] / file).is_file()
