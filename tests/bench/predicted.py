#!/usr/bin/env python3
"""Prints, as markdown, how long the formula of compiler/profile/profile.h says that a decode step takes
beside what it takes.

    tests/bench/predicted.py BIN_DIR [--profile FILE] [--probe FILE...] [--models NAME,...]

Makes a profile, unless one is given, compiles plans of models that it was not made with, measures them
with `moeplan bench`, and predicts from what `moeplan inspect` says. Both are the best of several:
other work on the machine only ever adds to them.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMATS = ["bf16", "int8g64", "int4g32", "int3g32", "int2g32"]
DENSE = {"int3g32": "int4g32", "int2g32": "int4g32"}
PROMPT, STEPS = 512, 16
MODELS = {
    "tiny-mixtral": [ROOT / "examples" / "tiny-mixtral"],
    "medium": ["--config", ROOT / "examples" / "configs" / "medium.json", "--synthetic", 1],
}


def run(*command):
    result = subprocess.run(list(map(str, command)), text=True, capture_output=True)
    if result.returncode:
        sys.exit(result.stderr)
    return result.stdout


def policy():
    """One plan for each format, and one that mixes them."""
    text = ""
    for name in FORMATS:
        text += (f'[[tier]]\nname = "{name}"\nnon_expert_format = "{DENSE.get(name, name)}"\n'
                 f'pin = [{{ experts = "*", format = "{name}" }}]\n')
    return text + ('[[tier]]\nname = "mix"\nnon_expert_format = "int8g64"\npin = [\n'
                   '  { experts = "*.w2", format = "int4g32" },\n'
                   '  { experts = "layers.0.*", format = "bf16" },\n'
                   '  { experts = "*", format = "int2g32" },\n]\n')


def predicted_seconds(profile, description, plan):
    """The formula, for a step in the middle of those that are measured."""
    model, host = description["model"], profile["host"]
    routed = model["num_experts_per_tok"] / model["num_experts"]
    held, vectors, matrices = 0, 0, {}
    for segment in description["segments"]:
        if segment["kind"] != "weight" or plan not in segment["plans"]:
            continue
        held += segment["bytes"]
        if segment["name"].startswith("embedding@") and not model["tie_word_embeddings"]:
            continue
        read = segment["bytes"] * (routed if ".experts." in segment["name"] else 1)
        if segment["format"] == "f32":
            vectors += read
        else:
            width = segment["format"].split("g")[0]
            matrices[width] = matrices.get(width, 0) + read
    cached = min(1, host.get("cache_bytes", 0) / held)
    decode = host.get("decode", {})
    element = {"f32": 4, "bf16": 2, "int8": 1}[model["kv_cache_format"]]
    keys_and_values = (2 * model["num_layers"] * model["num_attention_heads"] * model["head_dim"]
                       * element * (PROMPT + (STEPS + 1) / 2))
    seconds = (decode.get("token_seconds", 0) + model["num_layers"] * decode.get("layer_seconds", 0)
               + vectors / host["read_bytes_per_second"] + keys_and_values
               / decode.get("kv_bytes_per_second", host["read_bytes_per_second"]))
    for width, read in matrices.items():
        rate = host["kernels"][width]
        memory = rate["decode_bytes_per_second"]
        seconds += read * (cached / rate.get("decode_cached_bytes_per_second", memory)
                           + (1 - cached) / memory)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", type=pathlib.Path)
    parser.add_argument("--profile", type=pathlib.Path, help="instead of one that is made")
    parser.add_argument("--probe", nargs="+", default=[], help="for `moeplan profile`")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the artifacts and the profile")
    parser.add_argument("--repetitions", type=int, default=15)
    arguments = parser.parse_args()
    moeplan, moeplanc = arguments.bin_dir / "moeplan", arguments.bin_dir / "moeplanc"

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or pathlib.Path(temporary)
        folder.mkdir(exist_ok=True)
        (folder / "policy.toml").write_text(policy())
        for name in arguments.models.split(","):
            if not (folder / f"{name}.moeplan").exists():
                run(moeplanc, "compile", *MODELS[name], "--policy", folder / "policy.toml", "-o",
                    folder / f"{name}.moeplan")
        path = arguments.profile
        if not path:
            path = folder / "machine.toml"
            probes = ["--probe", *arguments.probe] if arguments.probe else []
            run(moeplan, "profile", "-o", path, *probes)
        profile = tomllib.loads(path.read_text())

        print("| model | plan | measured, ms | predicted, ms | deviation | median of the measured, ms |")
        print("|---|---|---:|---:|---:|---:|")
        worst = 0
        for name in arguments.models.split(","):
            artifact = folder / f"{name}.moeplan"
            description = json.loads(run(moeplan, "inspect", "--json", artifact))
            for plan in FORMATS + ["mix"]:
                row = json.loads(run(moeplan, "bench", artifact, "--plan", plan, "--prompt-tokens",
                                     PROMPT, "--gen-tokens", STEPS, "--repetitions",
                                     arguments.repetitions, "--threads", profile["host"]["threads"],
                                     "--output=json"))["decode_tokens_per_second"]
                measured = 1 / row["max"]
                predicted = predicted_seconds(profile, description, plan)
                deviation = predicted / measured - 1
                worst = max(worst, abs(deviation))
                print(f"| {name} | {plan} | {1e3 * measured:.3f} | {1e3 * predicted:.3f} "
                      f"| {100 * deviation:+.1f} % | {1e3 / row['median']:.3f} |", flush=True)
        print(f"\nlargest deviation: {100 * worst:.1f} %")


if __name__ == "__main__":
    main()
