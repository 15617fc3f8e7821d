"""The machine, and one timed run on it."""

import os
import resource
import signal
import subprocess
import tempfile
import time
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
IDLE_SHARE = 0.10  # the machine counts as idle when the CPUs are busy for less than this share
IDLE_SAMPLE_S = 0.5
STDERR_TAIL_BYTES = 400
DROP_CACHES = "/proc/sys/vm/drop_caches"


class Stopped(Exception):
    """SIGTERM, SIGINT or SIGHUP."""


running_group = None  # process group of the tool under measurement


def kill_running():
    if running_group is not None:
        try:
            os.killpg(running_group, signal.SIGKILL)
        except ProcessLookupError:
            pass


def on_stop(signum, _frame):
    kill_running()
    raise Stopped(signal.Signals(signum).name)


def cpu_times():
    """(busy, steal) CPU seconds of the whole machine since boot."""
    with open("/proc/stat", encoding="ascii") as stat:
        ticks = [int(word) for word in stat.readline().split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    hertz = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / hertz, steal / hertz


def wait_until_idle(seconds_max):
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        busy = cpu_times()[0]
        time.sleep(IDLE_SAMPLE_S)
        if cpu_times()[0] - busy < IDLE_SHARE * IDLE_SAMPLE_S * os.cpu_count():
            return


def run_timed(argv, timeout_s):
    """Runs argv to its end. Returns the figures of wait4(2) and what the rest of the machine did meanwhile."""
    global running_group
    with tempfile.TemporaryFile() as stderr:
        busy, steal = cpu_times()
        load = os.getloadavg()[0]
        start = time.perf_counter()
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
        )
        running_group = child.pid
        try:
            signal.signal(signal.SIGALRM, lambda *_: kill_running())
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            _, status, usage = os.wait4(child.pid, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            kill_running()
            running_group = None
        wall = time.perf_counter() - start
        busy, steal = (after - before for after, before in zip(cpu_times(), (busy, steal)))
        child.returncode = os.waitstatus_to_exitcode(status)
        end = stderr.seek(0, os.SEEK_END)
        stderr.seek(max(0, end - STDERR_TAIL_BYTES))
        tail = stderr.read().decode(errors="replace").strip()
    return {
        "wall_s": round(wall, 4),
        "user_s": round(usage.ru_utime, 3),
        "sys_s": round(usage.ru_stime, 3),
        "peak_rss_kb": usage.ru_maxrss,
        # The kernel hands our own peak on to a child at exec: a figure no greater than this one says little.
        "peak_rss_min_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "rc": child.returncode,
        "other_cpu_s": round(max(0.0, busy - usage.ru_utime - usage.ru_stime), 2),
        "steal_s": round(steal, 2),
        "cpus": os.cpu_count(),
        "load1": round(load, 2),
        "stderr": tail if child.returncode else "",
    }


def checked(*argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def memory_available():
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable"))


def drop_caches():
    """Page cache, dentries and inodes that nobody uses go; what is dirty was written before."""
    checked("sync")
    with open(DROP_CACHES, "w", encoding="ascii") as switch:
        switch.write("3")


def can_drop_caches():
    return os.access(DROP_CACHES, os.W_OK)


def machine_facts(args):
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "?")
    with open("/proc/meminfo", encoding="ascii") as info:
        memory = int(info.readline().split()[1]) * KIB
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    revision = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "kernel": os.uname().release,
        "CPU": f"{len(os.sched_getaffinity(0))} x {model}",
        "memory": f"{memory / GIB:.1f} GiB",
        "revision": revision or "unknown",
        "threads of the floors": args.threads,
    }
