"""Every refusal of a frame that was understood: its code, its sentence, the id it repeats."""

import pytest

from msg.core import commands
from msg.protocol.checks import EXPECTED, Checks
from msg.protocol.codec import _fields_of, commands_by_action, decode_frame
from tests.protocol.wire import HELLO, after_hello, kinds, plain

ID = "a string of 1-128 printable bytes"
SECONDS = "a number of seconds, 0 or more"
FROM = '"new", "last", "all", a sequence number or a time such as "2026-11-23T08:05:15Z"'
NAME_RULE = 'A topic may not hold blanks, control characters or any of * > @ # + " \\.'
PATTERN_RULE = (
    "A topic may have * for one token or > for the rest as whole tokens, and no"
    ' blanks, control characters or any of @ # + " \\ elsewhere.'
)
WAYS = 'Name what is meant in one of "tag", "tags", "message_id" and "message_ids".'
BOTH = 'Name the group behind the @ or in "group", not both.'
LATE = '"ttl" must be more than "delay", or it never arrives.'
GROUP_OR_MODE = 'A pattern stands for many names here; add "mode":"pubsub" or name a "group".'

# fields of a publish to "t" of 1, and what must be said about them
PUBLISH = [
    ('"id":7', f'"id" must be {ID}.'),
    ('"id":""', f'"id" must be {ID}.'),
    ('"id":"a\\u0000"', f'"id" must be {ID}.'),
    ('"message_id":"' + "x" * 129 + '"', f'"message_id" must be {ID}.'),
    ('"message_id":"' + "é" * 65 + '"', f'"message_id" must be {ID}.'),
    ('"message_id":17', f'"message_id" must be {ID}.'),
    ('"message_id":"a\\nb"', f'"message_id" must be {ID}.'),
    ('"correlation_id":[]', f'"correlation_id" must be {ID}.'),
    ('"correlation_id":"\\u202e"', f'"correlation_id" must be {ID}.'),
    ('"topic":1', '"topic" must be the name of a topic or queue, a string.'),
    ('"mode":"fanout"', '"mode" must be "pubsub" or "queue".'),
    ('"mode":true', '"mode" must be "pubsub" or "queue".'),
    ('"durability":"disk"', '"durability" must be "memory", "os" or "stored".'),
    ('"delay":-1', f'"delay" must be {SECONDS}.'),
    ('"delay":"1"', f'"delay" must be {SECONDS}.'),
    ('"delay":true', f'"delay" must be {SECONDS}.'),
    ('"delay":1e300', f'"delay" must be {SECONDS}, at most 315,360,000.'),
    ('"ttl":-0.001', f'"ttl" must be {SECONDS}.'),
    ('"ttl":[1]', f'"ttl" must be {SECONDS}.'),
    ('"ttl":1,"delay":1', LATE),
    ('"ttl":1,"delay":2,"mode":"queue"', LATE),
    ('"ttl":0,"mode":"queue"', LATE),
    ('"priority":10', '"priority" must be an integer from 0 to 9.'),
    ('"priority":-1', '"priority" must be an integer from 0 to 9.'),
    ('"priority":4.5', '"priority" must be an integer from 0 to 9.'),
    ('"priority":true', '"priority" must be an integer from 0 to 9.'),
    ('"priority":"4"', '"priority" must be an integer from 0 to 9.'),
    ('"headers":{"a":1}', '"headers" must be an object of strings.'),
    ('"headers":["a"]', '"headers" must be an object of strings.'),
    ('"headers":{"":"x"}', f'A name in "headers" must be {ID}.'),
    (
        '"headers":{"a":"' + "x" * 16_384 + '"}',
        '"headers" may have 16,384 bytes in all; the rest belongs in the message.',
    ),
    (
        '"headers":{' + ",".join(f'"{n}":""' for n in range(65)) + "}",
        '"headers" may have 64 entries.',
    ),
    ('"reply_to":1', '"reply_to" must be the name of a topic, a string.'),
    ('"retain":1', '"retain" must be true or false.'),
    (
        '"retain":true,"mode":"queue"',
        '"retain" is for topics; a queue keeps what it is sent.',
    ),
    ('"encoding":"gzip"', '"encoding" must be "base64", and then the message a string.'),
    ('"encoding":"base64"', '"encoding" must be "base64", and then the message a string.'),
]

