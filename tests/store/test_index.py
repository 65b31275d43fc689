"""The index against a dict: whatever is added, placed, copied and settled, in any order."""

from array import array
from itertools import accumulate

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from msg.store.index import CHUNK, SPARSE, TRIED, Index, Segment


class IndexMachine(RuleBasedStateMachine):
    """`live`: seq -> [ordinal, offset, length, tried]; ordinal 0 is not on disk yet."""

    def __init__(self):
        super().__init__()
        self.index = Index()
        self.live = {}
        self.next_seq = 1
        self.gathered = []
        self.ordinal = 0

    def segment(self):
        self.ordinal += 1
        self.index.segments[self.ordinal] = Segment(self.ordinal, "", self.ordinal)
        return self.ordinal

    @rule(
        gaps=st.lists(st.sampled_from([1, 1, 1, 1, 2, 50, CHUNK - 3]), min_size=1, max_size=9),
        repeat=st.sampled_from([1, 7, 300]),
    )
    def add(self, gaps, repeat):
        seqs = []
        for gap in gaps:
            self.next_seq += gap - 1
            for _ in range(repeat):
                seqs.append(self.next_seq)
                self.next_seq += 1
        lengths = [seq % 97 + 1 for seq in seqs]
        self.index.add(seqs, array("I", lengths), sum(lengths))
        self.gathered.append((seqs, lengths))
        for seq, length in zip(seqs, lengths, strict=True):
            self.live[seq] = [0, 0, length, False]

    @precondition(lambda self: self.gathered)
    @rule(offset=st.integers(0, 1000))
    def place(self, offset):
        ordinal = self.segment()
        seqs = [seq for part, _ in self.gathered for seq in part]
        lengths = [length for _, part in self.gathered for length in part]
        self.gathered = []
        *offsets, _ = accumulate(lengths, initial=offset)
        self.index.place(seqs, array("I", offsets), array("I", lengths), ordinal)
        for seq, length in zip(seqs, lengths, strict=True):
            if seq in self.live:
                self.live[seq][:2] = [ordinal, offset]
            offset += length

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def settle_run(self, data):
        seqs = sorted(self.live)
        at = data.draw(st.integers(0, len(seqs) - 1))
        n = data.draw(st.sampled_from([1, 5, 100, 1000, 5000]))
        self.settle(seqs[at : at + n])

    @precondition(lambda self: len(self.live) > SPARSE)
    @rule(left=st.integers(0, SPARSE + 2))
    def settle_nearly_all(self, left):
        seqs = sorted(self.live)
        step = max(1, len(seqs) // (left + 1))
        self.settle([seq for i, seq in enumerate(seqs) if i % step or not left])

    @rule(seqs=st.lists(st.integers(1, 3 * CHUNK), max_size=20, unique=True))
    def settle_any(self, seqs):
        self.settle(sorted(seqs))

    def settle(self, seqs):
        expected = [seq for seq in seqs if self.live.pop(seq, [0, 0, 0, False])[3]]
        assert self.index.settle(seqs) == expected

    @precondition(lambda self: self.live)
    @rule(data=st.data(), offset=st.integers(0, 1000))
    def copy_ahead(self, data, offset):
        on_disk = [seq for seq, place in self.live.items() if place[0]]
        if on_disk:
            seq = data.draw(st.sampled_from(sorted(on_disk)))
            ordinal = self.segment()
            self.index.move(seq, ordinal, offset, self.live[seq][2])
            self.live[seq][:2] = [ordinal, offset]

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def attempt(self, data):
        seq = data.draw(st.sampled_from(sorted(self.live)))
        assert self.index.mark(seq, TRIED)
        self.live[seq][3] = True

    @rule(after=st.integers(0, 4 * CHUNK))
    def read_on(self, after):
        runs = list(self.index.runs(after))
        expected = [seq for seq in sorted(self.live) if seq > after]
        assert [seq for run in runs for seq in run] == expected
        for run in runs:
            got = [
                (seq, places.segment.ordinal, offset, length)
                for places in self.index.places(run)
                for seq, offset, length in zip(
                    places.seqs, places.offsets, places.lengths, strict=True
                )
            ]
            want = [(seq, *self.live[seq][:3]) for seq in run]
            cut = next((i for i, place in enumerate(want) if not place[1]), len(want))
            assert got == want[:cut], "up to the first that no file holds"

    @invariant()
    def counts_agree(self):
        assert self.index.live_count == len(self.live)
        assert self.index.live_bytes == sum(place[2] for place in self.live.values())
        for ordinal, segment in self.index.segments.items():
            there = [place for place in self.live.values() if place[0] == ordinal]
            assert segment.live == len(there)
            assert segment.live_bytes == sum(place[2] for place in there)

    @invariant()
    def each_is_found(self):
        for seq in (*list(self.live)[:20], 0, 1, self.next_seq, self.next_seq + CHUNK):
            where = self.index.where(seq)
            place = self.live.get(seq)
            assert bool(self.index.flags(seq)) == (place is not None)
            if place is None or not place[0]:
                assert where is None
            else:
                assert where is not None
                assert [where[0].ordinal, where[1], where[2]] == place[:3]


IndexMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestIndex = IndexMachine.TestCase


def put(index: Index, seqs: list[int], ordinal: int) -> None:
    index.segments.setdefault(ordinal, Segment(ordinal, "", ordinal))
    n = len(seqs)
    index.put(seqs, array("I", range(n)), array("I", [7] * n), ordinal)


def test_what_was_settled_stays_so_when_an_older_copy_is_found():
    index = Index(keep_gone=True)
    put(index, [5, 6, 7], 1)
    index.settle([6])
    put(index, [3, 5, 6, 9], 2)
    index.trim()
    assert [list(run) for run in index.runs(0)] == [[3], [5], [7], [9]]
    assert index.segments[1].live == 1
    assert index.segments[2].live == 3


def test_stuck_messages_do_not_pin_chunks():
    index = Index()
    put(index, list(range(1, 50 * CHUNK)), 1)
    stuck = set(range(1, 50 * CHUNK, CHUNK))
    index.settle([seq for seq in range(1, 50 * CHUNK) if seq not in stuck])
    assert len(index._chunks) == 1, "only the newest"
    assert [seq for run in index.runs(0) for seq in run] == sorted(stuck)
    index.settle(sorted(stuck))
    assert (len(index._chunks), len(index._sparse), index.live_count) == (0, 0, 0)
