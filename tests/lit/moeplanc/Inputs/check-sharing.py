"""Checks the output of `moeplan inspect --json` for the artifact of examples/policies/two-tiers.toml."""
import json
import sys

artifact = json.load(open(sys.argv[1]))
assert [plan["name"] for plan in artifact["plans"]] == ["small", "precise"]
plans = {s["name"]: s["plans"] for s in artifact["segments"] if s["kind"] == "weight"}
both, small, precise = ["small", "precise"], ["small"], ["precise"]

# What is outside the experts is shared, and so are the experts with the same format in both plans.
assert plans["embedding@bf16"] == both
assert plans["layers.0.router@f32"] == both
assert plans["layers.2.experts.5.w1@bf16"] == both
assert plans["layers.1.experts.5.w1@bf16"] == both

# A linear with two formats is there twice.
assert plans["layers.0.experts.5.w1@bf16"] == small
assert plans["layers.0.experts.5.w1@f32"] == precise
assert plans["layers.1.experts.5.w2@bf16"] == small
assert plans["layers.1.experts.5.w2@f32"] == precise

# 32 of layer 0's and layer 1's linears twice (8 * 3 + 3 + 7), nothing else.
names = [name.rsplit("@", 1)[0] for name in plans]
assert len(names) - len(set(names)) == 8 * 3 + 3 + 7, len(names) - len(set(names))

libraries = [library["target_cpu"] for library in artifact["libraries"]]
assert libraries == ["x86-64-v2", "x86-64-v3", "x86-64-v4"], libraries
