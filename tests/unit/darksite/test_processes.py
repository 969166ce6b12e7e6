"""The ledger and the ending of processes: nobody else's is ever taken for ours."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from darksite import processes
from darksite.processes import Ledger, Process


def test_a_number_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    ourselves = processes.identify(os.getpid())
    assert ourselves is not None
    earlier = Process(ourselves.pid, ourselves.started_ticks - 1)
    ledger = Ledger(tmp_path)
    ledger.record("part", earlier)
    assert ledger.find("part") is None
    # Were the start time not compared, this would end the test itself.
    processes.end([earlier])
    ledger.record("part", ourselves)
    assert ledger.find("part") == ourselves


def test_a_daemon_writes_itself_down_and_has_a_session_of_its_own(tmp_path: Path) -> None:
    ledger, log = Ledger(tmp_path / "ledger"), tmp_path / "log"
    started = ledger.start("part", ["sh", "-c", "echo told; exec sleep 60"], log)
    try:
        _eventually(lambda: log.exists() and log.read_text() == "told\n")
        assert ledger.find("part") == started
        assert (tmp_path / "ledger/part").read_text() == f"{started.pid} {started.started_ticks}\n"
        assert os.getsid(started.pid) == started.pid
    finally:
        processes.end([started])
    assert not started.alive
    assert ledger.find("part") is None
    os.waitpid(started.pid, 0)


def test_a_daemon_whose_starter_was_killed_is_in_the_ledger(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom darksite.processes import Ledger\n"
        "Ledger.record = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Ledger(Path(sys.argv[1])).start('part', ['sleep', '60'], Path(sys.argv[1]) / 'log')\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert killed.returncode == -9
    _eventually(lambda: Ledger(tmp_path).find("part") is not None)
    left = Ledger(tmp_path).find("part")
    assert left is not None
    processes.end([left])
    assert not left.alive


def test_half_a_line_in_the_ledger_is_nobody(tmp_path: Path) -> None:
    (tmp_path / "part").write_text(f"{os.getpid()} 12")
    assert Ledger(tmp_path).find("part") is None


def test_who_does_not_listen_to_a_polite_signal_is_ended_after_the_grace(tmp_path: Path) -> None:
    command = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]
    deaf = Ledger(tmp_path).start("deaf", command, tmp_path / "log")
    _eventually(lambda: "ready" in (tmp_path / "log").read_text())
    started = time.monotonic()
    processes.end([deaf], grace_seconds=0.3)
    assert time.monotonic() - started >= 0.3
    assert not deaf.alive
    os.waitpid(deaf.pid, 0)


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited ten seconds in vain"
        time.sleep(0.01)
