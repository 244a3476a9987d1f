#!/usr/bin/env python3
"""Prints, as markdown, what quantising the experts of examples/tiny-mixtral costs: the increase of
perplexity over bf16 on both evaluation texts, for every format and quantiser.

    tests/bench/quality.py BIN_DIR             # e.g. build/release/bin: the whole table
    tests/bench/quality.py BIN_DIR --check     # only the defaults, against the limits we hold

An increase is exp(mean difference of the nats per token) - 1; its standard error is that of the
paired differences of windows. Experts only: all other weights stay bf16. Calibrated on
calibration.txt, evaluated on the first 200 windows of 256 positions of each text.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "tiny-mixtral"
TEXTS = ["wiki.test.txt", "holmes.txt"]
CONTEXT = 256

MIX = "int2g32 and int3g32"  # 3.0 bits, by predicted sensitivity
# Largest increase, in percent, mean of the two texts, that the default may cost at these bits.
LIMITS = {"int8g64": 0.05, "int4g32": 0.45, "int3g32": 1.8, MIX: 6.0, "int2g32": 13.0}


class Bench:
    def __init__(self, bin_dir, folder, windows):
        self.bin, self.folder, self.windows = pathlib.Path(bin_dir), pathlib.Path(folder), windows
        self.stats = self.folder / "tiny.moestats"
        self.run("moeplanc", "calibrate", CHECKPOINT, "--text", CHECKPOINT / "calibration.txt",
                 "--context", CONTEXT, "-o", self.stats)
        self.baseline = self.evaluate([])

    def run(self, tool, *arguments):
        result = subprocess.run([self.bin / tool, *map(str, arguments)], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if result.returncode:
            sys.exit(result.stderr)
        return result.stdout

    def evaluate(self, options):
        """Bits per weight, and per text the nats per token of each window."""
        artifact = self.folder / "candidate.moeplan"
        self.run("moeplanc", "compile", CHECKPOINT, *options, "-o", artifact)
        plan, = json.loads(self.run("moeplan", "inspect", artifact, "--json"))["plans"]
        nll = [json.loads(self.run("moeplan", "eval", artifact, "--text", CHECKPOINT / text,
                                   "--context", CONTEXT, "--max-windows", self.windows, "--json",
                                   "--per-window"))["window_nll"] for text in TEXTS]
        return plan["expert_bits_per_weight"], nll

    def increases(self, options):
        """Bits per weight, (increase, standard error) per text and for their mean, in percent."""
        bits, nll = self.evaluate(options)
        cells = []
        for ours, base in zip(nll, self.baseline[1]):
            differences = [a - b for a, b in zip(ours, base)]
            mean = sum(differences) / len(differences)
            variance = sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
            factor = math.exp(mean)
            cells.append((100 * (factor - 1), 100 * factor * math.sqrt(variance / len(differences))))
        mean = sum(c[0] for c in cells) / 2
        cells.append((mean, math.hypot(cells[0][1], cells[1][1]) / 2))
        return bits, cells

    def options(self, name):
        """Of `moeplanc compile`, with calibration."""
        if name != MIX:
            return ["--expert-format", name, "--stats", self.stats]
        # The half of the linears (all have the same size) that gains most from a third bit has it.
        predicted = {}
        for s in json.loads(self.run("moeplanc", "stats", self.stats, "--json"))["sensitivities"]:
            predicted.setdefault(s["linear"], {})[s["format"]] = s["predicted"]
        gain = {linear: p["int2g32"] - p["int3g32"] for linear, p in predicted.items()}
        best = sorted(gain, key=gain.get, reverse=True)[:len(gain) // 2]
        path = self.folder / "mix.txt"
        path.write_text("".join(f"{linear} int3g32\n" for linear in best) + "* int2g32\n")
        return ["--expert-format-file", path, "--stats", self.stats]


def row(name, quantizer, bits, cells):
    numbers = " | ".join(f"{value:+.3f} ± {error:.3f}" for value, error in cells)
    print(f"| {name} | {quantizer} | {bits:.3f} | {numbers} |", flush=True)


def table(bench):
    print("| experts | quantiser | bits per weight | wiki.test % | holmes % | mean % |")
    print("|---|---|---:|---:|---:|---:|")
    bits, nll = bench.baseline
    perplexities = [math.exp(sum(n) / len(n)) for n in nll]
    print(f"| bf16 | - | {bits:.3f} | {perplexities[0]:.4f} | {perplexities[1]:.4f} | perplexities |")
    for bits_of_code in (8, 4, 3, 2):
        for group in (32, 64, 128):
            name = f"int{bits_of_code}g{group}"
            # Every quantiser at the group size that is the default of its bits.
            quantizers = ["rtn", "hqq", "imatrix", "gptq", "descent"] \
                if group == (64 if bits_of_code == 8 else 32) else ["default"]
            for quantizer in quantizers:
                choice = [] if quantizer == "default" else ["--quantizer", quantizer]
                row(name, quantizer, *bench.increases([*bench.options(name), *choice]))
    row(MIX, "default", *bench.increases(bench.options(MIX)))
    bits, cells = bench.increases(["--non-expert-format=int8"])
    row("bf16, the rest int8g64", "default", bits, cells)


def check(bench):
    failed = 0
    for name, limit in LIMITS.items():
        bits, cells = bench.increases(bench.options(name))
        mean, error = cells[2]
        verdict = "ok" if mean <= limit else "TOO MUCH"
        failed += mean > limit
        print(f"{name}: {bits:.3f} bits, {mean:+.3f} ± {error:.3f} %, at most {limit} %: {verdict}")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--windows", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.bin_dir, folder, arguments.windows)
        if arguments.check:
            sys.exit(check(bench))
        table(bench)


main()
