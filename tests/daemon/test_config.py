"""Settings: precedence and origins, errors that name the line, patterns, reload."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msg.config import ConfigError, Limits, Settings, load, parse_seconds, parse_size, reload
from msg.config.sources import _NOT_KEYS
from msg.config.toml_lines import key_lines
from msg.config.values import AT_LEAST, CHOICES, show_key, show_value, split_key
from msg.core.settings import QueueSettings, TopicSettings


@pytest.fixture
def config_file(tmp_path):
    def write(text):
        path = tmp_path / "msg.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def problems(*args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    return caught.value.problems


class TestPrecedence:
    def test_flag_beats_environment_beats_file_beats_default(self, config_file):
        path = config_file('host = "a"\nport = 1\ndrain_seconds = 1\nlog_level = "debug"\n')
        settings = load({"config": path, "port": 3}, {"MSG_PORT": "2", "MSG_DRAIN_SECONDS": "2s"})
        assert (settings.port, settings.drain_seconds, settings.host) == (3, 2.0, "a")
        assert settings.origin("port") == "--port"
        assert settings.origin("drain_seconds") == "MSG_DRAIN_SECONDS"
        assert settings.origin("host") == f"{path}:1"
        assert settings.origin("log_level") == f"{path}:4"
        assert settings.origin("data_dir") == "default"

    def test_set_takes_any_key(self):
        sets = ["limits.frame_bytes=2MiB", "queues.jobs.*.ttl=5m", 'topics."a.b".backlog_bytes=0']
        settings = load(sets=sets)
        assert settings.limits.frame_bytes == 2 << 20
        assert settings.queue("jobs.x").ttl == 300
        assert settings.topic("a.b").backlog_bytes == 0
        assert settings.origin("limits", "frame_bytes") == "--set limits.frame_bytes"

    def test_config_file_is_named_by_the_environment_too(self, config_file):
        path = config_file("port = 7")
        assert load(env={"MSG_CONFIG": path}).port == 7

    def test_data_dir_of_the_original_and_of_systemd(self, config_file):
        path = config_file('data_dir = "file"')
        env = {"STATE_DIRECTORY": "/var/lib/msg:/var/lib/other"}
        assert load(env=env).data_dir == "/var/lib/msg"
        assert load({"config": path}, env).data_dir == "file"
        env["msg_DATA_DIR"] = "original"
        assert load({"config": path}, env).data_dir == "original"
        env["MSG_DATA_DIR"] = "ours"
        assert load({"config": path}, env).data_dir == "ours"

    def test_environment_of_others_is_left_alone(self):
        env = {"MSG_URL": "msg://x", "MSG_SERVICE_HOST": "10.0.0.1", "MSG_PORT": "tcp://10.0.0.1:1",
               "MSG_PORT_8888_TCP_ADDR": "10.0.0.1", "HOST": "x"}  # fmt: skip
        assert load(env=env) == Settings()

    def test_every_limit_can_come_from_the_environment(self):
        assert (
            load(env={"MSG_LIMITS_PARTIAL_FRAME_SECONDS": "5s"}).limits.partial_frame_seconds == 5
        )


class TestErrors:
    def test_unknown_key_names_file_line_and_nearest(self, config_file):
        path = config_file(
            '# a comment\nport = 1\n\n[limits]\nframe_byts = 1\n[queues."jobs.*"]\n'
            'backoff = [\n  0,\n]\noverflo = "block"\n[queue.x]\nttl = 1\n'
        )
        assert problems({"config": path}) == [
            f"{path}:5: unknown key limits.frame_byts; did you mean frame_bytes?",
            f'{path}:10: unknown key queues."jobs.*".overflo; did you mean overflow?',
            f"{path}:11: unknown key queue; did you mean queues?",
        ]

    def test_a_key_in_the_wrong_table_is_pointed_at_its_own(self, config_file):
        path = config_file("frame_bytes = 4096\n[limits]\nttl = 1\n[queues]\nttl = 1\n")
        assert problems({"config": path}) == [
            f"{path}:1: unknown key frame_bytes; did you mean limits.frame_bytes?",
            f'{path}:3: unknown key limits.ttl; did you mean queues."NAME".ttl?',
            f'{path}:5: unknown key queues.ttl; did you mean queues."NAME".ttl?',
        ]

    def test_a_value_where_a_table_should_be(self, config_file):
        path = config_file("limits = 3\n[[queues]]\nttl = 1\n[topics]\nnews = 1\n")
        assert problems({"config": path}) == [
            f"{path}:1: limits: expected a table, [limits]",
            f"{path}:2: queues: expected a table, [queues.NAME]",
            f"{path}:5: topics.news: expected a table, [topics.NAME]",
        ]

    def test_values_out_of_range_say_what_is_expected(self, config_file):
        path = config_file(
            'port = 70000\nhost = 1\nlog_level = "loud"\ninsecure = 1\n'
            'drain_seconds = "10 parsecs"\n'
            "limits.connections = 0\nlimits.disk_floor_percent = 101\nlimits.names = true\n"
        )
        texts = [problem.partition(": ")[2] for problem in problems({"config": path})]
        assert texts == [
            "port: expected a port from 0 to 65535, not 70000",
            "host: expected a text in quotes, not 1",
            "log_level: expected one of debug, info, warning, error, not 'loud'",
            "insecure: expected true or false, not 1",
            "drain_seconds: expected a time such as 30, 30s or 500ms, not '10 parsecs'",
            "limits.connections: expected at least 1, not 0",
            "limits.disk_floor_percent: expected a percentage from 0 to 100, not 101",
            "limits.names: expected a whole number, 0 or more, not True",
        ]

    def test_a_table_where_a_value_should_be_and_the_reverse(self, config_file):
        path = config_file("limits = 3\nqueues.x = 1\n[port]\na = 1\n")
        assert [problem.partition(":")[2][:2] for problem in problems({"config": path})] == [
            "1:", "2:", "3:",
        ]  # fmt: skip

    def test_broken_toml_and_missing_file(self, config_file, tmp_path):
        path = config_file("port = 1\nhost = \n")
        assert problems({"config": path})[0].startswith(f"{path}:2: not valid TOML")
        assert "cannot be read" in problems({"config": str(tmp_path / "no.toml")})[0]

    def test_environment_and_flags(self):
        found = problems({"prot": 1}, {"MSG_PROT": "1", "MSG_LIMITS_NAMES": "x"}, ["port"])
        assert found == [
            "MSG_LIMITS_NAMES: limits.names: expected a whole number, 0 or more, not 'x'",
            "environment: unknown variable MSG_PROT; did you mean MSG_PORT?",
            "--set port: expected KEY=VALUE",
            "--prot: unknown key prot; did you mean port?",
        ]

    def test_durability_below_its_own_minimum(self, config_file):
        path = config_file('[queues.x]\ndurability = "memory"\ndurability_min = "os"\n')
        assert problems({"config": path}) == [
            f"{path}:3: queues.'x': durability 'memory' is less than durability_min 'os'"
        ]

    @pytest.mark.parametrize(
        ("table", "name", "why"),
        [
            ("queues", "a b", "blanks"),
            ("queues", "a..b", "single dots"),
            ("queues", "", "empty"),
            ("queues", "job*", "whole tokens"),
            ("queues", "a.>.b", "whole tokens"),
            ("queues", "x" * 129, "128 bytes"),
            ("queues", "é" * 65, "128 bytes"),
            ("queues", "news@", "empty"),
            ("queues", "news@*", "blanks"),
            ("queues", "news*@g", "whole tokens"),
            ("queues", "a@b@c", "blanks"),
            ("topics", "a#b", "whole tokens"),
            ("topics", "news@g", "Groups have their settings in the table queues."),
        ],
    )
    def test_names_that_nothing_can_have(self, config_file, table, name, why):
        """However many settings they have."""
        path = config_file(f'[{table}."{name}"]\ndedup_window = 1\ndedup_ids = 1\n')
        (problem,) = problems({"config": path})
        assert problem.startswith(f"{path}:2: {table}.{name!r}: no {table[:-1]} can be called so.")
        assert why in problem

    def test_names_of_all_kinds_that_there_are(self):
        names = ["jobs", "*", ">", "jobs.*", "jobs.dead", "é", "a/b", "_inbox.>", "x" * 128]
        groups = ["news@g", "news.*@g", ">@g", "*.x@g.dead"]
        load(sets=[f"queues.{name}.dedup_ids=1" for name in (*names, *groups)])
        load(sets=[f"topics.{name}.dedup_ids=1" for name in names])


class TestUnits:
    @pytest.mark.parametrize(
        ("text", "number"),
        [("16MiB", 16 << 20), ("1.5 GB", 1_500_000_000), (4096, 4096), ("0", 0), ("2KiB", 2048)],
    )
    def test_sizes(self, text, number):
        assert parse_size(text) == number

    @pytest.mark.parametrize(
        ("text", "number"),
        [("500ms", 0.5), ("30s", 30), (0.25, 0.25), ("2m", 120), ("24h", 86400), ("7 d", 604800)],
    )
    def test_times(self, text, number):
        assert parse_seconds(text) == number

    @pytest.mark.parametrize(
        "text",
        ["", "-1s", "1 parsec", True, None, -1, float("nan"), float("inf"), [1], "1e3", "٣s"],
    )
    def test_what_is_no_time(self, text):
        with pytest.raises(ValueError, match="expected a time"):
            parse_seconds(text)

    @given(st.integers(0, 1 << 45))
    def test_what_is_shown_can_be_read_back(self, number):
        assert parse_size(show_value(("limits", "frame_bytes"), number)) == number


class TestPatterns:
    def test_most_specific_wins_key_by_key(self):
        settings = Settings(
            queues={
                "jobs.mail": {"ttl": 4.0},
                ">": {"ttl": 1.0, "max_deliveries": 1, "overflow": "block"},
                "jobs.*": {"ttl": 3.0, "max_deliveries": 3},
                "jobs.>": {"ttl": 2.0},
            }
        )
        assert settings.queue("jobs.mail") == QueueSettings(
            ttl=4.0, max_deliveries=3, overflow="block"
        )
        assert settings.queue("jobs.a.b").ttl == 2.0
        assert settings.queue("jobs").ttl == 1.0

    def test_groups_by_their_full_name(self):
        settings = Settings(queues={"news.*@web": {"ttl": 9.0}})
        assert settings.queue("news.*@web").ttl == 9.0
        assert settings.queue("news.x").ttl == 0.0

    def test_topics(self):
        settings = Settings(topics={"sensors.>": {"history_messages": 10}})
        assert settings.topic("sensors.a.b") == TopicSettings(history_messages=10)
        assert settings.topic("sensors") == TopicSettings()

    @given(st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3), st.booleans())
    def test_an_exact_table_beats_any_pattern(self, tokens, open_end):
        pattern = ".".join([*tokens, ">"] if open_end else tokens)
        name = ".".join("a" if token == "*" else token for token in tokens) + open_end * ".z"
        tables = {name: {"ttl": 2.0}, pattern: {"ttl": 2.0 if pattern == name else 1.0}}
        assert Settings(queues=tables).queue(name).ttl == 2.0


class TestReload:
    def test_tells_what_applies_from_what_waits(self):
        old = Settings(queues={"a": {"ttl": 1.0}})
        new = Settings(
            port=1,
            log_level="debug",
            limits=Limits(connections=5, disk_threads=2),
            queues={"a": {"ttl": 2.0}, "b": {"ttl": 3.0}},
        )
        result = reload(old, new)
        assert [str(change) for change in result.restart] == [
            "port: 8888 -> 1",
            "limits.disk_threads: 8 -> 2",
        ]
        assert [str(change) for change in result.applied] == [
            "log_level: info -> debug",
            "limits.connections: 20000 -> 5",
            "queues.a.ttl: 1s -> 2s",
            "queues.b.ttl: default -> 3s",
        ]
        assert (result.settings.port, result.settings.limits.disk_threads) == (8888, 8)
        assert result.settings.limits.connections == 5
        assert result.settings.queue("b").ttl == 3.0

    def test_a_table_taken_out_goes_back_to_the_default(self):
        result = reload(Settings(queues={"a": {"ttl": 1.0}}), Settings())
        assert [str(change) for change in result.applied] == ["queues.a.ttl: 1s -> default"]
        assert result.settings.queue("a").ttl == 0.0


def test_every_setting_can_be_written_as_it_is_shown(config_file):
    lines = []
    for cls, table in (
        (Settings, ""),
        (Limits, "[limits]"),
        (QueueSettings, '[queues."q.*"]'),
        (TopicSettings, "[topics.t]"),
    ):
        lines.append(table)
        for field in attrs.fields(cls):
            if cls is Settings and field.name in _NOT_KEYS:
                continue
            shown = show_value((field.name,), field.default)
            numeric = shown.isdecimal() or shown in ("true", "false") or shown[:1] == "["
            lines.append(f"{field.name} = {shown if numeric else repr(shown)}")
    settings = load({"config": config_file("\n".join(lines))})
    assert settings.limits == Limits()
    assert settings.queue("q.x") == QueueSettings()
    assert settings.topic("t") == TopicSettings()
    assert attrs.evolve(settings, queues={}, topics={}) == Settings()


def test_tables_of_choices_and_minima_name_real_fields():
    classes = (Settings, Limits, QueueSettings, TopicSettings)
    names = {field.name for cls in classes for field in attrs.fields(cls)}
    assert names >= {*CHOICES, *AT_LEAST}


def test_key_lines_over_strings_arrays_and_headers():
    text = (
        'a = """\n[not.a.header]\nb = 1\n"""\n'  # 1-4
        "[limits]\n"  # 5
        "x = [ # [y]\n 1,\n]\n"  # 6-8
        '[queues."a.b"]\n'  # 9
        "c.d = { e = 1 }\n"  # 10
    )
    lines = key_lines(text)
    assert lines["a",] == 1
    assert lines["limits",] == 5
    assert lines["limits", "x"] == 6
    assert lines["queues", "a.b"] == 9
    assert lines["queues", "a.b", "c", "d", "e"] == 10
    assert ("b",) not in lines


def test_keys_are_shown_and_split():
    assert show_key(("queues", "jobs.*", "ttl")) == 'queues."jobs.*".ttl'
    assert split_key('queues."jobs.*".ttl') == ("queues", "jobs.*", "ttl")
    assert split_key("queues.a.b.>.ttl") == ("queues", "a.b.>", "ttl")
    assert split_key("port") == ("port",)
