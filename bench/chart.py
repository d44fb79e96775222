"""The picture in the README: how many times better than the other server, load by load."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.history import Record

CHART: Final = Path(__file__).parent.parent / "docs" / "bench.png"
COLOURS: Final = {"same": "#2b6cb0", "cross": "#dd8b27", "hosts": "#8d5aa8", "any": "#5a8f57"}
LEGEND: Final = {
    "same": "publisher and subscriber on one worker",
    "cross": "on different workers",
    "hosts": "on two hosts of a cluster",
    "any": "wherever the kernel puts them",
}
ROW_INCHES: Final = 0.24


class ChartError(Exception):
    """There is nothing to draw."""


def scaled(value: float) -> str:
    """A figure as it fits beside a bar: 1.23 M, 45.6 k, 7.8."""
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def caption(record: Record) -> str:
    """Both servers' figures: what stands beside a bar."""
    first, second = (scaled(record.results[label].median) for label in record.servers)
    return f"{record.ratio:.2f}x   {first} : {second} {record.unit}"


def draw(records: Sequence[Record], path: Path) -> None:
    """One horizontal bar for each record, from the top in their order, and a line at 1."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    drawn = [record for record in records if record.ratio is not None]
    if not drawn:
        raise ChartError("the history holds no ratio")
    ratios = [record.ratio or 0.0 for record in drawn]
    figure, axes = plt.subplots(figsize=(11, 1.6 + ROW_INCHES * len(drawn)), layout="constrained")
    places = range(len(drawn))
    axes.barh(places, ratios, height=0.72, color=[COLOURS[record.variant] for record in drawn])
    axes.set_yticks(places, [f"{record.load}  {record.metric}" for record in drawn], fontsize=8)
    axes.invert_yaxis()
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(min(0.5, min(ratios) * 0.8), max(2.0, *ratios) * 6)
    axes.axvline(1.0, color="black", linewidth=1.2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.grid(axis="x", which="major", color="#dddddd", zorder=0)
    axes.set_axisbelow(True)
    for place, record in zip(places, drawn, strict=True):
        axes.annotate(
            caption(record),
            (record.ratio or 0.0, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            # Where a caption crosses the line at 1, the caption wins.
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    last = drawn[-1]
    first, second = list(last.servers)
    axes.set_title(
        f"{first} against {second} ({last.servers[second]}): times better, {first} : {second}\n"
        f"{last.machine['cores']} cores, {last.machine['cpu']}, {last.date[:10]}, {last.commit}",
        fontsize=10,
    )
    used = {record.variant for record in drawn}
    figure.legend(
        handles=[Patch(color=COLOURS[each], label=LEGEND[each]) for each in LEGEND if each in used],
        loc="outside lower center",
        ncols=4,
        fontsize=8,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
