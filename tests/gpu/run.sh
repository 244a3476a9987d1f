#!/usr/bin/env bash
# Checks and measures on a machine with a GPU what prepare.sh has put into this folder; needs a driver
# and nothing else. Writes report.md and one JSON per measurement into $OUT, or into this folder.
# Fails where a check does; what cannot be measured is said, and does not fail.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
out=${OUT:-$PWD}
mkdir -p "$out"
device=${MOEPLAN_GPU_DEVICE:-cuda}
moeplan=bin/moeplan
failed=0
report() { printf '%s\n' "$@" | tee -a "$out/report.md"; } # a line for each argument
number() { grep -o "\"$2\": *[-0-9.e+]*" "$1" | head -1 | grep -o '[-0-9.e+]*$'; }
median() { grep -o "\"$2\":{\"median\":[-0-9.e+]*" "$1" | head -1 | grep -o '[-0-9.e+]*$'; }

: >"$out/report.md"
report "# $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo 'no nvidia-smi'), $(date +%F)"

report "" "## Perplexity of the tiny checkpoint, GPU and CPU" ""
for plan in bf16 int8 int4 mixed host50-in_place host50-stream host50-cached host50-host_compute; do
  for where in "$device" cpu; do
    plan_options=(--plan "$plan" --text text.txt --context 256 --max-windows "${MOEPLAN_GPU_WINDOWS:-8}" --json)
    # Plans for a device need one with a memory of its own.
    [ "$where" = cpu ] && where=emu
    "$moeplan" eval tiny.moeplan --device "$where" "${plan_options[@]}" \
      >"$out/eval-$plan-${where%%:*}.json" 2>"$out/error.txt" || {
      report "- $plan on $where: FAILED: $(tail -1 "$out/error.txt")"
      failed=1
    }
  done
  gpu=$(number "$out/eval-$plan-${device%%:*}.json" perplexity) cpu=$(number "$out/eval-$plan-emu.json" perplexity)
  verdict=$(awk -v a="$gpu" -v b="$cpu" 'BEGIN { print (a > 0 && b > 0 && (a / b - 1) ^ 2 < 0.005 ^ 2) ? "ok" : "FAILED" }')
  [ "$verdict" = ok ] || failed=1
  report "- $plan: $gpu and $cpu: $verdict"
done

report "" "## Switches under decode" ""
same() { "$moeplan" run tiny.moeplan --device "$device" --plan int8 --prompt "It was" --max-tokens 24 \
  --temperature 0 --switch-at 8:int4,12:host50-in_place,16:host50-cached,20:host50-host_compute --wait-for-switches 2>"$out/error.txt"; }
if first=$(same) && [ "$first" = "$(same)" ] && [ -n "$first" ]; then
  report "- int8, int4, host50-in_place, host50-cached, host50-host_compute: twice the same tokens: ok"
else
  report "- FAILED: $(tail -1 "$out/error.txt")"
  failed=1
fi

report "" "## Speed" "" "Shares: of the bandwidth of copies within the device's memory, by all weights; of copies" \
  "from pinned memory, by the experts of the host." "" \
  "| plan | batch | tokens/s | share | of the link | prefill tokens/s |" "|---|---|---|---|---|---|"
bench() { # PLAN BATCH PROMPT
  local file="$out/bench-$1-$2-$3.json" artifact="full-${1/#host*/int4}.moeplan"
  if "$moeplan" bench "$artifact" --device "$device" --plan "$1" --batch "$2" --prompt-tokens "$3" \
    --gen-tokens "$((${MOEPLAN_GPU_STEPS:-64} * $2))" --repetitions 3 --kernels --output=json \
    >"$file" 2>"$out/error.txt"; then
    report "$(awk -v p="$1" -v b="$2" -v n="$3" -v t="$(median "$file" decode_tokens_per_second)" \
      -v s="$(median "$file" bandwidth_share)" -v f="$(median "$file" prefill_tokens_per_second)" \
      -v l="$(median "$file" link_share)" 'BEGIN { printf "| %s | %d | %.4g | %.1f %% | %s | %.4g (%d) |", p, b, t,
        100 * s, l == "" ? "" : sprintf("%.1f %%", 100 * l), f, n }')"
  else
    report "| $1 | $2 | not measured: $(tail -1 "$out/error.txt") | | | |"
  fi
}
prompt=${MOEPLAN_GPU_PROMPT:-512}
all_plans='int4 mixed int8 bf16'
for share in 100 50 25 75; do all_plans+=" host$share-in_place host$share-stream host$share-cached host$share-host_compute"; done
for plan in ${MOEPLAN_GPU_PLANS:-$all_plans}; do bench "$plan" 1 "$prompt"; done
bench int4 8 "$prompt"
bench int4 32 "$((4 * prompt))"

if command -v compute-sanitizer >/dev/null; then
  report "" "## compute-sanitizer" ""
  for tool in memcheck racecheck; do
    for plan in mixed host50-host_compute; do
      compute-sanitizer --tool "$tool" --error-exitcode 9 "$moeplan" run tiny.moeplan --device "$device" \
        --plan "$plan" --prompt "It was" --max-tokens 4 --temperature 0 >"$out/$tool-$plan.txt" 2>&1 &&
        report "- $tool, $plan: ok" || { report "- $tool, $plan: FAILED"; failed=1; }
    done
  done
fi
exit "$failed"
