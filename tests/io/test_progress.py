import os
import pty
import select
import subprocess
import sys

import pytest

from ntdm.io import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that each test moves itself."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_say_how_far_and_how_long(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress.track([0] * 40, "fit car"):
        clock[0] += 4.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "fit car: 3/40 (7 %), 2:28 left"
    assert lines[-1] == "fit car: done in 2:40"
    assert len(lines) == 14  # every third item, the first past ten seconds, and the last line


def test_a_slow_first_item_frightens_nobody(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for item in progress.track(range(100), "prep"):
        clock[0] += 15.0 if item == 0 else 1.0
    assert capsys.readouterr().err.splitlines()[:2] == ["prep: 1/100", "prep: 11/100 (11 %), 1:29 left"]


def test_unknown_length_counts(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress.track(iter(range(2)), "read"):
        clock[0] += 3700.0
    assert capsys.readouterr().err.splitlines()[0] == "read: 1 in 1:01:40"


def test_quick_loops_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track(range(5), "quick")) == [0, 1, 2, 3, 4]
    assert list(progress.track([], "empty")) == []
    assert capsys.readouterr() == ("", "")


def test_an_error_in_the_loop_passes_through() -> None:
    def failing() -> None:
        for _ in progress.track(range(3), "stopped"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()


def test_results_go_to_stdout_and_the_rest_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("step [1/2]")
    progress.say("out/table.csv", result=True)
    assert capsys.readouterr() == ("out/table.csv\n", "step [1/2]\n")


PROGRAM = """
from ntdm.io import progress
progress.print_any_text()
progress.say({text!a}, result={result})
for step in progress.track([1, 2], {text!a}):
    progress.say({text!a})
"""


def printed(encoding: str, text: str, result: bool = True) -> subprocess.CompletedProcess[bytes]:
    program = PROGRAM.format(text=text, result=result)
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "cp1252"])
def test_any_text_is_printed_whatever_the_encoding(encoding: str) -> None:
    """A table with pi in it is not lost, and a path has the bytes that the system knows it by."""
    done = printed(encoding, "acc at \u03c0/6, out/\udce4\u732b/table.csv")
    assert done.stdout == b"acc at \xcf\x80/6, out/\xe4\xe7\x8c\xab/table.csv\n"
    assert done.stderr == 2 * done.stdout


def on_a_terminal(text: str, columns: str) -> str:
    """What the program prints to a terminal."""
    main, terminal = pty.openpty()
    environment = os.environ | {"COLUMNS": columns, "TERM": "xterm", "PYTHONUTF8": "1"}
    program = PROGRAM.format(text=text, result=False)
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    data = b""
    while select.select([main], [], [], 20)[0]:
        try:
            data += os.read(main, 4096)
        except OSError:  # the other end is closed
            break
    os.close(main)
    assert process.wait() == 0
    return data.decode()


@pytest.mark.parametrize("columns", ["0", "20", "80"])
def test_a_path_is_printed_as_it_is_beside_a_bar(columns: str) -> None:
    """Not wrapped in the terminal's width, codes and tags left alone, however narrow the terminal."""
    path = "data/" + 20 * "long/" + ":bug:/[red]/[1/2]/car.h5"
    assert on_a_terminal(path, columns).count(path) >= 3
