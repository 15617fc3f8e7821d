"""Pictures of the figures, where matplotlib is installed (Debian: python3-matplotlib)."""

import statistics

OURS, THEIRS, FLOOR = "#1f77b4", "#b0b0b0", "#8fbc8f"
ROW_INCHES, WIDTH_INCHES = 0.3, 9


def color_of(tool):
    if tool.startswith("ringsync"):
        return OURS
    return FLOOR if tool.startswith("floor") else THEIRS


def plot(out, figures):
    """Writes out/report.svg and out/report.png: a panel for each scenario and medium, bars of median wall times
    with the least and the most. Returns whether it could."""
    try:
        import matplotlib
    except ImportError:
        print("pictures skipped: no matplotlib (Debian: apt install python3-matplotlib)")
        return False
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ringsync"  # the same figures, the same file
    from matplotlib import pyplot

    panels = {}
    for figure in figures:
        if figure["rc"] == 0 and not figure["wrong"]:
            rows = panels.setdefault((figure["scenario"], figure["medium"]), {})
            rows.setdefault(figure["tool"], []).append(figure["wall_s"])
    if not panels:
        return False
    heights = [len(rows) + 1.5 for rows in panels.values()]
    sheet, axes = pyplot.subplots(
        len(panels), 1, figsize=(WIDTH_INCHES, ROW_INCHES * sum(heights)), squeeze=False, layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    for axis, ((scenario, medium), rows) in zip(axes[:, 0], panels.items()):
        middle = [statistics.median(walls) for walls in rows.values()]
        reach = [
            [median - min(walls) for median, walls in zip(middle, rows.values())],
            [max(walls) - median for median, walls in zip(middle, rows.values())],
        ]
        bars = axis.barh(list(rows), middle, xerr=reach, color=[color_of(tool) for tool in rows], ecolor="#404040")
        axis.bar_label(bars, [f"{median:.2f} s" for median in middle], padding=4, fontsize=8)
        axis.set_title(f"{scenario}, {medium}", fontsize=10, loc="left")
        axis.margins(x=0.15)
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
    sheet.savefig(out / "report.svg", metadata={"Date": None})
    sheet.savefig(out / "report.png", dpi=110)
    pyplot.close(sheet)
    return True
