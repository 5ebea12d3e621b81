"""Files and folders appear whole or not at all, and what the file system refuses is said in words."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vsad.files import (
    atomic,
    atomic_folder,
    check_writable,
    partial_folder,
    publish,
    read_array,
    read_json,
    read_text,
    read_weights,
    sweep,
    write_array,
    write_bytes,
    write_json,
    write_text,
    write_weights,
)

REMEDY = "run `vsad fit` again"
WRITERS = {
    "text": lambda path: write_text(path, "new"),
    "bytes": lambda path: write_bytes(path, b"new"),
    "json": lambda path: write_json(path, {"new": 1}),
    "weights": lambda path: write_weights(path, {"new": torch.ones(2)}),
    "array": lambda path: write_array(path, torch.ones(2)),
}
READERS = [read_json, read_text, read_weights, read_array]


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


@pytest.mark.skipif(os.name != "posix", reason="needs modes")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_and_folders_have_the_mode_that_the_umask_gives(tmp_path, write, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / "made" / "file")
        with atomic_folder(tmp_path / "whole") as partial:
            (partial / "part").mkdir()
            write_weights(partial / "part" / "w", {"w": torch.ones(1)})
            (partial / "part" / "w").chmod(0o600)  # as libraries do
    finally:
        os.umask(before)
    for file in ("made/file", "whole/part/w"):
        assert stat.S_IMODE((tmp_path / file).stat().st_mode) == 0o666 & ~mask
    for folder in ("made", "whole", "whole/part"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o777 & ~mask


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, write, monkeypatch):
    path = write_text(tmp_path / "file", "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"file: must be a place that can be written, got a full disk; free some") as said:
        write(path)
    assert said.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "file", "old")

    def interrupted():
        with atomic(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "file", "old")
    (tmp_path / "notes.partial").mkdir()
    (tmp_path / ".user.partial").write_text("a file of the user's own")
    kill = "import os, sys; from vsad.files import atomic\nwith atomic(sys.argv[1]) as p: p.touch(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", kill, path], check=False).returncode == 9
    assert path.read_text() == "old"
    assert len(os.listdir(tmp_path)) == 4
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".user.partial", "file", "notes.partial"]


def test_a_full_disk_is_named(tmp_path, write):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        write_text(disk / "file", "old")
        (disk / "rest").write_bytes(b"")
        with pytest.raises(OSError, match="No space"):
            (disk / "rest").write_bytes(bytes(100_000))
        with pytest.raises(OSError, match="file: must be a place that can be written, got a full disk; free some"):
            write(disk / "file")
        with pytest.raises(OSError, match="out: must be a place that can be written, got a full disk"):
            check_writable(disk / "out")
        (disk / "rest").unlink()
        assert os.listdir(disk) == ["file"]
        assert (disk / "file").read_text() == "old"
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for refused in (lambda: write(disk / "file"), lambda: check_writable(disk), lambda: partial_folder(disk / "a")):
            with pytest.raises(OSError, match="got a file system that is read-only; name a place on another one"):
                refused()
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def nobody():
    """A user who may not write everywhere, as root may."""
    if os.name != "posix":
        pytest.skip("needs users")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


@pytest.fixture
def locked(tmp_path):
    """A folder that nobody may write, with a file that nobody may read."""
    folder = tmp_path / "locked"
    for each in (tmp_path, *tmp_path.parents[:3]):
        if each.stat().st_mode & 0o005 != 0o005 and each.owner() == tmp_path.owner() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o055)
    write_text(folder / "file", "old").chmod(0)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def test_no_permission_is_named(locked, nobody, write):
    for refused in (
        lambda: write(locked / "new"),
        lambda: write(locked / "file"),
        lambda: check_writable(locked),
        lambda: check_writable(locked / "a" / "b"),
        lambda: check_writable(locked / "file", "file"),
        lambda: partial_folder(locked / "a"),
    ):
        with pytest.raises(PermissionError, match="must be a place that can be written, got no permission; change"):
            refused()
    for read in READERS:
        with pytest.raises(PermissionError, match=r"file: must be a file that can be read, got no permission; .*fit"):
            read(locked / "file", REMEDY)


def test_a_folder_where_a_file_is_meant_and_the_other_way_round(tmp_path, write):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(
        IsADirectoryError, match=r"folder: must be a place that can be written, got a folder; name a file"
    ):
        write(tmp_path / "folder")
    for read in READERS:
        with pytest.raises(
            IsADirectoryError, match=r"folder: must be a file that can be read, got a folder; .*fit` again"
        ):
            read(tmp_path / "folder", REMEDY)
    for refused in (
        lambda: write(tmp_path / "file" / "a" / "b"),
        lambda: check_writable(tmp_path / "file"),
        lambda: check_writable(tmp_path / "file" / "a"),
        lambda: check_writable(tmp_path / "file" / "a", "file"),
        lambda: partial_folder(tmp_path / "file" / "a"),
    ):
        with pytest.raises(OSError, match=r"got \S*file, which is a file and no folder; name another place"):
            refused()
    with pytest.raises(IsADirectoryError):
        check_writable(tmp_path / "folder", "file")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_names_that_no_file_can_have(tmp_path, write):
    with pytest.raises(OSError, match="got a name that is too long; name a shorter one"):
        write(tmp_path / ("a" * 300))
    with pytest.raises(OSError, match="got a name that is too long"):
        check_writable(tmp_path / ("a" * 300))
    for name in ("a\0b", "a\ud800b"):
        with pytest.raises(ValueError, match="must be a name of characters that files may have"):
            write(tmp_path / name)
        for read in READERS:
            with pytest.raises(ValueError, match="must be a name of characters that files may have"):
                read(tmp_path / name, REMEDY)
    longest = "ü" * 127 + "a"  # 255 bytes
    assert write(tmp_path / longest).name == longest
    assert os.listdir(tmp_path) == [longest]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_and_devices_are_neither_waited_for_nor_replaced(tmp_path, write):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe: must be a file, got a pipe, socket or device"):
        write(tmp_path / "pipe")
    for read in READERS:
        with pytest.raises(OSError, match="pipe: must be a file, got a pipe, socket or device"):
            read(tmp_path / "pipe", REMEDY)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path, write):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    for _ in range(2):  # the first time it leads to nothing
        write(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert os.listdir(tmp_path / "elsewhere") == ["file"]
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="got links that lead in a circle; mend the links"):
        write(tmp_path / "a")


def test_to_check_a_path_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path / "a" / "b.json", "file")
    check_writable(tmp_path)
    assert not os.listdir(tmp_path)


def test_a_whole_folder_replaces_the_parts_of_the_one_before(tmp_path):
    folder = tmp_path / "detector"
    for version in ("old", "new"):
        with atomic_folder(folder, last="main.json", stale=("extra",)) as partial:
            write_text(partial / "model" / version, version)
            write_text(partial / "main.json", version)
        write_text(folder / "notes.txt", "the user's own")
        if version == "old":
            write_text(folder / "extra" / "x", "")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) == [
        "main.json", "model", "model/new", "notes.txt",
    ]  # fmt: skip
    with pytest.raises(OSError, match=r"detector: must be a place .* got a folder that holds something"), \
            atomic_folder(folder) as partial:  # fmt: skip
        write_text(partial / "x", "")
    assert os.listdir(tmp_path) == ["detector"]
    assert not [name for name in os.listdir(folder) if name.endswith("partial")]


def test_a_folder_that_is_replaced_is_never_a_mixture(tmp_path, monkeypatch):
    """Whichever rename a kill comes before, the part without which nothing is read is missing, or all is new."""
    replace, left = os.replace, 0

    def killed(*paths):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        replace(*paths)

    for after in range(4):
        folder = tmp_path / str(after)
        for name in ("main", "a", "b"):
            write_text(folder / name, "old")
        partial = partial_folder(tmp_path / "next")
        for name in ("main", "a", "b"):
            write_text(partial / name, "new")
        monkeypatch.setattr(os, "replace", killed)
        left = after
        if after < 3:
            with pytest.raises(KeyboardInterrupt):
                publish(partial, folder, last="main")
        else:
            publish(partial, folder, last="main")
        monkeypatch.setattr(os, "replace", replace)
        assert (folder / "main").exists() == (after == 3)
    assert {(folder / name).read_text() for name in ("main", "a", "b")} == {"new"}
