"""The contract of a disk, on the real one and on the simulated one."""

import errno
import os
import random
import re
import stat

import pytest

from msg.errors import StoreLocked, StoreUnreadable
from msg.store.disk import IDLE_FILES_MAX, Disk, RealDisk
from msg.store.simdisk import SECTOR, SURVIVALS, PowerCut, SimDisk


@pytest.fixture(params=["real", "simulated"])
def disk(request, tmp_path):
    if request.param == "real":
        real = RealDisk(tmp_path / "data")
        yield real
        real.close()
    else:
        yield SimDisk(random.Random(1))


def failing(number: int):
    """The block raises OSError with this number."""
    return pytest.raises(OSError, match=re.escape(os.strerror(number)))


def write(disk: Disk, path: str, *parts: bytes) -> None:
    file = disk.create(path)
    for part in parts:
        file.append(part)
    file.datasync()
    file.close()


def test_what_is_appended_is_read(disk):
    write(disk, "file", b"one", b"", b"two")
    file = disk.open("file")
    file.append(b"three")
    assert file.size() == 11 == disk.size("file")
    file.close()
    assert disk.read("file") == b"onetwothree"
    assert disk.read("file", 3, 3) == b"two"
    assert disk.read("file", 6) == b"three"
    assert disk.read("file", 9, 100) == b"ee"
    assert disk.read("file", 100, 5) == b""


def test_a_new_file_never_replaces_one(disk):
    write(disk, "file", b"first")
    with pytest.raises(FileExistsError):
        disk.create("file")
    assert disk.read("file") == b"first"


def test_opening_makes_no_file(disk):
    with pytest.raises(FileNotFoundError):
        disk.open("file")
    with pytest.raises(FileNotFoundError):
        disk.read("file")
    assert not disk.exists("file")
    assert not disk.exists("no/such/file")


def test_a_truncated_file_goes_on_where_it_was_cut(disk):
    write(disk, "file", b"0123456789")
    file = disk.open("file")
    file.truncate(4)
    file.append(b"ab")
    file.datasync()
    file.close()
    assert disk.read("file") == b"0123ab"


def test_directories_are_listed_in_order_and_without_dots(disk):
    disk.mkdir("queues")
    disk.mkdir("queues")
    for name in ("b", "a", "c"):
        disk.mkdir(f"queues/{name}")
    write(disk, "queues/a/00000000000000000001.jsonl", b"x")
    disk.sync_dir("queues/a")
    disk.sync_dir("queues")
    disk.sync_dir("")
    assert disk.list("queues") == ["a", "b", "c"]
    assert disk.list("queues/a") == ["00000000000000000001.jsonl"]
    assert disk.exists("queues/a")
    with pytest.raises(FileNotFoundError):
        disk.list("topics")


def test_only_an_empty_directory_goes(disk):
    disk.mkdir("queues")
    write(disk, "queues/file", b"x")
    with failing(errno.ENOTEMPTY):
        disk.rmdir("queues")
    disk.unlink("queues/file")
    with pytest.raises(FileNotFoundError):
        disk.unlink("queues/file")
    disk.rmdir("queues")
    assert disk.list("") == []


def test_a_file_in_the_place_of_a_directory_is_no_directory(disk):
    write(disk, "queues", b"x")
    with pytest.raises(NotADirectoryError):
        disk.mkdir("queues")


@pytest.mark.parametrize("path", ["..", "../outside", "a/../b", "/etc/passwd", "a//b", "."])
def test_no_path_leads_outside(disk, path):
    disk.mkdir("a")
    with pytest.raises((ValueError, FileNotFoundError)):
        disk.read(path)
    with pytest.raises((ValueError, FileNotFoundError)):
        disk.create(path)


def test_an_open_file_outlives_its_name(disk):
    write(disk, "file", b"one")
    file = disk.open("file")
    disk.unlink("file")
    file.append(b"two")
    assert file.size() == 6
    file.close()
    assert not disk.exists("file")


