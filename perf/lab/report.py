"""Tables from the raw figures."""

import json
import statistics

from .bench import is_disturbed
from .machine import KIB, MIB
from .plot import plot
from .scenarios import scenarios


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
        is_floor = any(other.floor == tool.name for other in scenario.tools)
        floor = "floor" if is_floor else spread(ratios(walls, tool.name, tool.floor))
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
    busy = [figure for figure in runs if is_disturbed(figure)]
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
    if plot(out, figures):
        lines += ["![medians of the wall times, with least and most](report.svg)", ""]
    for scenario in scenarios("ringsync", "", 0, facts.get("latency_ms", 1)):
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
