"""The address that others install the package from."""

import json

import pytest

from samed_hf.utils import source

GIT = {"url": "https://git.example/samed_hf", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}}


class Distribution:
    def __init__(self, version, record, urls):
        self.version, self.record, self.metadata = version, record, self
        self.urls = urls

    def read_text(self, name):
        return self.record and json.dumps(self.record)

    def get_all(self, name):
        return self.urls


@pytest.mark.parametrize(
    ("version", "record", "urls", "expected"),
    [
        ("0.1.0.dev0", GIT, None, "git+https://git.example/samed_hf@0123abc"),
        ("1.2.0", None, ["Paper, https://x", "Source, https://git.example/s"], "git+https://git.example/s@v1.2.0"),
        ("1.2.0.dev0", None, ["Source, https://git.example/s"], None),  # no tag
        ("1.2.0", {"url": "file:///home/someone/samed_hf", "dir_info": {}}, None, None),
        ("1.2.0", GIT | {"url": "file:///home/someone/samed_hf"}, None, None),
        ("1.2.0", GIT | {"url": "https://token@git.example/samed_hf"}, None, None),
    ],
)
def test_the_source_is_a_git_url_at_a_commit_or_tag(monkeypatch, version, record, urls, expected):
    monkeypatch.setattr(source.metadata, "distribution", lambda name: Distribution(version, record, urls))
    assert source.package_source() == expected