# code, sentence, and the frames (without their `{"action":"` and `}`) that it answers
OTHERS = [
    (
        "bad_name",
        "A topic is made of tokens joined by single dots, none of them empty.",
        [
            'publish","topic":"a..b","message":1',
            'stats","topic":"a..b"',
        ],
    ),
    ("bad_name", "A topic may not be empty.", ['publish","topic":"","message":1']),
    (
        "bad_name",
        NAME_RULE,
        [
            'publish","topic":"a b","message":1',
            'publish","topic":"a#","message":1',
        ],
    ),
    (
        "bad_name",
        "A topic may have 128 bytes; this one has 129.",
        ['publish","topic":"' + "x" * 129 + '","message":1'],
    ),
    (
        "bad_name",
        "A publish goes to one name, not to a pattern or group.",
        [
            'publish","topic":"a.*","message":1',
            'publish","topic":"a@g","message":1',
        ],
    ),
    (
        "bad_name",
        "Dead letters are the broker's; publish to the queue itself.",
        ['publish","topic":"a.dead","message":1'],
    ),
    (
        "bad_name",
        NAME_RULE.replace("topic", "reply_to"),
        ['publish","topic":"t","message":1,"reply_to":"a>"'],
    ),
    (
        "bad_field",
        '"publish" needs "topic": the name of a topic or queue, a string.',
        [
            'publish","message":1',
            'publish","topic":null,"message":1',
        ],
    ),
    ("bad_field", '"publish" needs "message": the body, any JSON.', ['publish","topic":"t"']),
    (
        "bad_field",
        '"subscribe" needs "topic": the name of a topic or queue, a string.',
        ['subscribe"'],
    ),
    (
        "bad_name",
        PATTERN_RULE,
        [
            'subscribe","topic":"a.*b"',
            'subscribe","topic":">.a"',
        ],
    ),
    (
        "bad_name",
        'A pattern stands for many names here; add "mode":"pubsub" or name a "group".',
        ['subscribe","topic":"a.*","mode":"queue"'],
    ),
    ("bad_name", "A group may not be empty.", ['subscribe","topic":"a.*@"']),
    ("bad_name", NAME_RULE.replace("topic", "group"), ['subscribe","topic":"a.*@g@h"']),
    (
        "bad_field",
        BOTH,
        [
            'subscribe","topic":"a@g","group":"h"',
            'peek","topic":"a@g","group":"g"',
        ],
    ),
    (
        "bad_name",
        'A group\'s name may not end in ".dead".',
        ['subscribe","topic":"a","group":"h.dead"'],
    ),
    (
        "bad_field",
        '"prefetch" must be an integer, 1 or more.',
        ['subscribe","topic":"a","prefetch":0'],
    ),
    (
        "bad_field",
        '"prefetch" must be an integer, 1 or more, at most 10,000.',
        ['subscribe","topic":"a","prefetch":10001'],
    ),
    (
        "bad_field",
        '"ack_timeout" must be a number of seconds, 0 or more (0: until disconnect).',
        ['subscribe","topic":"a","ack_timeout":-1'],
    ),
    ("bad_field", '"ack" must be "manual" or "auto".', ['subscribe","topic":"a","ack":"later"']),
    (
        "bad_field",
        'A topic is not acknowledged; name a "group" for "ack":"manual".',
        ['subscribe","topic":"a","ack":"manual"'],
    ),
    (
        "bad_field",
        (
            '"from" must be "new", "last", "all", a sequence number or a time such as'
            ' "2026-11-23T08:05:15Z".'
        ),
        [
            'subscribe","topic":"a","from":"old"',
            'subscribe","topic":"a","from":-1',
            'subscribe","topic":"a","from":1.5',
            'subscribe","topic":"a","from":"2026-02-30T00:00:00Z"',
            'subscribe","topic":"a","from":"2026-02-28"',
        ],
    ),
    (
        "bad_field",
        '"from" is for topics; a queue has one order.',
        ['subscribe","topic":"a","from":"all","mode":"queue"'],
    ),
    (
        "bad_field",
        '"sub" must be a string of 1-128 printable bytes.',
        ['subscribe","topic":"a","sub":""'],
    ),
    (
        "bad_field",
        '"name" must be a string of 1-128 printable bytes.',
        ['subscribe","topic":"a","name":"\\u0007"'],
    ),
    (
        "bad_field",
        '"unsubscribe" needs either "sub" or "topic".',
        [
            'unsubscribe"',
            'unsubscribe","sub":"s","topic":"t"',
        ],
    ),
    (
        "bad_field",
        '"delete" removes a group; name it in "group".',
        ['unsubscribe","topic":"t","delete":true'],
    ),
    (
        "bad_field",
        '"n" must be an integer, 1 or more.',
        [
            'get","topic":"t","n":0',
            'get","topic":"t","n":true',
            'peek","topic":"a","n":0',
        ],
    ),
    ("bad_field", '"wait" must be a number of seconds, 0 or more.', ['get","topic":"t","wait":-1']),
    (
        "bad_field",
        '"get" takes from a queue or a group; name a "group".',
        ['get","topic":"t","mode":"pubsub"'],
    ),
    (
        "bad_field",
        WAYS,
        [
            'ack"',
            'ack","tag":1,"message_id":"x"',
            'touch","tags":[1],"message_ids":["x"]',
        ],
    ),
    (
        "bad_field",
        '"tag" must be the integer that came with the message.',
        [
            'ack","tag":0',
            'ack","tag":"1"',
            'ack","tag":1.5',
        ],
    ),
    (
        "bad_field",
        '"tags" must be an array of at most 10,000 integers.',
        [
            'ack","tags":[1,0]',
            'ack","tags":[1,true]',
            'ack","tags":1',
            'ack","tags":[' + "1," * 10000 + "1]",
        ],
    ),
    (
        "bad_field",
        '"message_id" must be a string of 1-128 printable bytes.',
        ['ack","message_id":""'],
    ),
    (
        "bad_field",
        '"message_ids" must be an array of at most 10,000 message ids.',
        [
            'ack","message_ids":["x",""]',
            'ack","message_ids":["x",1]',
        ],
    ),
    ("bad_field", '"delay" must be a number of seconds, 0 or more.', ['nack","tag":1,"delay":-1']),
    ("bad_field", '"requeue" must be true or false.', ['nack","tag":1,"requeue":0']),
    (
        "bad_field",
        '"reason" must be a string of at most 4,096 bytes.',
        ['nack","tag":1,"reason":"' + "x" * 4097 + '"'],
    ),
    (
        "bad_name",
        'A pattern stands for many names here; name a "group".',
        [
            'declare","topic":"a.*"',
            'declare","topic":"a.*","mode":"pubsub"',
        ],
    ),
    ("bad_field", '"settings" must be an object.', ['declare","topic":"a","settings":[]']),
    (
        "bad_field",
        '"from" is for a group; name it in "group".',
        ['declare","topic":"a","from":"all"'],
    ),
    ("bad_field", '"user" and "password" belong together.', ['hello","user":"u"']),
    (
        "bad_field",
        '"token" must be a string of at most 1,024 bytes.',
        ['hello","token":"' + "x" * 1025 + '"'],
    ),
    (
        "bad_field",
        '"heartbeat" must be a number of seconds, 0 (none) or at least 0.1.',
        ['hello","heartbeat":0.01'],
    ),
]

