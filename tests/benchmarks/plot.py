"""Bars of mails a second by sender. Run in the peers' environment; takes the plot's path, and JSON on its input."""

import json
import sys

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    """Draw one bar for each sender, with its range."""
    rates: dict[str, list[float]] = json.load(sys.stdin)
    rows = sorted((sorted(values)[len(values) // 2], min(values), max(values), name) for name, values in rates.items())
    medians, lows, highs, names = zip(*rows, strict=True)
    errors = [[m - low for m, low in zip(medians, lows, strict=True)]]
    errors.append([high - m for m, high in zip(medians, highs, strict=True)])
    colours = ["#1f77b4" if name.startswith("ours") else "#9a9a9a" for name in names]
    figure, axes = plt.subplots(figsize=(9, 4.5))
    bars = axes.barh([name.replace("`", "") for name in names], medians, xerr=errors, color=colours, capsize=2)
    axes.bar_label(bars, labels=[f"{value:.1f}" for value in medians], padding=6)
    axes.set_xlabel("mails a second, round trips of 50 ms (more is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.1)
    figure.tight_layout()
    figure.savefig(sys.argv[1], dpi=110, metadata={"Software": None})


main()
