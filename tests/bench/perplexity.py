#!/usr/bin/env python3
"""Prints, as markdown, moeplan's perplexity beside the reference's for every entry of
tests/golden/perplexity.json.

    tests/bench/perplexity.py BIN_DIR     # e.g. build/release/bin
"""
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "tiny-mixtral"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    bin_dir = pathlib.Path(sys.argv[1])
    print("| text | context | windows | reference perplexity | moeplan | difference |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        artifact = pathlib.Path(folder) / "tiny.moeplan"
        subprocess.run([bin_dir / "moeplanc", "compile", CHECKPOINT, "-o", artifact], check=True)
        for entry in json.loads((ROOT / "tests" / "golden" / "perplexity.json").read_text()):
            command = [bin_dir / "moeplan", "eval", artifact, "--json", "--text", CHECKPOINT / entry["text"],
                       "--context", str(entry["context"]), "--max-windows", str(entry["windows"])]
            ours = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            assert ours["tokens"] == entry["tokens"], (ours, entry)
            difference = ours["perplexity"] / entry["perplexity"] - 1
            print(f"| {entry['text']} | {entry['context']} | {entry['windows']} "
                  f"| {entry['perplexity']:.4f} | {ours['perplexity']:.4f} | {difference:+.5%} |", flush=True)


main()