GOOD = [
    'publish","topic":"a/b.ü","message":null,"delay":0,"ttl":0,"priority":0,"retain":true',
    'publish","topic":"_inbox.17","message":1,"reply_to":"$r","headers":{"a b":"\\n"}',
    'publish","topic":"q","message":"AA==","mode":"queue","encoding":"base64","ttl":2,"delay":1.5',
    'publish","topic":"q","message":1,"mode":"queue","retain":false,"priority":9.0',
    'publish","topic":"q","message":1,"durability":null,"mode":null,"x":{"y":[]}',
    'subscribe","topic":">","from":17,"name":"me"',
    'subscribe","topic":"a.*.>","from":4.0',
    'subscribe","topic":"a.dead","mode":"queue","prefetch":10000,"ack_timeout":0,"ack":"auto"',
    'subscribe","topic":"a.*","group":"g","ack":"manual","from":"2026-11-23T08:05:15.123456789+01:00"',
    'subscribe","topic":"a.*@g.dead","mode":"queue"',
    'unsubscribe","sub":"s","delete":true',
    'unsubscribe","topic":"a.*@g","delete":true',
    'get","topic":"a.>","group":"g","n":10,"wait":1',
    'get","topic":"q","n":3.0',
    'ack","tag":4.0',
    'ack","tags":[1,2.0],"id":"x"',
    'ack","tags":[]',
    'nack","message_ids":["x","é"],"delay":1,"reason":"","requeue":false,"count_attempt":false',
    'touch","message_id":"x y"',
    'declare","topic":"a.*","group":"g","from":"all","settings":{"max_deliveries":0}',
    'declare","topic":"q","passive":true',
    'hello","token":"t","name":"me","heartbeat":0',
    'hello","user":"u","password":"","heartbeat":15',
    'pong"',
    'stats","topic":"a.*","n":10,"id":"1"',
    'purge","topic":"a.*@g"',
    'help","name":"publish"',
]  # fmt: skip


