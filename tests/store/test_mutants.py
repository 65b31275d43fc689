"""Bad stores, each of which the store's own tests must catch.

A mutant is a small patch; beside each stands the test that catches it (run here on the
patched store, and expected to fail; on the true one it runs as itself).
"""

from collections.abc import Callable
from functools import partial

import pytest

from msg.store import commit as commits
from msg.store import records
from msg.store.index import Index
from msg.store.log import Commit, Log
from msg.store.reader import Reader
from msg.store.simdisk import SimDisk, SimFile

from . import test_damage, test_disk_full, test_log, test_power_cut, test_recovery, test_sync_fails

Patch = Callable[[pytest.MonkeyPatch], None]


def acks_before_syncing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimFile, "datasync", lambda self: None)


def skips_the_directory_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimDisk, "sync_dir", lambda self, path: None)


def skips_the_parent_directory_sync(patch: pytest.MonkeyPatch) -> None:
    sync_dir = SimDisk.sync_dir

    def skipping(self: SimDisk, path: str) -> None:
        if path != "queues":
            sync_dir(self, path)

    patch.setattr(SimDisk, "sync_dir", skipping)


def ignores_the_crc(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(records, "crc32", lambda data, seed=0: 0)


def shares_one_seed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(records, "seed_of", lambda name, incarnation: 0)


def retries_a_failed_sync(patch: pytest.MonkeyPatch) -> None:
    datasync = SimFile.datasync

    def retrying(self: SimFile) -> None:
        try:
            datasync(self)
        except OSError:
            datasync(self)

    patch.setattr(SimFile, "datasync", retrying)


def forgets_acks(patch: pytest.MonkeyPatch) -> None:
    settle_lines = records.settle_lines
    patch.setattr(
        records,
        "settle_lines",
        lambda seed, op, seqs, why="": [] if op == "ack" else settle_lines(seed, op, seqs, why),
    )


def forgets_what_was_settled_when_a_copy_is_found(patch: pytest.MonkeyPatch) -> None:
    init = Index.__init__
    patch.setattr(Index, "__init__", lambda self, keep_gone=False: init(self))


def deletes_segments_in_any_order(patch: pytest.MonkeyPatch) -> None:
    def unlink_all(disk, commit):
        for path in reversed(commit.unlinks):
            disk.unlink(path)

    patch.setattr(commits, "_unlink_all", unlink_all)


def leaves_half_a_commit_on_a_full_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commits, "_undo", lambda disk, commit, file: None)


def undoes_without_a_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        commits, "_undo", lambda disk, commit, file: file and file.truncate(commit.offset)
    )


def serves_what_the_page_cache_shows(patch: pytest.MonkeyPatch) -> None:
    def not_rewritten(self, log, tail, data):
        self.cut(self.path(self.numbers[-1]), tail.size)
        return tail

    patch.setattr(Reader, "rewritten", not_rewritten)


def trusts_the_page_cache_after_a_failed_sync(patch: pytest.MonkeyPatch) -> None:
    unlink = SimDisk.unlink
    patch.setattr(
        SimDisk, "unlink", lambda self, path: path == commits.TRUSTED or unlink(self, path)
    )


def serves_what_was_only_written(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reader, "keep_tail", lambda self, tail: None)


def cuts_at_the_first_damage(patch: pytest.MonkeyPatch) -> None:
    is_sound = records.line_is_sound
    broken: dict[int, bool] = {}

    def once_bad_always_bad(seed: int, line: bytes) -> bool:
        sound = is_sound(seed, line) and not broken.get(seed)
        broken[seed] = not sound
        return sound

    patch.setattr(records, "line_is_sound", once_bad_always_bad)


def never_seals_what_was_only_written(patch: pytest.MonkeyPatch) -> None:
    write = commits._write

    def unsealed(disk, commit):
        commit.seal = False
        return write(disk, commit)

    patch.setattr(commits, "_write", unsealed)


def drops_a_segment_with_a_live_message(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Log, "_droppable", lambda self: self.segments[:-3])


