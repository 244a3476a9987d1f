#!/usr/bin/env python3
"""Prints, as markdown, our planner beside that of arXiv 2407.14417 on examples/tiny-mixtral: for every
budget both placements, their bytes and the perplexity that they really have.

    tests/bench/frontier.py BIN_DIR            # e.g. build/release/bin
    tests/bench/frontier.py BIN_DIR --check    # fails where ours takes more bytes, or is worse by more
                                               # than two standard errors of the difference

    tests/bench/frontier.py BIN_DIR --paper    # the ten budgets of the paper for Mixtral 8x7B on its
                                               # machine, as predicted

Ours may take what the paper's plan takes. Both know the same formats and sensitivities; the paper uses
16 and 4 bits, and chooses which experts have 4 at random. Calibrated on calibration.txt, evaluated on the
first 100 windows of 256 positions of wiki.test.txt. Everything but the speeds is deterministic.
"""
import argparse
import csv
import math
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "tiny-mixtral"


def run(tool, *arguments):
    result = subprocess.run([tool, *map(str, arguments)], text=True, stderr=subprocess.PIPE)
    if result.returncode:
        sys.exit(result.stderr)


def points_of(folder):
    with open(pathlib.Path(folder) / "frontier.csv") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def paper_table(moeplanc):
    budgets = [27.68, 30.50, 33.32, 36.13, 38.95, 41.76, 44.58, 47.40, 50.21, 53.03]
    with tempfile.TemporaryDirectory() as folder:
        run(moeplanc, "explore", "--config", ROOT / "examples" / "configs" / "mixtral-8x7b.json",
            "--policy", ROOT / "examples" / "policies" / "paper-budgets.toml", "--budgets",
            ",".join(f"{budget:.2f}GB" for budget in budgets), "-o", folder)
        points = points_of(folder)

    def cells(row):
        return (f"{100 * float(row['perplexity_increase']):+.2f} | "
                f"{float(row['tokens_per_second']):.1f} | {float(row['bits_per_weight']):.2f}")

    print("| budget, GB | the paper: perplexity % | tokens/s | bits | moeplan: perplexity % "
          "| tokens/s | bits |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for budget in budgets:
        size = f"{budget:.2f}GB"
        print(f"| {budget:.2f} | {cells(points['paper-' + size])} "
              f"| {cells(points['ours-' + size])} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--points", type=int, default=6)
    arguments = parser.parse_args()
    moeplanc = arguments.bin_dir / "moeplanc"
    if arguments.paper:
        return paper_table(moeplanc)
    with tempfile.TemporaryDirectory() as folder:
        stats = pathlib.Path(folder) / "tiny.moestats"
        run(moeplanc, "calibrate", CHECKPOINT, "--text", CHECKPOINT / "calibration.txt",
            "--context", 256, "--formats", "int8g64,int4g32,int4g128,int3g32,int2g32", "-o", stats)
        run(moeplanc, "explore", CHECKPOINT, "--stats", stats, "--points", arguments.points, "--measure", "--text",
            CHECKPOINT / "wiki.test.txt", "--context", 256, "--max-windows", arguments.windows,
            "-o", folder)
        points = points_of(folder)

    print("| planner | budget, MB | bytes | bits per weight | perplexity, predicted % | measured % |")
    print("|---|---:|---:|---:|---:|---:|")
    failures = []
    for name, row in points.items():
        print(f"| {'the paper' if row['planner'] == 'paper' else 'moeplan'} "
              f"| {float(row['budget_bytes']) / 1e6:.2f} | {row['host_bytes']} "
              f"| {float(row['bits_per_weight']):.3f} | {100 * float(row['perplexity_increase']):+.3f} "
              f"| {100 * float(row['measured_perplexity_increase']):+.3f} "
              f"± {100 * float(row['measured_standard_error']):.3f} |")
        if row["planner"] != "paper":
            continue
        ours = points[name.replace("paper-", "ours-")]
        excess = (float(ours["measured_perplexity_increase"])
                  - float(row["measured_perplexity_increase"]))
        noise = math.hypot(float(ours["measured_standard_error"]),
                           float(row["measured_standard_error"]))
        if int(ours["host_bytes"]) > int(row["host_bytes"]):
            failures.append(f"{ours['name']} takes more bytes than {name}")
        if excess > 2 * noise:
            failures.append(f"{ours['name']} is worse than {name} by {100 * excess:.3f} %")
    if not any(row["planner"] == "paper" for row in points.values()):
        failures.append("the paper's planner has no point")
    if arguments.check and failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
