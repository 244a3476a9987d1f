#!/usr/bin/env python3
"""Prints, as markdown, how fast synthetic models of examples/configs decode and take a prompt, beside
what the machine's memory and arithmetic allow.

    tests/bench/speed.py BIN_DIR [--models NAME,...] [--formats FORMAT,...] [--threads N,...] [--batch N]

Shares are medians over repetitions, each with the bandwidth measured right before and after it; the
spread is that of the share. See `moeplan bench --help` for what each counts.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
# int3 and int2 are for experts; attention and head then are int4.
DENSE = {"int3g32": "int4g32", "int2g32": "int4g32"}


def run(*command):
    result = subprocess.run(list(map(str, command)), text=True, capture_output=True)
    if result.returncode:
        sys.exit(result.stderr)
    return result.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", type=pathlib.Path)
    parser.add_argument("--models", default="mixtral-8x7b-2layers,medium")
    parser.add_argument("--formats", default="bf16,int8g64,int4g32,int3g32,int2g32")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()

    print("| model | experts | threads | decode, tokens/s | GB/s | share of bandwidth (min to max) "
          "| prefill 512, tokens/s | share of arithmetic |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        artifact = pathlib.Path(folder) / "model.moeplan"
        for model in arguments.models.split(","):
            for name in arguments.formats.split(","):
                run(arguments.bin_dir / "moeplanc", "compile", "--config",
                    ROOT / "examples" / "configs" / f"{model}.json", "--synthetic", 1,
                    f"--expert-format={name}", f"--non-expert-format={DENSE.get(name, name)}",
                    "-o", artifact)
                for threads in arguments.threads.split(","):
                    row = json.loads(run(
                        arguments.bin_dir / "moeplan", "bench", artifact, "--prompt-tokens", 512,
                        "--gen-tokens", 32, "--batch", arguments.batch, "--threads", threads,
                        "--repetitions", arguments.repetitions, "--output=json"))
                    share = row["bandwidth_share"]
                    print(f"| {model} | {name} | {threads} "
                          f"| {row['decode_tokens_per_second']['median']:.1f} "
                          f"| {row['read_bandwidth']['median'] / 1e9:.1f} "
                          f"| {share['median']:.2f} ({share['min']:.2f} to {share['max']:.2f}) "
                          f"| {row['prefill_tokens_per_second']['median']:.0f} "
                          f"| {row['arithmetic_share']['median']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
