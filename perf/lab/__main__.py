"""Measures tools against each other and writes the figures, tables and pictures.

    python3 -m lab measure --out DIR --floors DIR --place MEDIUM=PATH ... [options]     (perf/run calls this)
    python3 -m lab table DIR      writes DIR/report.* again from DIR/figures.jsonl and DIR/facts.json

Runs are interleaved (A B C A B C ...), so that a machine that slows down slows all tools, and ratios are taken
within a repetition.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from .bench import Bench
from .machine import Stopped, machine_facts, on_stop
from .report import write_report
from .scenarios import scenarios


def measure(args):
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, on_stop)
    known = {scenario.name: scenario for scenario in scenarios(args.ringsync, args.floors, args.threads, args.latency)}
    wanted = args.scenarios.split(",") if args.scenarios else list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    bench = Bench(args)
    bench.out.mkdir(parents=True)
    (bench.out / "figures.jsonl").touch()
    facts = {"date": time.strftime("%Y-%m-%d"), "host": args.host, "machine": machine_facts(args),
             "versions": bench.versions, "latency_ms": args.latency, "notes": bench.notes}
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
    verb.add_argument("--latencyfs", help="the binary; without it slow scenarios are left out")
    verb.add_argument("--scenarios", default="")
    verb.add_argument("--media", default="")
    verb.add_argument("--reps", type=int)
    verb.add_argument("--files", type=int)
    verb.add_argument("--quick", action="store_true")
    verb.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    verb.add_argument("--latency", type=float, default=1)
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
