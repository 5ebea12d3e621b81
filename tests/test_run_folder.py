"""A run's folder: one process at a time, one run at a time, and a run that was killed goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import vsad
from vsad.files import RunFolder, fingerprint_files, read_run, write_text

OPTIONS = {"size": 448, "detector": "a1b2", "levels": [1, 2]}


def opened(folder, fresh=False, command="detect", **changes):
    return RunFolder.open(folder, command=command, options={**OPTIONS, **changes}, fresh=fresh)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def part(run, name):
    write_text(run.file(f"maps/{name}.txt"), name)
    run.mark(name, score=0.5)


def test_a_run_goes_on_where_it_stopped_and_ends_finished(tmp_path):
    with opened(tmp_path) as run:
        assert not run.done
        part(run, "S1")
    with opened(tmp_path) as run:
        assert dict(run.done) == {"S1": {"score": 0.5}}
        assert (run.is_done("S1"), run.is_done("S2"), run.finished) == (True, False, False)
        part(run, "S2")
        run.finish(samples=2)
    with opened(tmp_path) as run:
        assert run.finished
    record = read_run(tmp_path)
    assert (record.command, record.vsad, record.options) == ("detect", vsad.__version__, OPTIONS)
    assert (record.finished, record.facts, list(record.done)) == (True, {"samples": 2}, ["S1", "S2"])
    assert list(record.files) == ["maps/S1.txt", "maps/S2.txt"]
    with opened(tmp_path) as run:
        part(run, "S3")
        assert not run.finished


def test_a_folder_without_a_run_tells_of_none(tmp_path):
    assert read_run(tmp_path / "absent") is None
    assert read_run(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 256}, "got size 448, now 256; name another --out, or add --fresh, which deletes what that run made"),
        ({"levels": [1]}, r"got levels \[1, 2\], now \[1\]"),
        ({"new": 1}, "got new None, now 1"),
    ],
)
def test_another_run_is_refused_in_words(tmp_path, changes, message):
    with opened(tmp_path) as run:
        part(run, "S1")
    before = names(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path.name}: must be of the same run, {message}"):
        opened(tmp_path, **changes)
    assert names(tmp_path) == before
    with opened(tmp_path) as run:  # nor does the refusal keep the folder locked
        assert run.is_done("S1")


@pytest.mark.parametrize("fresh", [False, True])
def test_another_commands_folder_is_never_written_nor_deleted(tmp_path, fresh):
    with opened(tmp_path) as run:
        part(run, "S1")
    before = names(tmp_path)
    with pytest.raises(
        ValueError, match="made by `vsad fit`, got a folder that `vsad detect` made; name another --out"
    ):
        opened(tmp_path, command="fit", fresh=fresh)
    assert names(tmp_path) == before


def test_a_run_of_another_version_is_another_run(tmp_path, monkeypatch):
    opened(tmp_path).close()
    monkeypatch.setattr(vsad, "__version__", "99")
    with pytest.raises(ValueError, match=r"got vsad '.*', now '99'"):
        opened(tmp_path)


def test_fresh_deletes_what_the_run_made_and_nothing_else(tmp_path):
    folder, outside = tmp_path / "out", tmp_path / "outside"
    write_text(outside / "a.txt", "another's")
    write_text(folder / "maps" / "mine.txt", "the user's own")
    with opened(folder) as run:
        part(run, "S1")
        write_text(run.file("plots/roc.txt"), "")
        write_text(run.subfolder("detector") / "model" / "weights", "")
        run.file("link/a.txt")
        run.file("never-written")
    (folder / "link").symlink_to(outside)
    with opened(folder, fresh=True, size=256) as run:
        assert not run.done
    assert names(folder) == ["maps/mine.txt", "run.json", "run.jsonl"]
    assert not (folder / "plots").exists()
    assert names(outside) == ["a.txt"]
    assert read_run(folder).options["size"] == 256


def test_fresh_of_the_same_run_that_is_killed_forgets_what_was_done(tmp_path, monkeypatch):
    with opened(tmp_path) as run:
        part(run, "S1")
        run.finish()
    monkeypatch.setattr("vsad.files.run_folder._delete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, fresh=True)
    with opened(tmp_path) as run:
        assert not run.done
        assert not run.finished
        assert list(run.record.files) == ["maps/S1.txt"]


def test_a_folder_of_the_runs_own_must_be_new(tmp_path):
    write_text(tmp_path / "detector" / "old", "")
    with opened(tmp_path) as run:
        with pytest.raises(FileExistsError, match="detector: must be new or empty, got a folder that holds something"):
            run.subfolder("detector")
        write_text(run.subfolder("training") / "log.csv", "")
    with opened(tmp_path) as run:
        assert (run.subfolder("training") / "log.csv").exists()


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "", ".", "a\0"])
def test_a_name_never_leads_out_of_the_folder(tmp_path, name):
    with opened(tmp_path / "out") as run:
        for own in (run.file, run.subfolder):
            with pytest.raises(ValueError, match="must have a name in it"):
                own(name)
    # Nor does one in a journal that somebody wrote.
    write_text(tmp_path / "a", "another's")
    with (tmp_path / "out" / "run.jsonl").open("a") as journal:
        journal.write(json.dumps({"file": name}) + "\n" + json.dumps({"folder": name}) + "\n")
    opened(tmp_path / "out", fresh=True).close()
    assert (tmp_path / "a").exists()


HOLD = """
import sys, time
from vsad.files import RunFolder
run = RunFolder.open(sys.argv[1], command="train", options={"seed": 1})
run.mark("S1")
print("open", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder open."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_that_another_process_writes_is_refused_until_it_is_killed(tmp_path, holder):
    said = rf"got `vsad train` in process {holder.pid} on \S+; wait for it, or name another --out"
    for fresh in (False, True):
        with pytest.raises(BlockingIOError, match=said):
            RunFolder.open(tmp_path, command="train", options={"seed": 1}, fresh=fresh)
    assert list(read_run(tmp_path).done) == ["S1"]
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunFolder.open(tmp_path, command="train", options={"seed": 1}) as run:
        assert run.is_done("S1")


def test_the_same_process_cannot_open_a_folder_twice_at_a_time(tmp_path):
    with opened(tmp_path), pytest.raises(BlockingIOError, match=rf"in process {os.getpid()}"):
        opened(tmp_path)
    opened(tmp_path).close()


def test_a_closed_run_is_not_written(tmp_path):
    with opened(tmp_path) as run:
        pass
    with pytest.raises(ValueError, match="the run must be open to be written, got one that is closed"):
        run.mark("S1")


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_half_written_line_counts_as_never_written(tmp_path, cut):
    with opened(tmp_path) as run:
        run.mark("S1")
        run.mark("S2")
    journal = tmp_path / "run.jsonl"
    with journal.open("rb+") as file:
        file.truncate(journal.stat().st_size - cut)
    assert list(read_run(tmp_path).done) == (["S1", "S2"] if cut == 1 else ["S1"])
    with opened(tmp_path) as run:
        run.mark("S3")
    assert list(read_run(tmp_path).done) == (["S1", "S2", "S3"] if cut == 1 else ["S1", "S3"])


def test_a_journal_of_noise_tells_nothing(tmp_path):
    with opened(tmp_path) as run:
        run.mark("S1")
    with (tmp_path / "run.jsonl").open("ab") as journal:
        journal.write(b'\0\0\xff{[\n[1]\n{"done": 3}\n{"done": "x", "facts": []}\n{"file": ["a"]}\n' + b"[" * 100_000)
    with opened(tmp_path) as run:
        assert list(run.done) == ["S1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": "other"}', 'run.json: must be an object with "format": "vsad-run", got another program'),
        ('{"scripts": {}}', "run.json: must be an object with .* name another folder, or delete"),
        ('{"format": "vsad-run", "version": 1, "command": 3, "vsad": "1", "options": {}}', "must be an object with"),
        ('{"format": "vsad-run", "version": 2, "command": "a", "vsad": "1", "options": {}}', "of version 1, got 2"),
        ("[]", "run.json: must be a JSON object"),
    ],
)  # fmt: skip
def test_the_manifest_of_another_program_stays(tmp_path, content, message):
    write_text(tmp_path / "run.json", content)
    for fresh in (False, True):
        with pytest.raises(ValueError, match=message):
            opened(tmp_path, fresh=fresh)
    assert names(tmp_path) == ["run.json"]
    assert (tmp_path / "run.json").read_text() == content


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path):
    write_text(tmp_path / "file", "")
    with pytest.raises(NotADirectoryError, match=r"file: must be a place that can be written, got \S+file, which is a"):
        opened(tmp_path / "file")


