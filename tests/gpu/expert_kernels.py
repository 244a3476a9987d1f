#!/usr/bin/env python3
"""Checks and times the CUDA expert kernels on the GPU at hand; needs CuPy and NumPy.

  tests/gpu/expert_kernels.py            every format against float64, then the shapes of Mixtral 8x7B
  tests/gpu/expert_kernels.py --check    the first alone

Weights are random bytes, which are valid weights of every format; the reference decodes them by the
description in schemas/kernel_abi.h. Bandwidth is bytes of weights over time, as a share of what a
copy within the device's memory reaches (bytes read and written) in the same run.
"""
import hashlib
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMATS = {"bf16": 2, "int8g32": 3, "int8g64": 4, "int8g128": 5, "int4g32": 6, "int4g64": 7,
           "int4g128": 8, "int3g32": 9, "int3g64": 10, "int3g128": 11, "int2g32": 12,
           "int2g64": 13, "int2g128": 14}
STDINT = """typedef signed char int8_t; typedef unsigned char uint8_t; typedef short int16_t;
typedef unsigned short uint16_t; typedef int int32_t; typedef unsigned uint32_t;
typedef long long int64_t; typedef unsigned long long uint64_t; typedef unsigned long uintptr_t;
"""


def bits_and_group(fmt):
    bits, group = fmt[3:].split("g")
    return int(bits), int(group)


