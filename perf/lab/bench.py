"""All repetitions of one scenario on one medium."""

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .machine import (IDLE_SHARE, MIB, can_drop_caches, checked, drop_caches, memory_available, run_timed,
                      wait_until_idle)
from .scenarios import LATENCY_TTL_MS, Scenario

MEMORY_SHARE = 0.9  # of what is available, for trees


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
        """Memory at most in use: data, and about 1.2 KiB for each inode and dentry of a tmpfs, half a KiB in an
        image, whose caches can be given up. Data in an image counts twice: it is in the page cache as well."""
        src_in_image = self.src_place == self.dst_place and self.dst_type != "tmpfs"
        sides = [src_in_image] + ([self.dst_type != "tmpfs"] if self.scenario.start != "none" else [])
        data = 0 if self.scenario.tree.shape == "sparse" else self.size
        return sum(self.files * (2 * data + 512 if in_image else data + 1200) for in_image in sides)

    def has_inodes(self):
        """Whether both places have inodes left for the trees; a filesystem that makes them as needed says 0."""
        places = [self.src_place] + ([self.dst_place] if self.scenario.start != "none" else [])
        free = [(os.statvfs(place), self.files * places.count(place)) for place in places]
        return all(not fs.f_files or fs.f_favail > needed for fs, needed in free)


