"""Scores anomaly scores on the Numenta Anomaly Benchmark (Lavin and Ahmad, 2015), by the rules of its paper.

    score.py NAB SCORES...

`NAB` is a checkout of github.com/numenta/NAB; each of `SCORES` a folder with one CSV for each of its data files, by the same
path, with a column `anomaly_score`, the greater the odder. Prints a JSON object a folder: the score of each profile, 0 for a
detector that says nothing, 100 for a perfect one, at the threshold that is best for it, which is how the published table is
made: of the results that lie in the checkout this gives the figures of its `results/final_results.json`.

The scores of the agent's rule `deviates`:

    cargo run --release -p tributary-agent --example anomaly_scores -- NAB/data scores/deviates
"""

import csv
import json
import math
import pathlib
import sys

PROFILES = {"standard": (0.11, 1.0), "reward_low_FP_rate": (0.22, 1.0), "reward_low_FN_rate": (0.11, 2.0)}
BEST = 2 / (1 + math.exp(-5)) - 1


def sigmoid(position: float) -> float:
    """What a detection is worth: 1 nearly at the start of a window, 0 at its end, -1 far behind it."""
    return -1.0 if position > 3 else 2 / (1 + math.exp(5 * position)) - 1


def points(times, scores, windows, name):
    """(score, window or None, worth before weights) of each row that counts."""
    rows, index = [], {t: i for i, t in enumerate(times)}
    limits = [(index[a], index[b]) for a, b in windows]
    probation = min(math.floor(0.15 * len(times)), 0.15 * 5000)
    for i, score in enumerate(scores):
        inside = next(((a, b) for a, b in limits if a <= i <= b), None)
        if i < probation:
            continue
        if inside:
            a, b = inside
            rows.append((score, (name, a), sigmoid(-(b - i + 1) / (b - a + 1)) / BEST))
            continue
        before = [(a, b) for a, b in limits if b < i]
        worth = -1.0
        if before:
            a, b = before[-1]
            worth = sigmoid((i - b) / (b - a))
        rows.append((score, None, worth))
    return rows


def best(rows, false_positive, false_negative):
    """The greatest sum over all thresholds."""
    rows = sorted(rows, key=lambda r: -r[0])
    found = {window: -false_negative for _, window, _ in rows if window}
    total, count = sum(found.values()), len(found)
    greatest, at, threshold = total, 1.1, 1.1
    for i, (score, window, worth) in enumerate(rows):
        if score != threshold:
            if total > greatest:
                greatest, at = total, threshold
            threshold = score
        if window is None:
            total += worth * false_positive
        elif worth > found[window]:
            total += worth - found[window]
            found[window] = worth
    if total > greatest:
        greatest, at = total, threshold
    nothing, perfect = -false_negative * count, count
    return 100 * (greatest - nothing) / (perfect - nothing), at


def main():
    nab = pathlib.Path(sys.argv[1])
    windows = json.loads((nab / "labels" / "combined_windows.json").read_text())
    for folder in map(pathlib.Path, sys.argv[2:]):
        rows = []
        for name in sorted(windows):
            directory, file = name.split("/")
            path = next(p for p in (folder / name, folder / directory / f"{folder.name}_{file}") if p.exists())
            with open(path) as f:
                read = list(csv.DictReader(f))
            limits = [tuple(t.removesuffix(".000000") for t in window) for window in windows[name]]
            rows += points([r["timestamp"] for r in read], [float(r["anomaly_score"]) for r in read], limits, name)
        scored = {name: best(rows, *weights) for name, weights in PROFILES.items()}
        print(json.dumps({"detector": folder.name, **{name: round(s, 2) for name, (s, _) in scored.items()},
                          "threshold": scored["standard"][1]}))


main()
