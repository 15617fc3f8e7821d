#!/usr/bin/env python3
"""Measures tools against each other and writes the figures and a table.

    report.py measure --out DIR --floors DIR --place MEDIUM=PATH ... [options]     (perf/run calls this)
    report.py table DIR      writes DIR/report.md again from DIR/figures.jsonl and DIR/facts.json

Runs are interleaved (A B C A B C ...), so that a machine that slows down slows all tools, and ratios are taken
within a repetition. Standard library only.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
NEVER = "+1000000G"  # a size no file has: find and bfs must stat every file and print none
IDLE_SHARE = 0.10  # the machine counts as idle when the CPUs are busy for less than this share
IDLE_SAMPLE_S = 0.5
STDERR_TAIL_BYTES = 400


# ---------------------------------------------------------------------------------------------------------------
# What is measured


@dataclass
class Tool:
    """A row. `{src}` and `{dst}` in argv are filled in; argv[0] is looked up in PATH."""

    name: str
    argv: list
    floor: str = ""  # the row that is this row's floor


@dataclass
class Scenario:
    name: str
    title: str
    media: list  # when none are asked for
    files: int
    files_quick: int
    files_per_dir: int
    size: int
    tools: list
    ours: str  # the row that peers are compared with
    fresh: bool = False  # each run gets an absent destination, else a copy that is equal
    exact: bool = False  # every file has this very size
    unit: str = "files/s"


def scenarios(ringsync, floors, threads):
    """All scenarios, with the rows that do not depend on what is installed."""

    def floor(program, *args):
        return [f"{floors}/{program}", *args, str(threads)]

    def sync(*options):
        return [ringsync, "sync", "-q", *options, "{src}", "{dst}"]

    fd = "fd" if shutil.which("fd") else "fdfind"
    engines = ("auto", "ring", "inline")
    scan = [Tool("floor-scan", floor("floor-scan", "{src}"))]
    scan += [
        Tool(f"ringsync {engine}", [ringsync, "scan", "-q", "--io-engine", engine, "{src}"], "floor-scan")
        for engine in engines
    ]
    scan += [
        Tool("bfs", ["bfs", "{src}", "-type", "f", "-size", NEVER], "floor-scan"),
        Tool("fd", [fd, "-u", "-S", "+1000g", ".", "{src}"], "floor-scan"),
        Tool("find", ["find", "{src}", "-type", "f", "-size", NEVER], "floor-scan"),
    ]
    copy = []
    for mode in ("direct", "atomic"):
        copy += [
            Tool(f"floor-copy {mode}", floor("floor-copy", "{src}", "{dst}", mode)),
            Tool(f"ringsync {mode}", sync("--write-mode", mode), f"floor-copy {mode}"),
        ]
    copy += [
        Tool("cp -a", ["cp", "-a", "{src}", "{dst}"], "floor-copy direct"),
        Tool("rsync -a", ["rsync", "-a", "{src}/", "{dst}/"], "floor-copy atomic"),
        Tool("xcp", ["xcp", "-r", "--no-progress", "{src}", "{dst}"], "floor-copy direct"),
        Tool("cpz", ["cpz", "{src}", "{dst}"], "floor-copy direct"),
    ]
    noop = [
        Tool("floor-compare", floor("floor-compare", "{src}", "{dst}")),
        Tool("ringsync", sync(), "floor-compare"),
        Tool("rsync -a", ["rsync", "-a", "{src}/", "{dst}/"], "floor-compare"),
        Tool("rclone", ["rclone", "sync", "{src}", "{dst}"], "floor-compare"),
    ]
    # Reading and writing is a floor only for tools that do so: one that lets the kernel copy (copy_file_range,
    # FICLONE) can be faster.
    large = [
        Tool("floor-copy direct", floor("floor-copy", "{src}", "{dst}", "direct")),
        Tool("ringsync direct", sync("--write-mode", "direct"), "floor-copy direct"),
        Tool("ringsync atomic", sync("--write-mode", "atomic"), "floor-copy direct"),
        Tool("cp -a", ["cp", "-a", "{src}", "{dst}"], "floor-copy direct"),
        Tool("rsync -a", ["rsync", "-a", "{src}/", "{dst}/"], "floor-copy direct"),
    ]
    return [
        Scenario("scan", "stat every file of a warm tree", ["tmpfs"], 1_000_000, 100_000, 50, 0, scan,
                 "ringsync auto"),
        Scenario("copy", "first copy of small files", ["ext4"], 100_000, 10_000, 100, 8 * KIB, copy,
                 "ringsync direct", fresh=True),
        Scenario("noop", "sync of equal trees", ["tmpfs"], 1_000_000, 100_000, 50, 0, noop, "ringsync"),
        Scenario("large", "first copy of large files", ["tmpfs", "ext4"], 4, 4, 4, GIB, large,
                 "ringsync direct", fresh=True, exact=True, unit="MiB/s"),
    ]


# ---------------------------------------------------------------------------------------------------------------
# One run


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


# ---------------------------------------------------------------------------------------------------------------
# One scenario on one medium


def checked(*argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def memory_available():
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable"))


@dataclass
class Stage:
    """One scenario on one medium: where the trees lie and how big they are."""

    scenario: Scenario
    medium: str
    files: int
    size: int
    src_place: Path
    dst_place: Path
    dst_type: str

    @property
    def src(self):
        return self.src_place / "src"

    @property
    def dst(self):
        return self.dst_place / "dst"

    def bytes_needed(self):
        """Memory at most in use: data, and about 1.2 KiB for each inode and dentry, for each copy. A tree in an
        image counts twice, in the page cache and in the image."""
        copies = 1 if self.scenario.name == "scan" else 2
        in_image = (self.dst_type != "tmpfs") * (copies if self.src_place == self.dst_place else 1)
        return self.files * (self.size + 1200) * (copies + in_image)


class Bench:
    def __init__(self, args):
        self.args = args
        self.places = dict(place.split("=", 1) for place in args.place)
        self.out = Path(args.out)
        self.notes = []
        self.versions = {}

    def note(self, text):
        print(f"  {text}", flush=True)
        self.notes.append(text)

    def floor(self, program, *words):
        return checked(f"{self.args.floors}/{program}", *map(str, words))

    def available(self, scenario):
        """The tools of a scenario that can be run here; the others are named."""
        found = []
        for tool in scenario.tools:
            if tool.argv[0] is None:
                continue  # ringsync, with --peers-only
            if shutil.which(tool.argv[0]):
                found.append(tool)
                self.learn_version(tool)
            else:
                self.note(f"{scenario.name}: {tool.name} skipped: no `{tool.argv[0]}` in PATH")
        return found

    def learn_version(self, tool):
        program = Path(tool.argv[0]).name
        if program in self.versions or program.startswith("floor-"):
            return
        done = subprocess.run([tool.argv[0], "--version"], capture_output=True, text=True, check=False)
        lines = (done.stdout or done.stderr).splitlines()
        self.versions[program] = lines[0].strip() if lines else "?"

    def run(self, scenario, medium):
        """All repetitions of one scenario on one medium."""
        dst_type, same = medium.removesuffix("-same"), medium.endswith("-same")
        if dst_type not in self.places:
            self.note(f"{scenario.name}: {medium} skipped: no such filesystem could be made here")
            return
        # The medium is where the destination lies. A scan has only a source, which then lies there.
        dst_place = Path(self.places[dst_type])
        src_place = dst_place if same or scenario.name == "scan" else Path(self.places["tmpfs"])
        files, size = self.tree_size(scenario)
        stage = Stage(scenario, medium, files, size, src_place, dst_place, dst_type)
        if stage.bytes_needed() > 0.9 * memory_available():
            self.note(f"{scenario.name}: {medium} skipped: too little memory for {files} files")
            return
        print(f"{scenario.name} on {medium}: {files} files", flush=True)
        try:
            self.prepare(stage)
            self.repeat(stage)
        finally:
            self.remove_dst(stage)
            checked("rm", "-rf", "--one-file-system", str(stage.src))

    def tree_size(self, scenario):
        if scenario.unit == "MiB/s":
            return scenario.files, 64 * MIB if self.args.quick else scenario.size
        return self.args.files or (scenario.files_quick if self.args.quick else scenario.files), scenario.size

    def prepare(self, stage):
        """Makes the trees, and one run that is not timed: else the first tool would fill the caches for the
        others, and on a virtual machine touch memory that the host has still to provide."""
        scenario = stage.scenario
        dirs = max(1, stage.files // scenario.files_per_dir)
        words = ["--shape", "small", "--files", stage.files, "--dirs", dirs, "--size", stage.size, "--seed", 1]
        self.floor("mktree", stage.src, *words, *(["--exact"] if scenario.exact else []))
        checked("sync")
        if scenario.name == "scan":
            self.floor("floor-scan", stage.src, self.args.threads)
        else:
            self.floor("floor-copy", stage.src, stage.dst, "direct", self.args.threads)
            checked("sync")

    def remove_dst(self, stage):
        """Lets the filesystem finish with the old destination: the same for each tool, and never timed."""
        checked("rm", "-rf", "--one-file-system", str(stage.dst))
        if stage.dst_type != "tmpfs":
            checked("sync", "-f", str(stage.dst_place))
            checked("fstrim", str(stage.dst_place))

    def repeat(self, stage):
        scenario = stage.scenario
        tools = self.available(scenario)
        for rep in range(1, self.args.reps + 1):
            for tool in tools:
                if scenario.fresh:
                    self.remove_dst(stage)
                wait_until_idle(self.args.settle)
                argv = [word.format(src=stage.src, dst=stage.dst) for word in tool.argv]
                figures = {"scenario": scenario.name, "tool": tool.name, "medium": stage.medium, "rep": rep}
                figures |= run_timed(argv, self.args.timeout)
                figures |= {"files": stage.files, "bytes": stage.files * stage.size}
                wrong, check = self.check(stage)
                self.record(figures | {"wrong": wrong, "check": check})

    def check(self, stage):
        """What the run left behind, in words: a fast wrong copy must not look like a good one. (wrong, words);
        times that differ are not wrong, for some tools do not copy them."""
        if stage.scenario.name == "scan":
            return False, ""
        if not stage.dst.is_dir():
            return True, "no destination"
        program = f"{self.args.floors}/floor-compare"
        done = subprocess.run([program, stage.src, stage.dst], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return False, "equal"
        differences = [part.strip() for part in done.stdout.split(",")[1:-2] if not part.startswith(" 0 ")]
        return done.returncode != 1, ", ".join(differences) or "cannot be compared"

    def record(self, figures):
        with open(self.out / "figures.jsonl", "a", encoding="utf-8") as raw:
            raw.write(json.dumps(figures) + "\n")
        failed = f"  rc {figures['rc']}: {figures['stderr'][-120:]}" if figures["rc"] else ""
        print(f"  {figures['rep']} {figures['tool']:18} {figures['wall_s']:9.3f} s  {figures['check']}{failed}",
              flush=True)


# ---------------------------------------------------------------------------------------------------------------
# The report


def spread(values, digits=2):
    if not values:
        return "-"
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def ratios(walls, tool, reference):
    """tool / reference, repetition by repetition."""
    ours, theirs = walls.get(tool, {}), walls.get(reference, {})
    return [ours[rep] / theirs[rep] for rep in sorted(ours.keys() & theirs.keys())]


def table(scenario, figures):
    """One Markdown table: the figures of one scenario on one medium. A run that failed, or left a wrong
    destination, counts for nothing but a note."""
    good = [figure for figure in figures if figure["rc"] == 0 and not figure["wrong"]]
    walls = {}
    for figure in good:
        walls.setdefault(figure["tool"], {})[figure["rep"]] = figure["wall_s"]
    lines = [
        f"| tool | wall s | {scenario.unit} | x its floor | best x best | x {scenario.ours} | user s | sys s "
        "| peak RSS MiB | others' CPU s | note |",
        "|---|---|---:|---|---:|---|---:|---:|---:|---:|---|",
    ]
    for tool in scenario.tools:
        all_runs = [figure for figure in figures if figure["tool"] == tool.name]
        runs = [figure for figure in good if figure["tool"] == tool.name]
        if not all_runs:
            continue
        note = notes_of(all_runs)
        if not runs:
            lines.append(f"| {tool.name} | failed | | | | | | | | | {note} |")
            continue
        wall = statistics.median(figure["wall_s"] for figure in runs)
        amount = runs[0]["bytes"] / MIB if scenario.unit == "MiB/s" else runs[0]["files"]
        middle = {
            key: statistics.median(figure[key] for figure in runs) for key in ("user_s", "sys_s", "other_cpu_s")
        }
        floor = spread(ratios(walls, tool.name, tool.floor)) if tool.floor else "floor"
        floor_runs = walls.get(tool.floor, {}).values()
        best = f"{min(walls[tool.name].values()) / min(floor_runs):.2f}" if floor_runs else ""
        ours = spread(ratios(walls, tool.name, scenario.ours)) if tool.name != scenario.ours else "1"
        lines.append(
            f"| {tool.name} | {spread([figure['wall_s'] for figure in runs], 3)} | {amount / wall:,.0f} | {floor} "
            f"| {best} | {ours} | {middle['user_s']:.2f} | {middle['sys_s']:.2f} | {rss(runs)} "
            f"| {middle['other_cpu_s']:.2f} | {note} |"
        )
    return lines


def rss(runs):
    peak = max(figure["peak_rss_kb"] for figure in runs)
    least = max(figure["peak_rss_min_kb"] for figure in runs)
    return f"≤ {least / KIB:.0f}" if peak <= least else f"{peak / KIB:.0f}"


def notes_of(runs):
    notes = sorted({figure["check"] for figure in runs} - {"", "equal"})
    busy = [figure for figure in runs if figure["other_cpu_s"] > IDLE_SHARE * figure["wall_s"] * figure["cpus"]]
    if busy:
        notes.append(f"others busy in {len(busy)} of {len(runs)} runs")
    failed = [figure for figure in runs if figure["rc"] != 0]
    wrong = [figure for figure in runs if figure["wrong"]]
    if wrong:
        notes.append(f"{len(wrong)} of {len(runs)} runs left a wrong destination")
    if failed:
        words = " ".join(failed[0]["stderr"].split())[:80].replace("|", "/")
        notes.append(f"{len(failed)} of {len(runs)} runs failed (rc {failed[0]['rc']}: {words})")
    return "; ".join(notes)


HOW_TO_READ = """\
Each figure is the median of the repetitions, with (least..most). Runs are interleaved; a ratio is taken within
one repetition and above 1 means slower than its reference. *its floor* is a program that makes only the system
calls the job needs (for rsync, which renames, the atomic one). *best x best* compares the fastest run of the tool
with the fastest of its floor: where the machine was disturbed it says more than the median. *others' CPU* is what
the rest of the machine used meanwhile, writeback and loop device included; the note counts the runs in which that was
over a tenth of the CPUs.
*peak RSS* is of the largest single process. Runs end when the tool ends: nothing waits for writeback, but the
destination is removed, synced and trimmed before each copy. *note* says how the result compares with the source
by type, size and mtime: a row that does not say so is equal.
"""


def write_report(out):
    facts = json.loads((out / "facts.json").read_text(encoding="utf-8"))
    with open(out / "figures.jsonl", encoding="utf-8") as raw:
        figures = [json.loads(line) for line in raw]
    lines = [f"# Figures of {facts['date']}, {facts['host']}", ""]
    lines += [f"* {key}: {value}" for key, value in facts["machine"].items()]
    lines += [f"* {program}: {version}" for program, version in facts["versions"].items()]
    lines += ["", HOW_TO_READ]
    for scenario in scenarios("ringsync", "", 0):
        mine = [figure for figure in figures if figure["scenario"] == scenario.name]
        for medium in dict.fromkeys(figure["medium"] for figure in mine):
            rows = [figure for figure in mine if figure["medium"] == medium]
            size = f", {rows[0]['bytes'] / MIB:,.0f} MiB" if rows[0]["bytes"] else ", empty"
            reps = max(figure["rep"] for figure in rows)
            lines += [f"## {scenario.name}: {scenario.title}, {medium}", ""]
            lines += [f"{rows[0]['files']:,} files{size}; {reps} repetitions.", ""]
            lines += [*table(scenario, rows), ""]
    if facts["notes"]:
        lines += ["## Left out", "", *[f"* {note}" for note in facts["notes"]], ""]
    (out / "report.md").write_text("\n".join(lines), encoding="utf-8")


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


def measure(args):
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, on_stop)
    known = {scenario.name: scenario for scenario in scenarios(args.ringsync, args.floors, args.threads)}
    wanted = args.scenarios.split(",") if args.scenarios else list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"report.py: no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    bench = Bench(args)
    bench.out.mkdir(parents=True)
    (bench.out / "figures.jsonl").touch()
    facts = {"date": time.strftime("%Y-%m-%d"), "host": args.host, "machine": machine_facts(args),
             "versions": bench.versions, "notes": bench.notes}
    try:
        for name in wanted:
            for medium in args.media.split(",") if args.media else known[name].media:
                bench.run(known[name], medium)
    except Stopped as stop:
        bench.note(f"stopped by {stop}")
        sys.exit(1)
    finally:
        bench.notes[:] = dict.fromkeys(bench.notes)
        (bench.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        write_report(bench.out)
        print(f"written: {bench.out}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True, dest="verb")
    verb = verbs.add_parser("measure")
    verb.add_argument("--out", required=True)
    verb.add_argument("--floors", required=True, help="folder of the floor binaries")
    verb.add_argument("--place", action="append", required=True, metavar="MEDIUM=PATH")
    verb.add_argument("--ringsync", help="the binary; without it only peers are measured")
    verb.add_argument("--scenarios", default="")
    verb.add_argument("--media", default="")
    verb.add_argument("--reps", type=int)
    verb.add_argument("--files", type=int)
    verb.add_argument("--quick", action="store_true")
    verb.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    verb.add_argument("--settle", type=float, default=10)
    verb.add_argument("--timeout", type=float, default=900)
    verb.add_argument("--host", default=os.uname().nodename)
    verbs.add_parser("table").add_argument("dir")
    args = parser.parse_args()
    if args.verb == "table":
        write_report(Path(args.dir))
        return
    args.reps = args.reps or (2 if args.quick else 5)
    measure(args)


if __name__ == "__main__":
    main()