def test_a_name_that_was_given_anew_is_the_new_file(disk):
    old = disk.create("file")
    old.append(b"old")
    disk.unlink("file")
    new = disk.create("file")
    new.append(b"new")
    new.close()
    old.close()
    again = disk.open("file")
    assert again.size() == 3
    again.append(b"er")
    again.close()
    assert disk.read("file") == b"newer"


def test_many_files_may_be_written_to_in_turn(disk):
    disk.mkdir("queues")
    for turn in range(3):
        for n in range(300):
            path = f"queues/{n}"
            file = disk.open(path) if turn else disk.create(path)
            file.append(b"%d" % turn)
            assert file.size() == turn + 1
            file.close()
    assert {disk.read(f"queues/{n}") for n in range(300)} == {b"012"}


def test_free_bytes_are_some_of_all(disk):
    assert 0 < disk.free_bytes() <= disk.total_bytes()


def test_the_second_holder_is_refused_and_told_of_the_first(disk, tmp_path):
    disk.lock("pid 17")
    other = RealDisk(tmp_path / "data") if isinstance(disk, RealDisk) else disk
    with pytest.raises(StoreLocked, match="pid 17"):
        other.lock("pid 18")
    assert disk.holder() == "pid 17"
    disk.unlock()
    other.lock("pid 18")
    assert other.holder() == "pid 18"
    if isinstance(other, RealDisk):
        other.close()


# -- the real disk alone ------------------------------------------------------------------


def test_files_and_directories_are_for_their_owner_only(tmp_path):
    disk = RealDisk(tmp_path / "data")
    disk.mkdir("queues")
    write(disk, "queues/file", b"x")
    for path, mode in (("", 0o700), ("queues", 0o700), ("queues/file", 0o600)):
        assert stat.S_IMODE(os.stat(tmp_path / "data" / path).st_mode) == mode
    disk.close()


def test_a_directory_that_others_may_write_is_refused(tmp_path):
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data").chmod(0o770)
    with pytest.raises(StoreUnreadable, match="writable by others"):
        RealDisk(tmp_path / "data")


def test_no_symbolic_link_is_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"secret")
    disk = RealDisk(tmp_path / "data")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "file").symlink_to(tmp_path / "elsewhere" / "file")
    for forbidden in (
        lambda: disk.read("link/file"),
        lambda: disk.read("file"),
        lambda: disk.open("file"),
        lambda: disk.create("link/new"),
        lambda: disk.mkdir("link"),
        lambda: disk.list("link"),
    ):
        with pytest.raises(OSError, match=r"symbolic links|Not a directory|File exists"):
            forbidden()
    disk.close()
    (tmp_path / "root").symlink_to(tmp_path / "data")
    with pytest.raises(StoreUnreadable, match="link"):
        RealDisk(tmp_path / "root")


def test_few_files_stay_open(tmp_path):
    disk = RealDisk(tmp_path)
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for n in range(300):
        write(disk, f"{n}", b"x")
    if before:
        assert len(os.listdir("/proc/self/fd")) - before <= IDLE_FILES_MAX
    disk.close()
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before


def test_a_lock_ends_with_its_process(tmp_path):
    disk = RealDisk(tmp_path)
    disk.lock("pid 1")
    disk.close()  # as the kernel does for a process that was killed
    other = RealDisk(tmp_path)
    other.lock("pid 2")
    other.close()


# -- the simulated disk alone -------------------------------------------------------------


@pytest.fixture
def sim():
    return SimDisk(random.Random(1))


def test_nothing_that_was_synced_is_lost(sim):
    sim.mkdir("queues")
    sim.sync_dir("")
    write(sim, "queues/file", b"x" * 3000)
    sim.sync_dir("queues")
    file = sim.open("queues/file")
    file.append(b"y" * 3000)
    for survival in SURVIVALS:
        for seed in range(20):
            after = sim.crash(random.Random(seed), survival)
            assert after.read("queues/file")[:3000] == b"x" * 3000
    assert sim.read("queues/file") == b"x" * 3000 + b"y" * 3000, "the first disk is untouched"