def answer_to(frame):
    items, decoder = after_hello(frame.encode() + b"\n", check=Checks().check)
    assert not decoder.closed
    assert len(items) == 1
    return items[0]


@pytest.mark.parametrize(("fields", "text"), PUBLISH)
def test_fields_of_a_publish(fields, text):
    frame = f'{{"action":"publish","topic":"t","message":1,{fields}}}'
    kind, code, said, closes, *_ = answer_to(frame)
    assert (kind, code, said, closes) == ("error", "bad_field", text, False)


@pytest.mark.parametrize(
    ("code", "text", "rest"),
    [(code, text, rest) for code, text, rests in OTHERS for rest in rests],
)
def test_the_other_frames(code, text, rest):
    kind, got_code, said, closes, *_ = answer_to('{"action":"' + rest + "}")
    assert (kind, got_code, said, closes) == ("error", code, text, False)


@pytest.mark.parametrize("rest", GOOD)
def test_what_is_allowed(rest):
    frame = '{"action":"' + rest + "}"
    assert answer_to(frame)[0] == frame.split('"')[3].capitalize()


def test_the_limit_that_was_exceeded_is_a_field_of_its_own():
    assert answer_to('{"action":"get","topic":"q","n":20000}')[4] == 10_000
    assert answer_to('{"action":"get","topic":"q","n":0}')[4] is None