def forgets_the_window_with_a_segment(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Log, "_is_past_window", lambda self, segment: True)


def writes_ids_anew_without_a_sync(patch: pytest.MonkeyPatch) -> None:
    begin = Log.begin

    def lazy(self: Log, sync: bool = True) -> Commit | None:
        ids, self._noted.ids = self._noted.ids, []
        commit = begin(self, sync)
        if commit is not None:
            commit.noted.ids = ids
        return commit

    patch.setattr(Log, "begin", lazy)


def loses_attempts_of_copies(patch: pytest.MonkeyPatch) -> None:
    lay_out = Log._lay_out

    def without_tries(self, commit, copies):
        lay_out(self, commit, copies)
        commit.copied = b""
        commit.noted.tried.clear()

    patch.setattr(Log, "_lay_out", without_tries)


def power_cuts() -> None:
    for seed in (0, 4, 5):
        test_power_cut.test_a_power_cut_at_any_operation_loses_and_invents_nothing(seed)


CATCHES: list[tuple[Patch, Callable[[], object]]] = [
    (acks_before_syncing, power_cuts),
    (skips_the_directory_sync, power_cuts),
    (skips_the_parent_directory_sync, power_cuts),
    (
        ignores_the_crc,
        partial(test_damage.test_a_flipped_bit_loses_what_it_hits_and_is_named, True),
    ),
    (shares_one_seed, test_damage.test_a_record_of_another_queue_or_of_a_former_one_does_not_pass),
    (
        retries_a_failed_sync,
        test_sync_fails.test_whichever_sync_fails_nothing_that_was_acked_is_lost,
    ),
    (forgets_acks, power_cuts),
    (
        forgets_what_was_settled_when_a_copy_is_found,
        partial(test_recovery.test_a_rewrite_that_lost_its_head_brings_nothing_back, []),
    ),
    (deletes_segments_in_any_order, test_recovery.test_segments_go_oldest_first_whatever_survives),
    (leaves_half_a_commit_on_a_full_disk, test_disk_full.test_full_at_any_operation_for_a_while),
    (
        undoes_without_a_sync,
        test_disk_full.test_a_refusal_is_durable_before_it_is_answered,
    ),
    (
        serves_what_the_page_cache_shows,
        test_sync_fails.test_whichever_sync_fails_nothing_that_was_acked_is_lost,
    ),
    (
        trusts_the_page_cache_after_a_failed_sync,
        test_sync_fails.test_whichever_sync_fails_nothing_that_was_acked_is_lost,
    ),
    (
        serves_what_was_only_written,
        test_recovery.test_what_a_killed_process_had_only_written_is_synced_before_it_is_served,
    ),
    (
        cuts_at_the_first_damage,
        partial(test_damage.test_a_flipped_bit_loses_what_it_hits_and_is_named, False),
    ),
    (never_seals_what_was_only_written, test_recovery.test_a_sealed_segment_is_whole),
    (
        drops_a_segment_with_a_live_message,
        test_log.test_one_stuck_message_does_not_pin_what_flows_past_it,
    ),
    (forgets_the_window_with_a_segment, power_cuts),
    (
        writes_ids_anew_without_a_sync,
        partial(test_power_cut.run, 4, steps=60, variants=3),
    ),
    (
        loses_attempts_of_copies,
        test_log.test_one_stuck_message_does_not_pin_what_flows_past_it,
    ),
]


FIRST = 6  # of them by default


@pytest.mark.parametrize(
    ("patch", "catches"),
    [
        pytest.param(*pair, id=pair[0].__name__, marks=pytest.mark.full if i >= FIRST else ())
        for i, pair in enumerate(CATCHES)
    ],
)
def test_is_caught(patch, catches, monkeypatch):
    patch(monkeypatch)
    try:
        catches()
    except Exception:  # however it shows, it shows
        return
    pytest.fail(f"nobody noticed a store that {patch.__name__.replace('_', ' ')}")