class LatencyMounts:
    """The sides of a run that are behind the latency filesystem."""

    def __init__(self, args, stage):
        self.program, self.delay_ms, self.stage, self.servers = args.latencyfs, args.latency, stage, []

    def __enter__(self):
        """The paths by which the tool reaches source and destination."""
        paths = {"src": self.stage.src, "dst": self.stage.dst}
        try:
            for side in self.stage.scenario.slow:
                # Not the tree itself: a destination may be absent. The latency is that of its parent's mount.
                backing = paths[side].parent
                mountpoint = Path(f"{backing}-slow-{side}")
                mountpoint.mkdir(exist_ok=True)
                words = [str(backing), str(mountpoint), str(self.delay_ms), str(LATENCY_TTL_MS)]
                server = subprocess.Popen([self.program, *words], stdout=subprocess.PIPE, text=True)
                self.servers.append((server, mountpoint))
                if server.stdout.readline().strip() != "mounted":
                    raise RuntimeError(f"{' '.join(words)}: the latency filesystem could not be mounted")
                paths[side] = mountpoint / paths[side].name
        except BaseException:
            self.__exit__()
            raise
        return paths["src"], paths["dst"]

    def __exit__(self, *_):
        for server, mountpoint in self.servers:
            server.send_signal(signal.SIGTERM)
            server.wait()
            server.stdout.close()
            # With a million inodes in the cache the kernel takes its time to let go of the mount.
            if f" {mountpoint} " in Path("/proc/self/mounts").read_text(encoding="utf-8"):
                checked("umount", "-l", str(mountpoint))
            mountpoint.rmdir()
        self.servers.clear()


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
            # On one core, the tool is what taskset starts.
            program = tool.argv[3] if tool.argv[0] == "taskset" else tool.argv[0]
            if program is None:
                continue  # ringsync, with --peers-only
            if shutil.which(program):
                found.append(tool)
                self.learn_version(program)
            else:
                self.note(f"{scenario.name}: {tool.name} skipped: no `{program}` in PATH")
        return found

    def learn_version(self, path):
        program = Path(path).name
        if program in self.versions or program.startswith("floor-"):
            return
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        lines = (done.stdout or done.stderr).splitlines()
        self.versions[program] = lines[0].strip() if lines else "?"

    def run(self, scenario, medium):
        dst_type, same = medium.removesuffix("-same"), medium.endswith("-same")
        if dst_type not in self.places:
            self.note(f"{scenario.name}: {medium} skipped: no such filesystem could be made here")
            return
        if scenario.cold and not can_drop_caches():
            self.note(f"{scenario.name}: skipped: only root can drop the caches")
            return
        if scenario.slow and not (self.args.latencyfs and os.access("/dev/fuse", os.R_OK | os.W_OK)):
            self.note(f"{scenario.name}: skipped: no latency filesystem without FUSE")
            return
        # The medium is where the destination lies. A scan has only a source, which then lies there.
        dst_place = Path(self.places[dst_type])
        src_place = dst_place if same or scenario.start == "none" else Path(self.places["tmpfs"])
        files, size = self.tree_size(scenario)
        stage = Stage(scenario, medium, files, size, src_place, dst_place, dst_type)
        if stage.bytes_needed() > MEMORY_SHARE * memory_available():
            self.note(f"{scenario.name}: {medium} skipped: too little memory for {files} files")
            return
        if not stage.has_inodes():
            self.note(f"{scenario.name}: {medium} skipped: too few inodes for {files} files (a tmpfs mounted with "
                      "nr_inodes=0 has no limit; see --lab)")
            return
        print(f"{scenario.name} on {medium}: {files} files", flush=True)
        try:
            self.make(stage, stage.src)
            if scenario.start == "equal":
                self.make(stage, stage.dst)
            self.warm(stage)
            self.repeat(stage)
        finally:
            self.remove_dst(stage)
            checked("rm", "-rf", "--one-file-system", str(stage.src), f"{stage.src}.state")

    def tree_size(self, scenario):
        tree = scenario.tree
        files = tree.files_quick if self.args.quick else tree.files
        if scenario.unit == "MiB/s":
            return files, 64 * MIB if self.args.quick else tree.size
        return self.args.files or files, tree.size

    def make(self, stage, path):
        tree = stage.scenario.tree
        dirs = max(1, stage.files // tree.files_per_dir)
        words = ["--shape", tree.shape, "--files", stage.files, "--dirs", dirs, "--size", stage.size, "--seed", 1]
        self.floor("mktree", path, *words, *(["--exact"] if tree.exact else []))
        checked("sync")

    def warm(self, stage):
        """One run that is not timed: else the first tool would fill the caches for the others, and on a virtual
        machine touch memory that the host has still to provide."""
        if stage.scenario.start == "fresh":
            self.floor("floor-copy", stage.src, stage.dst, "direct", self.args.threads)
            checked("sync")
        else:
            self.floor("floor-scan", stage.src, self.args.threads)

    def remove_dst(self, stage):
        """Lets the filesystem finish with the old destination: the same for each tool, and never timed."""
        checked("rm", "-rf", "--one-file-system", str(stage.dst))
        if stage.dst_type != "tmpfs":
            checked("sync", "-f", str(stage.dst_place))
            checked("fstrim", str(stage.dst_place))

    def repeat(self, stage):
        tools = self.available(stage.scenario)
        for rep in range(1, self.args.reps + 1):
            for number, tool in enumerate(tools):
                if rep <= tool.reps_max:
                    self.run_once(stage, tool, rep, seed=rep * len(tools) + number)

    def run_once(self, stage, tool, rep, seed):
        scenario = stage.scenario
        if scenario.start == "fresh":
            self.remove_dst(stage)
        if tool.prepare:
            with LatencyMounts(self.args, stage) as (src, dst):
                checked(*(self.filled(word, stage, src, dst) for word in tool.prepare))
        for side, change, percent in scenario.changes:
            self.floor("chtree", stage.src if side == "src" else stage.dst, change, percent, seed)
        if scenario.changes:
            checked("sync")
        if scenario.cold:
            drop_caches()
        wait_until_idle(self.args.settle)
        with LatencyMounts(self.args, stage) as (src, dst):
            argv = [self.filled(word, stage, src, dst) for word in tool.argv]
            figures = {"scenario": scenario.name, "tool": tool.name, "medium": stage.medium, "rep": rep}
            figures |= run_timed(argv, self.args.timeout)
        figures |= {"files": stage.files, "bytes": stage.files * stage.size}
        wrong, check = self.check(stage)
        self.record(figures | {"wrong": wrong, "check": check})
        if check != "equal" and scenario.start == "equal":
            # The next tool gets the same start.
            self.remove_dst(stage)
            self.floor("floor-copy", stage.src, stage.dst, "direct", self.args.threads)

    @staticmethod
    def filled(word, stage, src, dst):
        return word.format(src=src, dst=dst, state=f"{stage.src}.state")

    def check(self, stage):
        """What the run left behind, in words: a fast wrong copy must not look like a good one. (wrong, words);
        times that differ are not wrong, for some tools do not copy them."""
        if stage.scenario.start == "none":
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
        print(f"  {figures['rep']} {figures['tool']:22} {figures['wall_s']:9.3f} s  {figures['check']}{failed}",
              flush=True)


def is_disturbed(figures):
    """Whether the rest of the machine was busy meanwhile."""
    return figures["other_cpu_s"] > IDLE_SHARE * figures["wall_s"] * figures["cpus"]