def test_options_that_json_cannot_hold_are_refused(tmp_path):
    with pytest.raises(ValueError, match="run: options must be what JSON can hold"):
        opened(tmp_path / "out", rate=float("nan"))
    with pytest.raises(ValueError, match="run: options must be what JSON can hold"):
        opened(tmp_path / "out", path=tmp_path)
    assert not (tmp_path / "out").exists()


def test_what_a_killed_process_left_is_swept_when_the_run_goes_on(tmp_path):
    with opened(tmp_path) as run:
        part(run, "S1")
        run.subfolder("detector")
    for left in (".run.json.0a1b2c3d.partial", "maps/.S2.txt.0a1b2c3d.partial", ".detector.partial"):
        write_text(tmp_path / left / "half", "")
    opened(tmp_path).close()
    assert names(tmp_path) == ["maps/S1.txt", "run.json", "run.jsonl"]


def test_very_many_parts_are_marked_and_read_again_soon(tmp_path):
    start = time.process_time()
    with opened(tmp_path) as run:
        for index in range(100_000):
            run.mark(f"S{index:06}", score=0.5)
    with opened(tmp_path) as run:
        assert len(run.done) == 100_000
    assert time.process_time() - start < 20  # rewriting the file for each would take hours


def test_a_fingerprint_tells_contents_and_names_but_not_times(tmp_path):
    write_text(tmp_path / "a" / "x", "1")
    write_text(tmp_path / "b" / "a" / "x", "1")
    first = fingerprint_files(tmp_path / "a")
    assert first == fingerprint_files(tmp_path / "b" / "a")
    write_text(tmp_path / "a" / "x", "2")
    assert first != fingerprint_files(tmp_path / "a")
    os.rename(tmp_path / "b" / "a" / "x", tmp_path / "b" / "a" / "y")
    assert first != fingerprint_files(tmp_path / "b" / "a")
    with pytest.raises(FileNotFoundError, match="absent is missing"):
        fingerprint_files(tmp_path / "absent")