def test_what_was_not_synced_survives_in_every_way(sim):
    write(sim, "file", b"x" * 10)
    sim.sync_dir("")
    file = sim.open("file")
    file.append(b"y" * 5000)
    seen = set()
    for seed in range(200):
        data = sim.crash(random.Random(seed)).read("file")[10:]
        seen.add("size" if len(data) < 5000 else "whole")
        for at in range(SECTOR - 10, len(data) - SECTOR, SECTOR):
            sector = data[at : at + SECTOR]
            kinds = {b"y": "kept", b"\0": "zeroed"}
            seen.add(kinds.get(sector[:1] if len(set(sector)) == 1 else b"", "garbage"))
    assert seen == {"size", "whole", "kept", "zeroed", "garbage"}
    assert sim.crash(random.Random(1), "none").read("file") == b"x" * 10
    assert sim.crash(random.Random(1), "all").read("file") == b"x" * 10 + b"y" * 5000


def test_a_name_is_durable_after_sync_dir_only(sim):
    write(sim, "old", b"x")
    sim.sync_dir("")
    write(sim, "new", b"x")
    sim.unlink("old")
    assert sim.crash(random.Random(1), "none").list("") == ["old"]
    assert sim.crash(random.Random(1), "all").list("") == ["new"]
    seen = {tuple(sim.crash(random.Random(seed)).list("")) for seed in range(50)}
    assert seen == {(), ("new",), ("old",), ("new", "old")}


def test_a_directory_that_was_not_synced_takes_its_files_along(sim):
    sim.mkdir("queues")
    write(sim, "queues/file", b"x")
    sim.sync_dir("queues")
    assert sim.crash(random.Random(1), "none").list("") == []


def test_after_a_failed_sync_the_next_one_lies(sim):
    write(sim, "file", b"")
    sim.sync_dir("")
    file = sim.open("file")
    file.append(b"lost" * 200)
    sim.fail_syncs(1)
    with failing(errno.EIO):
        file.datasync()
    file.append(b"kept" * 512)
    file.datasync()
    assert sim.read("file") == b"lost" * 200 + b"kept" * 512, "the page cache shows it"
    for survival in SURVIVALS:
        data = sim.crash(random.Random(1), survival).read("file")
        assert b"lost" not in data[:800]
        assert data[-1024:] == b"kept" * 256


def test_short_writes_lose_nothing(sim):
    sim.short_writes = True
    write(sim, "file", bytes(range(256)) * 20)
    assert sim.read("file") == bytes(range(256)) * 20
    assert sim.operations > 3


def test_a_full_disk_takes_what_fits(sim):
    small = SimDisk(random.Random(1), capacity=1000)
    file = small.create("file")
    with failing(errno.ENOSPC):
        file.append(b"x" * 1500)
    assert small.size("file") == 1000
    assert small.free_bytes() == 0
    with failing(errno.ENOSPC):
        small.create("other")
    file.truncate(10)
    file.append(b"y")
    sim.fill(operations=3)
    with failing(errno.ENOSPC):
        sim.create("file")
    sim.make_room()
    sim.create("file")


def test_after_a_power_cut_nothing_works(sim):
    def cut(operation: int, kind: str, path: str) -> None:
        if kind == "datasync":
            raise PowerCut

    sim.hook = cut
    file = sim.create("file")
    file.append(b"x")
    with pytest.raises(PowerCut):
        file.datasync()
    with pytest.raises(PowerCut):
        sim.read("file")
    assert sim.crash(random.Random(1), "all").read("file") == b"x"


def test_latency_is_owed_and_not_slept(sim):
    sim.latency = {"datasync": 5.0, "append": 0.5}
    write(sim, "file", b"x", b"y")
    assert sim.take_latency() == 6.0
    assert sim.take_latency() == 0.0


def test_rot(sim):
    sim.put("file", b"abc")
    sim.flip_bit("file", 8)
    sim.overwrite("file", 2, b"XY")
    assert sim.read("file") == b"acX"
    assert sim.crash(random.Random(1), "none").read("file") == b"acX"
