"""What is measured."""

import shutil
import sys
from dataclasses import dataclass

from .machine import KIB, MIB, GIB

NEVER = "+1000000G"  # a size no file has: find and bfs must stat every file and print none
LATENCY_THREADS = 64  # what a peer is given when each request takes its time
LATENCY_TTL_MS = 3000  # a mounted network filesystem is asked again for what is older than that


@dataclass
class Tool:
    """A row. `{src}`, `{dst}` and `{state}` (a directory of its own) in argv are filled in; argv[0] is looked up in PATH."""

    name: str
    argv: list
    floor: str = ""  # the row that is this row's floor
    reps_max: int = sys.maxsize  # runs that say enough of a tool that takes minutes
    prepare: tuple = ()  # what is run before each run and its changes, and not timed


@dataclass
class Tree:
    """Words for mktree."""

    shape: str
    files: int
    files_quick: int
    files_per_dir: int
    size: int = 0
    exact: bool = False  # every file has this very size


@dataclass
class Scenario:
    name: str
    title: str
    media: list  # when none are asked for
    tree: Tree
    tools: list
    ours: str  # the row that peers are compared with
    start: str = "equal"  # of the destination: none, fresh (absent), equal
    changes: tuple = ()  # what chtree does before each run: (side, change, percent)
    cold: bool = False  # caches are dropped before each run
    slow: tuple = ()  # sides that are behind the latency filesystem
    unit: str = "files/s"


