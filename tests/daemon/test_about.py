"""The text about the settings: complete, true to the classes, and a file that changes nothing."""

import re
import tomllib

import attrs
import pytest

from msg.config import Settings, load
from msg.config.about import LIMITS, QUEUES, SETTINGS, TABLES, TOPICS, commented, keys
from msg.config.sources import _NOT_KEYS
from msg.core.settings import QueueSettings, TopicSettings

KEY = re.compile(r"# ([a-z_]+ = .+)")


def uncommented():
    return KEY.sub(r"\1", commented())


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table[0])
def test_every_setting_is_told_and_nothing_else(table):
    _, cls, about, _ = table
    known = [
        name for name in attrs.fields_dict(cls) if cls is not Settings or name not in _NOT_KEYS
    ]
    assert list(about) == known


def test_the_file_as_written_changes_nothing(tmp_path):
    path = tmp_path / "msg.toml"
    path.write_text(commented(), encoding="utf-8")
    settings = load({"config": str(path)})
    assert settings == Settings()
    assert not settings.origins


def test_the_file_holds_every_key_with_its_default(tmp_path):
    """With all `#` taken away it says in full what the defaults are, and so changes nothing."""
    document = tomllib.loads(uncommented())
    limits, queues, topics = (document.pop(name) for name in ("limits", "queues", "topics"))
    assert (set(document), set(limits)) == (set(SETTINGS), set(LIMITS))
    assert (set(queues[">"]), set(topics[">"])) == (set(QUEUES), set(TOPICS))

    path = tmp_path / "msg.toml"
    path.write_text(uncommented(), encoding="utf-8")
    settings = load({"config": str(path)})
    assert attrs.evolve(settings, queues={}, topics={}) == Settings()
    assert settings.queue("jobs") == QueueSettings()
    assert settings.topic("news") == TopicSettings()


def test_every_line_fits_and_says_what_may_be_written():
    assert max(map(len, commented().splitlines())) <= 100
    told = {key.name: key for _, cls, about, _ in TABLES for key in keys(cls, about)}
    assert told["frame_bytes"].line == 'frame_bytes = "1MiB"'
    assert told["group_idle_seconds"].line == 'group_idle_seconds = "7d"'
    assert told["backoff"].line == "backoff = [0, 1, 5, 30]"
    assert told["overflow"].kind == "reject | block | drop_oldest"
    assert (told["insecure"].kind, told["insecure"].default) == ("true | false", "false")
