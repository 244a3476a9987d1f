#!/usr/bin/env python3
"""Prints, as markdown, what a session notices when its plan changes while it decodes, on the CPU and on
an emulated device, and with --baseline how fast it decodes beside another build.

    tests/bench/switches.py BIN_DIR [--models tiny,medium] [--switches N] [--baseline OTHER_BIN_DIR]

Plans are exchanged between int8 and int4 for all weights, without a pause for staging. With one thread, so
that a core is left for staging on a machine of two. See `moeplan bench --help`.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEVICES = ["cpu", "emu:copy=1GB/s,latency=10us"]
TIERS = """
[[tier]]
name = "int8"
non_expert_format = "int8"
pin = [{ experts = "*", format = "int8"%s }]
[[tier]]
name = "int4"
non_expert_format = "int4"
pin = [{ experts = "*", format = "int4"%s }]
"""


def run(*command):
    result = subprocess.run(list(map(str, command)), text=True, capture_output=True)
    if result.returncode:
        sys.exit(result.stderr)
    return result.stdout


def compile_artifacts(bin_dir, model, folder):
    """An artifact per device: {device: path}."""
    checkpoint = ROOT / "examples" / "tiny-mixtral"
    if model != "tiny":
        checkpoint = folder / model
        run(bin_dir / "moeplanc", "synth", "--config",
            ROOT / "examples" / "configs" / f"{model}.json", "-o", checkpoint)
    artifacts = {}
    for device in DEVICES:
        on_device = device != "cpu"
        policy = folder / "policy.toml"
        residency = ', residency = "device"' if on_device else ""
        policy.write_text(TIERS % (residency, residency))
        artifacts[device] = folder / f"{model}-{len(artifacts)}.moeplan"
        profile = ["--profile", ROOT / "examples" / "profiles" / "rtx4090-24gb.toml"]
        run(bin_dir / "moeplanc", "compile", checkpoint, "--policy", policy, "-o",
            artifacts[device], *(profile if on_device else []))
    return artifacts


def print_row(model, device, row):
    def pair(key, factor=1.0, digits=2):
        return f"{row[key]['p50'] * factor:.{digits}f} / {row[key]['p99'] * factor:.{digits}f}"

    moved, needed = row["moved_bytes"], row["needed_bytes"]
    share = f"{row['bandwidth_share']:.2f}" if device != "cpu" else "-"
    print(f"| {model} | {device} | {row['token_seconds'] * 1e3:.3f} "
          f"| {row['cold_token_seconds'] * 1e3:.3f} | {pair('stall_seconds', 1e3, 3)} "
          f"| {pair('stall_ratio')} | {pair('ordinary_ratio')} "
          f"| {row['staging_seconds']['p50'] * 1e3:.1f} "
          f"| {moved / row['switches'] / 2**20:.2f} {'=' if moved == needed else '!='} "
          f"{needed / row['switches'] / 2**20:.2f} | {share} |")


def decode_rate(bin_dir, artifact, tokens):
    ids = "1," + ",".join(str(3 + i * 37 % 1900) for i in range(20))
    lines = run(bin_dir / "moeplan", "run", artifact, "--token-ids", ids, "--max-tokens", tokens,
                "--ignore-eos", "--threads", 1, "--json").splitlines()
    return json.loads(lines[-1])["decode_tokens_per_second"]


def compare(bin_dir, baseline, artifact, tokens, repetitions):
    """Medians and best of two builds, in turn."""
    rates = {bin_dir: [], baseline: []}
    for i in range(repetitions):
        for build in sorted(rates, reverse=i % 2 == 0):
            rates[build].append(decode_rate(build, artifact, tokens))
    return [measure(rates[bin_dir]) / measure(rates[baseline])
            for measure in (statistics.median, max)]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", type=pathlib.Path)
    parser.add_argument("--models", default="tiny,medium")
    parser.add_argument("--switches", type=int, default=100)
    parser.add_argument("--baseline", type=pathlib.Path)
    parser.add_argument("--repetitions", type=int, default=21)
    arguments = parser.parse_args()

    print("| model | device | token, ms | with cold caches | stall, ms (p50 / p99) "
          "| over the median token | ordinary tokens over it | staging, ms | moved, MiB = difference "
          "| share of the link |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for model in arguments.models.split(","):
            artifacts = compile_artifacts(arguments.bin_dir, model, folder)
            for device, artifact in artifacts.items():
                print_row(model, device, json.loads(run(
                    arguments.bin_dir / "moeplan", "bench", artifact, "--switches",
                    arguments.switches, "--threads", 1, "--device", device, "--bandwidth-share", 1,
                    "--output", "json")))
                sys.stdout.flush()
            if arguments.baseline:
                tokens = 1900 if model == "tiny" else 128
                ratios.append((model, *compare(arguments.bin_dir, arguments.baseline,
                                               artifacts["cpu"], tokens, arguments.repetitions)))
            for artifact in artifacts.values():
                artifact.unlink()
    for model, median, best in ratios:
        print(f"\n{model}: decoding without a switch, beside the baseline: median {median:.4f}, "
              f"best {best:.4f}")


if __name__ == "__main__":
    main()
