#!/usr/bin/env bash
# Makes the folder that run.sh needs on a machine with a GPU: prepare.sh FOLDER. Needs NVRTC and the
# release build, but no GPU. Full-size weights are synthetic: the folder stays below 60 MB.
set -euo pipefail
folder=$(realpath -m "${1:?usage: prepare.sh FOLDER}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source .ci/setup.sh
moeplanc=build/release/bin/moeplanc
targets=${MOEPLAN_GPU_TARGETS:-sm_90a}

mkdir -p "$folder"
build_preset portable moeplan moeplan_tool
cmake --install build/portable --prefix "$folder" >/dev/null
cp tests/gpu/run.sh "$folder/"
head -c 40000 examples/tiny-mixtral/wiki.test.txt >"$folder/text.txt"

# tier NAME PINS [MORE]: a tier that fixes format and residency of every expert.
tier() { printf '[[tier]]\nname = "%s"\n%bpin = [%s]\n' "$1" "${3:-}" "$2"; }
on() { printf '{ experts = "%s", format = "%s", residency = "%s" },' "$1" "$2" "$3"; }
profile() { printf 'profile = "%s/examples/profiles/h200-141gb.toml"\n' "$PWD"; }
bf16() { tier bf16 "$(on '*' bf16 device)" 'non_expert_format = "bf16"\n'; }
int8() { tier int8 "$(on '*' int8g64 device)" 'non_expert_format = "int8"\n'; }
mixed() {
  tier mixed "$(on '*.w2' int8g64 device)$(on '*.experts.[0-3].*' int4g64 device)$(on '*' int3g64 device)" \
    'non_expert_format = "int8"\n'
}
# All on the device, then shares of the experts on the host, with each strategy.
int4() {
  tier int4 "$(on '*' int4g64 device)" 'non_expert_format = "int8"\n'
  local away='' expert=0 share misses
  for share in 25 50 75 100; do # of the experts of every layer, on the host
    for (( ; expert < share * 8 / 100; ++expert)); do away+=$(on "*.experts.$expert" int4g64 host); done
    for misses in in_place stream cached host_compute; do
      tier "host$share-$misses" "$away$(on '*' int4g64 device)" \
        "non_expert_format = \"int8\"\nmisses = \"$misses\"\n$([ $misses = cached ] && printf 'cache_slots = 2\\n')"
    done
  done
}
policy=$(mktemp --suffix .toml)
trap 'rm -f "$policy"' EXIT
say "compiling for $targets"
{ profile; bf16; int8; mixed; int4; } >"$policy"
"$moeplanc" compile examples/tiny-mixtral --policy "$policy" --target-cuda="$targets" \
  -o "$folder/tiny.moeplan" >/dev/null
# An artifact for each format: one plan is measured at a time.
for plan in bf16 int8 mixed int4; do
  { profile; "$plan"; } >"$policy"
  "$moeplanc" compile --config "${MOEPLAN_GPU_CONFIG:-examples/configs/mixtral-8x7b.json}" --synthetic 1 \
    --policy "$policy" --target-cuda="$targets" -o "$folder/full-$plan.moeplan" >/dev/null
done
du -sh "$folder" >&2
