"""A machine that runs out of something: disk, file size, file handles, network, or the right to write."""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from faults_run import Job

pytestmark = pytest.mark.slow  # processes, two or more each


def _may(*words: str) -> bool:
    return (
        shutil.which(words[0]) is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )


needs_mounts = pytest.mark.skipif(
    not _may("unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"), reason="only root may mount in a namespace"
)
needs_no_net = pytest.mark.skipif(not _may("unshare", "-n", "true"), reason="only root may part a network namespace")


def shell(script: str, *, private_mounts: bool = False) -> subprocess.CompletedProcess[str]:
    before = ["unshare", "-m"] if private_mounts else []
    return subprocess.run(
        [*before, "bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )


@needs_mounts
def test_a_full_disk_ends_with_74_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    """In the same mount: full, then made larger, then the same command again."""
    job = Job(tmp_path / "a", rows=150, concurrency=8, delay=0.0)
    disk = tmp_path / "disk"
    disk.mkdir()
    job.output, kept = disk / "out.jsonl", tmp_path / "kept"
    run = shlex.join(job.command("-q"))

    told = shell(
        f"mount -t tmpfs -o size=20k none {disk}; {run}; echo code $?; cp {job.output} {kept}; ls {disk}; "
        f"mount -o remount,size=4m {disk}; {run}; echo code $?; cp {job.output} {job.folder / 'all'}; ls {disk}",
        private_mounts=True,
    )
    job.close()

    assert told.stdout.split("\n") == ["code 74", "out.jsonl", "code 0", "out.events.jsonl", "out.jsonl", ""], told
    assert "No space left on device" in told.stderr
    assert "free some space" in told.stderr
    assert kept.read_bytes().endswith(b"\n")
    job.output = kept
    done = len(job.lines())
    assert 5 < done < 100
    job.output = job.folder / "all"
    job.check_complete()
    assert sum(job.sent().values()) <= 150 + 8 + done  # what was in flight, and no more


@needs_mounts
def test_a_directory_that_is_mounted_read_only_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    """Nothing is paid for that could not be kept."""
    job = Job(tmp_path / "a", rows=3)

    told = shell(
        f"mount --bind {job.folder} {job.folder} && mount -o remount,ro,bind {job.folder}; "
        f"{shlex.join(job.command())}; echo code $?",
        private_mounts=True,
    )
    job.close()

    assert told.stdout == "code 2\n"
    assert f"{job.output}: cannot be opened (Read-only file system)" in told.stderr
    assert "hint: write to another file (-o)" in told.stderr
    assert not job.server.arrivals


MERE_MORTAL = (
    ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if getattr(os, "geteuid", int)() == 0 else ()
)
"""Root, bound by the modes of files like everybody else."""


@pytest.mark.skipif(not _may(*MERE_MORTAL, "true"), reason="setpriv is not installed: apt-get install util-linux")
def test_a_directory_without_the_right_to_write_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    """With who may."""
    job = Job(tmp_path / "a", rows=3)
    job.folder.chmod(0o555)

    try:
        ended = job.run(before=MERE_MORTAL)
    finally:
        job.close()

    assert ended.code == 2
    assert "no permission to write it" in ended.stderr
    assert not job.server.arrivals


@pytest.mark.skipif(not _may(*MERE_MORTAL, "true"), reason="setpriv is not installed: apt-get install util-linux")
def test_a_folder_in_which_no_copy_can_be_made_keeps_its_failed_lines(tmp_path: Path) -> None:
    """The file itself may be written; to resend failed rows it has to be replaced. The hint names the folder."""
    job = Job(tmp_path / "a", rows=3, bad=frozenset({2}))
    try:
        job.run("-q")
        job.folder.chmod(0o555)
        sent = len(job.server.arrivals)

        ended = job.run("-q", "--retry-failed", before=MERE_MORTAL)

        assert (ended.code, len(job.server.arrivals)) == (74, sent)
        assert "see who may write the file and its folder" in ended.stderr
        assert len(job.lines()) == 3
    finally:
        job.folder.chmod(0o755)
        job.close()


def test_a_limit_of_file_sizes_ends_with_74(tmp_path: Path) -> None:
    """Every line that fits is kept; with the limit raised, the same command goes on."""
    job = Job(tmp_path / "a", rows=150, concurrency=4, delay=0.0)
    try:
        ended = job.run(before=("prlimit", "--fsize=20000"))
        done = len(job.lines())

        assert ended.code == 74
        assert "ulimit -f" in ended.stderr
        assert 5 < done < 150
        assert job.output.read_bytes().endswith(b"\n")
        sent = len(job.server.arrivals)

        again = job.run(before=("prlimit", "--fsize=20000"))

        assert (again.code, len(job.server.arrivals)) == (74, sent)  # no more is paid for that cannot be kept
        assert "ulimit -f" in again.stderr
        job.finish_in_peace()
    finally:
        job.close()


def test_a_name_that_leaves_no_room_for_those_of_sidecars_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """The file itself could be made."""
    job = Job(tmp_path / "a", rows=3)
    job.output = job.folder / ("o" * 244 + ".jsonl")

    try:
        ended = job.run("-q")
    finally:
        job.close()

    assert ended.code == 2
    assert ended.stderr.splitlines() == [
        f"error: {job.output}: the name is too long: files beside it have longer ones",
        "hint: write to a file with a shorter name (-o)",
    ]
    assert not job.server.arrivals
    assert not job.output.exists()


def test_a_device_that_is_full_ends_with_74(tmp_path: Path) -> None:
    """`-o /dev/full`: nothing can be kept, so little is sent."""
    job = Job(tmp_path / "a", rows=200, concurrency=4)
    job.output = Path("/dev/full")
    try:
        ended = job.run()
    finally:
        job.close()

    assert ended.code == 74
    assert "/dev/full: could not be written (No space left on device)" in ended.stderr
    assert len(job.server.arrivals) <= 2 * 4


@pytest.mark.parametrize("model", ["m", "openai/gpt-5-mini"])  # which has no price, and one
def test_fewer_file_handles_than_requests_in_flight_fail_no_row(tmp_path: Path, model: str) -> None:
    """64 handles, 200 wanted: what there is has to do, and nothing needs another one for the first answers."""
    job = Job(tmp_path / "a", rows=400, concurrency=200, delay=0.05, options=("-m", model))
    try:
        ended = job.run(before=("prlimit", "--nofile=64:64"))
    finally:
        job.close()

    assert ended.code == 0, ended
    job.check_complete()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64


@needs_no_net
@pytest.mark.parametrize("host", ["http://127.0.0.1:9/v1", "http://provider.example/v1"])
def test_a_machine_without_network_waits_and_fails_no_row(tmp_path: Path, host: str) -> None:
    """Not even loopback: nothing leaves, the rows wait, and `--max-outage` ends it with 75."""
    job = Job(tmp_path / "a", rows=6, options=("--max-outage", "2", "--recovery-timeout", "1"))
    job.server.close()
    try:
        ended = job.run("--base-url", host, before=("unshare", "-n"))
    finally:
        job.close()

    assert ended.code == 75, ended
    assert job.lines() == {}
    waiting = [json.loads(line) for line in job.deferred.read_text().splitlines()]
    assert waiting
    for line in waiting:
        assert line["status"] == "deferred"
        assert line["reason"] == "this machine cannot send anything"
        assert line["retry_after"] > 0