def weight_bytes(fmt, rows, columns):
    tiles = (rows + 15) // 16
    if fmt == "bf16":
        return tiles * ((columns + 3) // 4 * 2) * 64
    bits, group = bits_and_group(fmt)
    return tiles * ((columns + 31) // 32 * bits * 64 + (columns + group - 1) // group * 32)


def random_weight(rng, fmt, rows, columns):
    size = weight_bytes(fmt, rows, columns)
    if fmt == "bf16":
        values = (rng.standard_normal(size // 2).astype(np.float32) * 0.05).view(np.uint32) >> 16
        return values.astype(np.uint16).view(np.uint8)
    raw = rng.integers(0, 256, size, dtype=np.uint8)
    bits, group = bits_and_group(fmt)
    tile = size // ((rows + 15) // 16)
    for start in range(0, size, tile):  # scales near 2^-6, zeros in the middle of the codes
        for first in range(0, (columns + 31) // 32, group // 32):
            count = min(group // 32, (columns + 31) // 32 - first)
            at = start + first * bits * 64 + first // (group // 32) * 32 + count * bits * 64
            raw[at:at + 16] = rng.integers(120, 136, 16)
            raw[at + 16:at + 32] = rng.integers(112, 144, 16)
    return raw


def decode(raw, fmt, rows, columns):
    """float64 [rows, columns]."""
    out = np.zeros((rows, columns))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    if fmt == "bf16":
        pairs = (columns + 3) // 4 * 2
        index = ((row // 16 * pairs + column // 2) * 16 + row % 16) * 2 + column % 2
        return (raw.view(np.uint16)[index].astype(np.uint32) << 16).view(np.float32).astype(float)
    bits, group = bits_and_group(fmt)
    blocks, per = (columns + 31) // 32, group // 32
    tile = blocks * bits * 64 + (columns + group - 1) // group * 32
    block = column // 32
    base = row // 16 * tile + block // per * (per * bits * 64 + 32) + block % per * bits * 64
    quad, byte = column % 32 // 4, column % 4

    def field(word, shift, width):
        return raw[base + (word * 16 + row % 16) * 4 + byte] >> shift & ((1 << width) - 1)
    if bits == 3:
        code = field(quad // 4, 2 * (quad % 4), 2) | field(2 + 0 * quad, quad, 1) << 2
    else:
        code = field(quad // (8 // bits), bits * (quad % (8 // bits)), bits)
    count = np.minimum(per, blocks - block // per * per)
    at = row // 16 * tile + block // per * (per * bits * 64 + 32) + count * bits * 64 + row % 16
    scale = ((raw[at].astype(np.uint32) << 20) + (103 << 23)).view(np.float32).astype(float)
    out[:] = scale * (code.astype(float) - raw[at + 16].astype(float) * 2.0**bits / 256)
    return out


def source(name, parameters, constants):
    members = "".join(f"  static constexpr {'double' if isinstance(v, float) else 'long long'} {k} = {v};\n"
                      for k, v in constants.items())
    names = ["step"] + [p.split()[-1].lstrip("*") for p in parameters]
    declared = ", ".join(["const moeplan_step *step"] + parameters)
    # CuPy's cache knows a kernel by this text, which names what it includes.
    digest = hashlib.sha256(b"".join(f.read_bytes() for f in sorted((ROOT / "kernels/cuda").glob("*.cuh"))))
    return (f'// {digest.hexdigest()}\n#include "experts.cuh"\nstruct Constants {{\n{members}}};\nextern "C" __global__ void '
            f'__launch_bounds__({constants["threads"]}) {name}_kernel({declared}) {{\n'
            f'  moeplan::{name}<Constants>({", ".join(names)});\n}}\n')


GATE_UP = ["const float *x", "const float *scale", "const moeplan_expert *experts",
           "const uint32_t *expert_begin", "const uint32_t *slot_token", "float *h"]
DOWN = ["const float *h", "const moeplan_expert *experts", "const uint32_t *expert_begin",
        "const uint32_t *slot_token", "const float *slot_weight", "float *y"]


class Experts:
    """Kernels of one shape and set of formats."""

    def __init__(self, cupy, features, intermediate, formats, max_tokens=8, up_threads=256,
                 down_threads=512):
        import tempfile
        self.cupy = cupy
        self.features, self.intermediate = features, intermediate
        include = pathlib.Path(tempfile.gettempdir()) / "moeplan-include"
        include.mkdir(exist_ok=True)
        (include / "stdint.h").write_text(STDINT)
        options = ("-std=c++20", "-default-device", f"-I{include}", f"-I{ROOT / 'schemas'}",
                   f"-I{ROOT / 'kernels/cuda'}")
        shape = {"features": features, "intermediate": intermediate, "num_experts": 8, "max_tokens": max_tokens,
                 "formats": sum(1 << FORMATS[f] for f in set(formats)), "top_k": 2}
        self.threads = {"experts_gate_up": up_threads, "experts_down": down_threads}
        self.kernels = {}
        for name, parameters, more in (("experts_gate_up", GATE_UP, {"normalize": 1, "epsilon": 1e-5}),
                                       ("experts_down", DOWN, {"accumulate": 1})):
            text = source(name, parameters, {**shape, **more, "threads": self.threads[name]})
            self.kernels[name] = cupy.RawModule(code=text, options=options,
                                                backend="nvrtc").get_function(name + "_kernel")

    def figures(self):
        return "; ".join(f"{n}: {k.num_regs} registers, {k.local_size_bytes} spilt"
                         for n, k in self.kernels.items())

    def run(self, name, blocks, arguments):
        self.kernels[name]((blocks,), (self.threads[name],), arguments)


def device_table(cupy, weights, formats):
    table = np.zeros(8, dtype=[("p", np.uint64, 3), ("f", np.uint16, 4)])
    for e, (linears, fmts) in enumerate(zip(weights, formats)):
        table[e]["p"] = [w.data.ptr for w in linears]
        table[e]["f"][:3] = [FORMATS[f] for f in fmts]
    return cupy.asarray(table.view(np.uint8))


def check(cupy, formats, features, intermediate, tokens):
    """Largest error of h and y over the largest value, and the kernels' figures."""
    rng = np.random.default_rng(7)
    experts = Experts(cupy, features, intermediate, [f for fmts in formats for f in fmts],
                      max_tokens=1 if tokens == 1 else 8)
    shapes = ((intermediate, features), (intermediate, features), (features, intermediate))
    host = [[random_weight(rng, f, *s) for f, s in zip(fmts, shapes)] for fmts in formats]
    device = [[cupy.asarray(w) for w in linears] for linears in host]
    values = [[decode(w, f, *s) for w, f, s in zip(linears, fmts, shapes)]
              for linears, fmts in zip(host, formats)]
    x = rng.standard_normal((tokens, features)).astype(np.float32)
    scale = rng.uniform(0.5, 1.5, features).astype(np.float32)
    y = rng.standard_normal((tokens, features)).astype(np.float32)
    chosen = [sorted(rng.choice(8, 2, replace=False)) for _ in range(tokens)]
    pairs = sorted((e, t) for t, two in enumerate(chosen) for e in two)
    begin = np.searchsorted([e for e, _ in pairs], np.arange(9)).astype(np.uint32)
    token = np.array([t for _, t in pairs], dtype=np.uint32)
    weight = rng.uniform(0.2, 0.8, len(pairs)).astype(np.float32)
    normed = x / np.sqrt((x.astype(float)**2).mean(1, keepdims=True) + 1e-5) * scale
    want_h, want_y = np.zeros((len(pairs), intermediate)), y.astype(float)
    for s, (e, t) in enumerate(pairs):
        gate, up = values[e][0] @ normed[t], values[e][1] @ normed[t]
        want_h[s] = gate / (1 + np.exp(-gate)) * up
        want_y[t] += weight[s] * (values[e][2] @ want_h[s])
    step = cupy.asarray(np.array([tokens, 0], np.uint32).view(np.uint8).tolist() + [0] * 16,
                        dtype=cupy.uint8)
    table = device_table(cupy, device, formats)
    h = cupy.zeros((len(pairs), intermediate), cupy.float32)
    out = cupy.asarray(y)
    routed = [cupy.asarray(a) for a in (begin, token, weight)]
    experts.run("experts_gate_up", (intermediate + 31) // 32 * min(8, 2 * tokens),
                (step, cupy.asarray(x), cupy.asarray(scale), table, routed[0], routed[1], h))
    experts.run("experts_down", (features + 31) // 32, (step, h, table, *routed, out))

    def error(got, want):
        return float(np.linalg.norm(got.get() - want) / np.linalg.norm(want))
    return error(h, want_h), error(out, want_y), experts.figures()


def copy_bandwidth(cupy):
    size = 1 << 30
    source, target = cupy.zeros(size, cupy.uint8), cupy.zeros(size, cupy.uint8)
    return 2 * size / time_of(cupy, lambda i: cupy.copyto(target, source))


def time_of(cupy, run, repetitions=20):
    """Median of seconds."""
    times = []
    for i in range(repetitions + 3):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        run(i)
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, end) / 1e3)
    return float(np.median(times[3:]))


def measure(cupy, fmts, bandwidth, **tuning):
    """One token at the shapes of Mixtral 8x7B; a graph of 8 layers whose weights exceed the cache."""
    features, intermediate, layers = 4096, 14336, 8
    experts = Experts(cupy, features, intermediate, fmts, max_tokens=1, **tuning)
    rng = np.random.default_rng(3)
    shapes = ((intermediate, features), (intermediate, features), (features, intermediate))
    sizes = [weight_bytes(f, *s) for f, s in zip(fmts, shapes)]
    tables, keep = [], []
    for _ in range(layers):
        weights = [[cupy.full(size, 0x55, cupy.uint8) for size in sizes] for _ in range(2)]
        keep.append(weights)
        tables.append(device_table(cupy, weights, [fmts] * 2))
    step = cupy.asarray([1] + [0] * 23, dtype=cupy.uint8)
    x = cupy.asarray(rng.standard_normal(features), dtype=cupy.float32)
    scale, h = cupy.ones(features, cupy.float32), cupy.zeros((2, intermediate), cupy.float32)
    y = cupy.zeros(features, cupy.float32)
    begin = cupy.asarray([0, 1] + [2] * 7, dtype=cupy.uint32)
    token, weight = cupy.zeros(2, cupy.uint32), cupy.full(2, 0.5, cupy.float32)
    results = []
    for name in ("experts_gate_up", "experts_down", "both"):
        def launch():
            for table in tables:
                if name != "experts_down":
                    experts.run("experts_gate_up", intermediate // 32 * 2,
                                (step, x, scale, table, begin, token, h))
                if name != "experts_gate_up":
                    experts.run("experts_down", features // 32,
                                (step, h, table, begin, token, weight, y))
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            launch()
            stream.synchronize()
            stream.begin_capture()
            launch()
            graph = stream.end_capture()
            seconds = time_of(cupy, lambda i: graph.launch(stream))
        used = {"experts_gate_up": sizes[0] + sizes[1], "experts_down": sizes[2]}.get(name, sum(sizes))
        results.append(used * 2 * layers / seconds / bandwidth)
    return results, experts.figures()


def main():
    import cupy
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    print(properties["name"].decode(), "driver", cupy.cuda.runtime.driverGetVersion())
    worst = 0.0
    cases = [([(f, f, f)] * 8, f) for f in FORMATS]
    mixed = list(FORMATS)
    cases.append(([(mixed[e], mixed[e + 3], mixed[e + 5]) for e in range(8)], "mixed"))
    for formats, name in cases:
        for features, intermediate, tokens in ((256, 320, 1), (256, 320, 8), (200, 296, 3)):
            h, y, figures = check(cupy, formats, features, intermediate, tokens)
            worst = max(worst, h, y)
            flag = "" if max(h, y) < 1e-2 else "  WRONG"
            if tokens != 3 or flag:
                print(f"{name:9} {features}x{intermediate} {tokens} tokens: h {h:.1e} y {y:.1e}; {figures}{flag}")
    if "--check" in sys.argv[1:]:
        return worst >= 1e-2
    bandwidth = copy_bandwidth(cupy)
    print(f"copy within the device's memory: {bandwidth / 1e9:.0f} GB/s")
    for fmt in ("bf16", "int8g64", "int4g64", "int3g64", "int2g64"):
        for up, down in ((128, 512), (256, 1024), (512, 896)):
            shares, figures = measure(cupy, (fmt,) * 3, bandwidth, up_threads=up, down_threads=down)
            print(f"{fmt:8} threads {up:4} {down:4}: gate/up {shares[0]:.0%} down {shares[1]:.0%} "
                  f"both {shares[2]:.0%}; {figures}", flush=True)
    return worst >= 1e-2


if __name__ == "__main__":
    sys.exit(main())