def scenarios(ringsync, floors, threads, latency_ms):
    """All scenarios, with the rows that do not depend on what is installed."""

    def floor(program, *args, threads=threads):
        return [f"{floors}/{program}", *args, str(threads)]

    def ours(name, *options, floor=""):
        return Tool(name, [ringsync, "sync", "-q", *options, "{src}", "{dst}"], floor)

    def incremental():
        words = [ringsync, "sync", "-q", "--incremental", "--state", "{state}", "{src}", "{dst}"]
        return Tool("ringsync --incremental", words, prepare=tuple(words))

    def scan(name, *options, floor="floor-scan"):
        return Tool(name, [ringsync, "scan", "-q", *options, "{src}"], floor)

    def rsync(*options, floor=""):
        words = ["rsync", *(options or ["-a"])]
        return Tool(" ".join(words), [*words, "{src}/", "{dst}/"], floor)

    def on_one_core(tool, floor=""):
        return Tool(f"{tool.name}, 1 core", ["taskset", "-c", "0", *tool.argv], floor)

    fd = "fd" if shutil.which("fd") else "fdfind"
    at_once = str(LATENCY_THREADS)

    crawlers = [
        Tool("bfs", ["bfs", "{src}", "-type", "f", "-size", NEVER], "floor-scan"),
        Tool("fd", [fd, "-u", "-S", "+1000g", ".", "{src}"], "floor-scan"),
        Tool("find", ["find", "{src}", "-type", "f", "-size", NEVER], "floor-scan"),
    ]
    floor_scan = Tool("floor-scan", floor("floor-scan", "{src}"))
    warm = [floor_scan, *(scan(f"ringsync {engine}", "--io-engine", engine) for engine in ("auto", "ring", "inline"))]
    cold_floors = [Tool(f"floor-scan {n}", floor("floor-scan", "{src}", threads=n)) for n in (2, 16, 64)]
    cold = [*cold_floors, scan("ringsync auto", floor="floor-scan 16")]

    small = []
    for mode in ("direct", "atomic"):
        small += [
            Tool(f"floor-copy {mode}", floor("floor-copy", "{src}", "{dst}", mode)),
            ours(f"ringsync {mode}", "--write-mode", mode, floor=f"floor-copy {mode}"),
        ]
    copiers = [
        Tool("cp -a", ["cp", "-a", "{src}", "{dst}"], "floor-copy direct"),
        rsync("-a", floor="floor-copy atomic"),
        Tool("xcp", ["xcp", "-r", "--no-progress", "{src}", "{dst}"], "floor-copy direct"),
        Tool("cpz", ["cpz", "{src}", "{dst}"], "floor-copy direct"),
        Tool("fpsync", ["fpsync", "-n", str(threads), "{src}/", "{dst}/"], "floor-copy atomic"),
    ]
    rclone = Tool("rclone", ["rclone", "sync", "{src}", "{dst}"])
    rclone_64 = Tool(
        f"rclone {at_once}",
        ["rclone", "sync", "--checkers", at_once, "--transfers", at_once, "{src}", "{dst}"],
    )
    noop = [Tool("floor-compare", floor("floor-compare", "{src}", "{dst}")), ours("ringsync", floor="floor-compare")]
    # Reading and writing is a floor only for tools that do so: one that lets the kernel copy (copy_file_range,
    # FICLONE) can be faster.
    large = [
        Tool("floor-copy direct", floor("floor-copy", "{src}", "{dst}", "direct")),
        ours("ringsync direct", "--write-mode", "direct", floor="floor-copy direct"),
        ours("ringsync atomic", floor="floor-copy direct"),
        Tool("cp -a", ["cp", "-a", "{src}", "{dst}"], "floor-copy direct"),
        rsync("-a", floor="floor-copy direct"),
    ]
    linked = [ours("ringsync -H", "-H"), rsync("-aH"), Tool("cp -a", ["cp", "-a", "{src}", "{dst}"])]
    cores = [floor_scan, scan("ringsync auto")]
    both_modes = [ours("ringsync direct", "--write-mode", "direct"), ours("ringsync atomic")]

    million = Tree("small", 1_000_000, 100_000, 50)
    small_files = Tree("small", 100_000, 10_000, 100, 8 * KIB)
    few_large = Tree("small", 2, 2, 2, 2 * GIB, exact=True)
    mixed = Tree("mixed", 50_000, 5_000, 100, 16 * KIB)
    giant = Tree("giant", 2_000_000, 100_000, 2_000_000)
    deep = Tree("deep", 200_000, 20_000, 2)
    slow = Tree("small", 20_000, 2_000, 50)
    slow_data = Tree("small", 20_000, 2_000, 50, 4 * KIB)

    def slow_scenarios():
        """Each job with the source, the destination or both behind the latency filesystem."""
        waiting = rsync()  # for one answer at a time
        waiting.reps_max = 1
        away = f"{latency_ms:g} ms away"
        yield Scenario("slow-incremental", f"sync of equal trees that was done before, the destination {away}", ["tmpfs"],
                       million, [ours("ringsync"), incremental()], "ringsync --incremental", slow=("dst",))
        fd_64 = Tool(f"fd -j{at_once}", [fd, f"-j{at_once}", "-u", "-S", "+1000g", ".", "{src}"])
        slow_floor = Tool(f"floor-scan {at_once}", floor("floor-scan", "{src}", threads=LATENCY_THREADS))
        yield Scenario("slow-scan", f"stat every file of a tree that is {away}", ["tmpfs"], slow,
                       [slow_floor, scan("ringsync auto", floor=slow_floor.name), fd_64], "ringsync auto",
                       start="none", slow=("src",))
        for sides in (("src",), ("dst",), ("src", "dst")):
            where = "both sides" if len(sides) == 2 else {"src": "the source", "dst": "the destination"}[sides[0]]
            name = "both" if len(sides) == 2 else sides[0]
            yield Scenario(f"slow-noop-{name}", f"sync of equal trees, {where} {away}", ["tmpfs"], slow,
                           [ours("ringsync"), rclone_64, waiting], "ringsync", slow=sides)
            yield Scenario(f"slow-copy-{name}", f"first copy of small files, {where} {away}", ["tmpfs"], slow_data,
                           [*both_modes, rclone_64, waiting],
                           "ringsync atomic", start="fresh", slow=sides)

    return [
        Scenario("scan", "stat every file of a warm tree", ["tmpfs"], million, warm + crawlers, "ringsync auto",
                 start="none"),
        Scenario("scan-cold", "stat every file of a tree that is not in the cache", ["ext4"], million,
                 cold + crawlers, "ringsync auto", start="none", cold=True),
        Scenario("noop", "sync of equal trees", ["tmpfs"], million,
                 [*noop, rsync(floor="floor-compare"), rclone], "ringsync"),
        Scenario("copy", "first copy of small files", ["ext4", "xfs"], small_files, small + copiers,
                 "ringsync direct", start="fresh"),
        Scenario("copy-mixed", "first copy of files of many sizes", ["ext4"], mixed, small + copiers,
                 "ringsync direct", start="fresh"),
        Scenario("large", "first copy of large files", ["tmpfs", "ext4"], few_large, large, "ringsync direct",
                 start="fresh", unit="MiB/s"),
        Scenario("large-cold", "first copy of large files that are not in the cache", ["ext4-same", "xfs-same"], few_large,
                 [*large, ours("ringsync --direct-io never", "--direct-io", "never", floor="floor-copy direct")],
                 "ringsync atomic", start="fresh", cold=True, unit="MiB/s"),
        Scenario("sparse", "first copy of large files with holes", ["tmpfs"],
                 Tree("sparse", 4, 4, 4, 4 * GIB, exact=True),
                 [ours("ringsync"), Tool("cp -a", ["cp", "-a", "{src}", "{dst}"]), rsync("-aS")], "ringsync",
                 start="fresh", unit="MiB/s"),
        Scenario("changed", "1 % of the files have other contents", ["ext4"], small_files,
                 [ours("ringsync"), rsync(), rclone], "ringsync", changes=(("src", "contents", 1),)),
        Scenario("modes", "10 % of the files have another mode", ["ext4"], small_files,
                 [ours("ringsync"), rsync()], "ringsync", changes=(("src", "modes", 10),)),
        Scenario("delete", "half of the destination goes", ["ext4"], small_files,
                 [ours("ringsync", "--delete"), rsync("-a", "--delete"), rclone], "ringsync",
                 changes=(("dst", "extras", 100),)),
        Scenario("giant", "sync of two equal directories of 2 M files", ["tmpfs"], giant,
                 [*noop, rsync(floor="floor-compare")], "ringsync"),
        Scenario("giant-scan", "stat every file of one directory", ["tmpfs"], giant, [*warm, *crawlers],
                 "ringsync auto", start="none"),
        Scenario("deep", "sync of equal trees of 100,000 directories in chains of 64", ["tmpfs"], deep,
                 [*noop, rsync(floor="floor-compare")], "ringsync"),
        Scenario("links", "first copy of a tree of hard links, 4 names each", ["ext4"],
                 Tree("links", 100_000, 10_000, 100, 8 * KIB), linked, "ringsync -H", start="fresh"),
        Scenario("incremental", "sync of equal trees that was done before", ["tmpfs"], million,
                 [ours("ringsync"), incremental(), rsync()], "ringsync --incremental"),
        Scenario("incremental-changed", "the same, and 0.1 % of the files have other contents", ["tmpfs"], million,
                 [ours("ringsync"), incremental(), rsync()], "ringsync --incremental",
                 changes=(("src", "contents", 0.1),)),
        Scenario("noop-10m", "sync of equal trees of 10 M files", ["ext4"], Tree("small", 10_000_000, 200_000, 50),
                 [ours("ringsync")], "ringsync"),
        Scenario("cores", "a warm crawl on one core and on all", ["tmpfs"], million,
                 [*cores, *(on_one_core(tool) for tool in cores)], "ringsync auto", start="none"),
        Scenario("copy-cores", "a first copy on one core and on all", ["tmpfs"], small_files,
                 [*both_modes, *(on_one_core(tool) for tool in both_modes)], "ringsync direct", start="fresh"),
        *slow_scenarios(),
    ]
