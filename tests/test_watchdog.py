"""What counts as silence, on a clock of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from kubelet_secrets.watchdog import LONGEST_GAP_S, Watchdog, read_queued_s


class Process:
    """A clock, and the time that a process has waited for a processor."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.queued_s = 7.0
        self.watchdog = Watchdog(lambda: self.queued_s, start_allowance_s=60, allowance_s=10, clock=lambda: self.now_s)

    def passes(self, seconds: float, *, queued: float = 0.0) -> bool:
        """Let time pass, looking once a second; *queued* is the share of it spent in the run queue."""
        overdue = False
        for _ in range(int(seconds)):
            self.now_s += 1
            self.queued_s += queued
            overdue = overdue or self.watchdog.is_overdue()
        return overdue


def test_start_has_an_allowance_of_its_own() -> None:
    process = Process()
    assert not process.passes(59)
    assert process.passes(1)


def test_silence_after_the_first_word() -> None:
    process = Process()
    process.watchdog.fed()
    assert not process.passes(9)
    process.watchdog.fed()
    assert not process.passes(9)
    assert process.passes(1)


def test_waiting_for_a_processor_is_no_silence() -> None:
    process = Process()
    process.watchdog.fed()
    assert not process.passes(1000, queued=1.0)
    assert process.passes(10)


def test_busy_loop_on_a_loaded_machine_is_found_all_the_same() -> None:
    process = Process()
    process.watchdog.fed()
    assert not process.passes(39, queued=0.75)
    assert process.passes(1, queued=0.75)


def test_time_in_which_nobody_looked_does_not_count() -> None:
    process = Process()
    process.watchdog.fed()
    process.now_s += 3600  # the virtual machine was paused
    assert not process.watchdog.is_overdue()
    assert not process.passes(10 - LONGEST_GAP_S - 1)
    assert process.passes(1)


def test_queue_time_of_a_real_process_grows_when_it_has_to_share() -> None:
    def spin() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "while True: pass"])

    (core,) = list(os.sched_getaffinity(0))[:1]
    processes = [spin(), spin()]
    try:
        for process in processes:
            os.sched_setaffinity(process.pid, {core})
        before = read_queued_s(processes[0].pid)
        for _ in range(1000):
            if read_queued_s(processes[0].pid) > before:
                break
            threading.Event().wait(0.01)
        else:
            raise AssertionError("two processes share a processor, and none of them waits")
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_queue_time_of_a_process_that_is_gone_is_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert read_queued_s(process.pid) == 0
