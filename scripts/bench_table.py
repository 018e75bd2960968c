"""Medians, ratios and the table: what `scripts/bench` writes at the end."""

from __future__ import annotations

import json
import os
import platform
import statistics
from pathlib import Path

from bench_rows import Bench, Row


def median(bench: Bench, row: Row, tool_name: str) -> float | None:
    """Return a row's value for a tool; the largest one where it is memory."""
    values = bench.samples.get(row.name, {}).get(tool_name)
    if not values:
        return None
    return max(values) if row.name.endswith("memory") else statistics.median(values)


def _shown(value: float | None, row: Row) -> str:
    if value is None:
        return ""
    return f"{value:.0f} {row.unit}" if value >= 100 else f"{value:.3g} {row.unit}"


def _verdict(bench: Bench, row: Row) -> tuple[str, str]:
    """Return how coopfs compares with the better peer, and what was to be reached."""
    own = median(bench, row, "coopfs")
    peers = [
        value
        for tool in bench.tools
        if tool.name != "coopfs" and (value := median(bench, row, tool.name)) is not None
    ]
    ratio = ""
    if own and peers:
        times = own / max(peers) if row.unit == "MB/s" else min(peers) / own
        ratio = f"{times:.2f}"
    if row.target is not None:
        return ratio, f"≥ {row.target:.2f}"
    return ratio, f"< {row.limit:g} {row.unit}" if row.limit is not None else ""


def table(bench: Bench, rounds: int) -> str:
    """Return the results as a list-table in reStructuredText, with what it was run on."""
    names = [tool.name for tool in bench.tools]
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "",
        *_cells(["", *names, "times better", "to reach"]),
    ]
    for row in bench.rows:
        if row.name in bench.samples:
            values = [_shown(median(bench, row, name), row) for name in names]
            lines += _cells([row.title, *values, *_verdict(bench, row)])
    versions = ", ".join(tool.version() for tool in bench.tools)
    lines += [
        "",
        f"{versions}; medians of {rounds} rounds (memory: the highest); {os.cpu_count()} cores,",
        f'Linux {platform.release()}, Python {platform.python_version()}.  "Times better" is',
        "against the better of the peers.",
    ]
    return "\n".join(lines) + "\n"


def _cells(cells: list[str]) -> list[str]:
    return [
        f"   {'*' if number == 0 else ' '} - {cell}".rstrip() for number, cell in enumerate(cells)
    ]


def screen_table(bench: Bench) -> str:
    """Return the results with aligned columns."""
    names = [tool.name for tool in bench.tools]
    grid = [["", *names, "times", "to reach"]]
    for row in bench.rows:
        if row.name in bench.samples:
            values = [_shown(median(bench, row, name), row) for name in names]
            grid.append([row.title, *values, *_verdict(bench, row)])
    widths = [max(len(line[column]) for line in grid) for column in range(len(grid[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in grid
    )


def write_results(bench: Bench, rounds: int, output: Path) -> None:
    """Write the table to *output* and every single value beside it as JSON."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(table(bench, rounds))
    raw = {"samples": bench.samples, "cpu_s": bench.cpu}
    output.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