def test_fresh_deletes_of_a_run_inside_a_run_what_is_its_own(tmp_path):
    with RunFolder.open(tmp_path, command="run", options={}) as outer:
        inner_folder = outer.nested("detections")
        with RunFolder.open(inner_folder, command="detect", options={}) as inner:
            write_text(inner.file("maps/a.png"), "made")
    write_text(inner_folder / "maps" / "notes.txt", "the user's")
    before = names(tmp_path)
    with pytest.raises(
        FileExistsError, match=r"maps/notes\.txt: must be elsewhere, as --fresh deletes \S+detections, got"
    ):
        RunFolder.open(tmp_path, command="run", options={"other": 1}, fresh=True)
    assert names(tmp_path) == before
    (inner_folder / "maps" / "notes.txt").unlink()
    write_text(inner_folder / "maps" / ".b.png.0a1b2c3d.partial" / "b.png", "half")  # a killed process left it
    with RunFolder.open(tmp_path, command="run", options={"other": 1}, fresh=True):
        assert not inner_folder.exists()


def test_what_is_put_into_a_folder_that_a_run_has_made_is_not_deleted(tmp_path):
    """Nor is anything else then: whoever put it there decides."""
    for ends in (lambda run: run.made("detector"), lambda run: run.finish()):
        with opened(tmp_path) as run:
            write_text(run.subfolder("detector") / "model" / "weights", "1")
            ends(run)
        write_text(tmp_path / "detector" / "model" / "notes.txt", "the user's own")
        before = names(tmp_path)
        for _ in range(2):
            with pytest.raises(
                FileExistsError, match=r"notes\.txt: must be elsewhere, as --fresh deletes .*detector, got"
            ):
                opened(tmp_path, fresh=True)
        assert names(tmp_path) == before
        with opened(tmp_path) as run:  # nor was anything forgotten, and the run goes on
            write_text(run.subfolder("detector") / "model" / "weights", "1")
            run.made("detector")
        (tmp_path / "detector" / "model" / "notes.txt").unlink()
        opened(tmp_path, fresh=True).close()
        assert names(tmp_path) == ["run.json", "run.jsonl"]
        assert not (tmp_path / "detector").exists()


def test_a_folder_that_a_killed_run_was_writing_is_deleted_whole(tmp_path):
    with opened(tmp_path) as run:
        write_text(run.subfolder("work") / "half", "1")
        run.finish()
    (tmp_path / "work" / "half").unlink()
    with opened(tmp_path) as run:  # it goes on, and writes there again
        write_text(run.subfolder("work") / "other", "1")
    opened(tmp_path, fresh=True).close()
    assert names(tmp_path) == ["run.json", "run.jsonl"]


def test_a_run_that_is_begun_again_is_not_finished_until_it_says_so(tmp_path):
    with opened(tmp_path) as run:
        run.mark("S1")
        run.finish()
    with opened(tmp_path) as run:
        assert run.finished
        run.begin()
    assert not read_run(tmp_path).finished
    assert list(read_run(tmp_path).done) == ["S1"]
