"""Worker processes: Ctrl-C is the parent's, and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntdm.data_prep.workers import process_pool

# The parent says its workers' numbers, then works until it is stopped.
PARENT = """
import os, signal, time
from ntdm.data_prep.workers import process_pool
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with process_pool(2) as pool:
            tasks = [pool.submit(os.getpid) for _ in range(2)]
            print(*{task.result() for task in tasks}, flush=True)
            for task in [pool.submit(time.sleep, 0.2) for _ in range(200)]:
                task.result()
    except KeyboardInterrupt:
        print("stopped")
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2:3]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of processes from /proc")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(stop: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert workers
    if stop == signal.SIGINT:
        os.killpg(parent.pid, stop)  # as a terminal does: to all of them
    else:
        parent.send_signal(stop)
    said, complained = parent.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)
    if stop == signal.SIGINT:
        assert (said.strip(), complained, parent.returncode) == ("stopped", "", 0)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_worker_is_a_sentence() -> None:
    with (
        pytest.raises(ValueError, match="a worker process of 1 ended: for want of memory"),
        process_pool(1) as pool,
    ):
        pool.submit(_die).result()


def test_preparing_does_without_torch(tmp_path: Path) -> None:
    """Which takes each worker a second to import, and 200 MB."""
    code = """if True:
        import sys
        from pathlib import Path
        from ntdm.config.stages import PrepConfig
        from ntdm.data_prep import prep_data
        sys.path.append(sys.argv[1])
        import raw_trees
        root = raw_trees.write_pascal3d(Path("data"), train=2)
        report = prep_data.run("pascal3d", root, Path("cache"), PrepConfig(image_size=(32, 32)))
        print(report.files[0].samples, "torch" in sys.modules)"""
    tests = Path(__file__).parents[1] / "worlds"
    done = subprocess.run(
        [sys.executable, "-c", code, tests], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["2", "False"]