class TestActions:
    def test_unknown(self):
        item = answer_to('{"action":"fly","id":"7"}')
        assert item[1] == "unknown_action"
        assert item[2].startswith('There is no action "fly"; there are publish, subscribe, ')
        assert item[5] == "7"

    @pytest.mark.parametrize(
        "frame",
        [
            "{}",
            '{"id":"x"}',
            '{"action":1}',
            '{"action":null}',
            '{"action":["ping"]}',
            '{"action":"Ping"}',
            '{"action":"Question"}',
            '{"action":""}',
            '{"action":"fly","type":"ping"}',
            '{"type":"message","topic":"t"}',
        ],
    )
    def test_missing_or_of_no_use(self, frame):
        assert answer_to(frame)[1] == "unknown_action"

    def test_a_long_or_unprintable_one_is_not_repeated_whole(self):
        text = answer_to('{"action":"\\u001b[2J' + "x" * 5000 + '"}')[2]
        assert len(text) < 500
        assert text.isprintable()

    @pytest.mark.parametrize("action", list(commands_by_action()))
    def test_the_field_type_names_an_action_too(self, action):
        assert decode_kind(f'{{"type":"{action}","topic":"t","message":1,"tag":1}}') == action
        assert (
            decode_kind(f'{{"type":"fly","action":"{action}","topic":"t","message":1}}') == action
        )

    def test_there_are_all_of_the_protocol(self):
        assert " ".join(commands_by_action()) == (
            "publish subscribe unsubscribe get ack nack touch declare hello ping pong stats"
            " tree peek held why trace tap purge pause resume delete dead retry limits help"
        )


def decode_kind(frame):
    return type(decode_frame(frame.encode())).__struct_config__.tag


class TestIds:
    def test_the_frames_ids_are_repeated(self):
        item = answer_to('{"action":"publish","id":"7","message_id":"m","topic":1}')
        assert item[5:] == ("7", "m")
        item = answer_to('{"action":"publish","id":"7","message_id":"m","topic":"a b","message":1}')
        assert item[5:] == ("7", "m")

    @pytest.mark.parametrize("wrong", ["7", '""', '"a\\nb"', "null", '"' + "x" * 129 + '"', "[]"])
    def test_but_only_good_ones(self, wrong):
        for topic in ('"a b"', "1"):
            ids = f'"id":{wrong},"message_id":{wrong}'
            item = answer_to(f'{{"action":"publish",{ids},"topic":{topic},"message":1}}')
            assert item[0] == "error"
            assert item[5:] == (None, None)

    def test_a_frame_that_is_no_json_has_none(self):
        assert after_hello(b'{"action":"ping","id":"7",}\n')[0][0][5:] == (None, None)


def test_every_field_says_what_it_must_be():
    fields = {name for class_ in commands_by_action().values() for name in _fields_of(class_)}
    assert fields == set(EXPECTED)


def test_refusals_by_the_checks_count_as_errors_in_a_row():
    wrong = b'{"action":"publish","topic":"a b","message":1}\n{"action":"fly"}\n'
    items, decoder = after_hello(wrong * 50 + b'{"action":"ping"}\n', check=Checks().check)
    assert kinds(items) == [*["bad_name", "unknown_action"] * 49, "bad_name", "unknown_action!"]
    assert decoder.closed


def test_a_good_frame_begins_their_count_anew_too():
    wrong = b'{"action":"publish","topic":"a b","message":1}\n' * 99
    items, decoder = after_hello((wrong + HELLO) * 3, check=Checks().check)
    assert len(items) == 300
    assert not decoder.closed


def test_a_check_that_refuses_keeps_the_order():
    stream = b"".join(
        b'{"action":"publish","topic":"%b","message":%d}\n' % (b"t" if n % 3 else b"a b", n)
        for n in range(9)
    )
    items, _ = after_hello(stream, check=Checks().check)
    assert [i[1]["message"] if i[0] == "Publish" else i[1] for i in items] == [
        "bad_name", b"1", b"2", "bad_name", b"4", b"5", "bad_name", b"7", b"8"
    ]  # fmt: skip


def test_null_is_absent_but_for_a_body():
    item = plain(decode_frame(b'{"action":"publish","topic":"t","message":null,"delay":null}'))
    assert item[1]["message"] == b"null"
    item = decode_frame(b'{"action":"get","topic":"t","n":null,"mode":null,"wait":null}')
    assert isinstance(item, commands.Get)
    assert (item.n, item.mode, item.wait) == (1, "queue", 0.0)
