#!/bin/sh
# full_size.sh BIN DIRECTORY: what a full-size model takes to compile and to load, as a table for
# compiler/README.md. Needs about 50 GB in DIRECTORY and /usr/bin/time; measures nothing that must hold.
set -eu
bin=$(cd "$1" && pwd)
source=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$2" && cd "$2"
export XDG_CACHE_HOME="$PWD/xdg"
configs=$source/examples/configs policies=$source/examples/policies

# row NAME COMMAND...: runs it, prints wall time, CPU time and peak memory.
row() {
  name=$1
  shift
  /usr/bin/time -v -o time.txt "$@" > out.txt 2> err.txt || { cat err.txt >&2; exit 1; }
  awk -v name="$name" -F': ' '
    /Elapsed/ { n = split($NF, t, ":"); s = 0; for (i = 1; i <= n; i++) s = s * 60 + t[i] }
    /User time/ { u = $NF } /System time/ { k = $NF } /Maximum resident/ { m = $NF / 1024 }
    END { printf "| %s | %.1f | %.1f | %.0f |\n", name, s, u + k, m }' time.txt
}
cold() {
  sync
  for file in "$@"; do dd if="$file" iflag=nocache count=0 2> /dev/null; done
}

echo "| | wall, s | CPU, s | peak memory, MiB |"
echo "|---|---:|---:|---:|"
for model in 8x7b 8x22b; do
  row "$model, three tiers, --dry-run" \
    "$bin/moeplanc" compile --config "$configs/mixtral-$model.json" --synthetic 1 \
    --policy "$policies/ladder.toml" --dry-run
  row "$model, three tiers, synthetic" \
    "$bin/moeplanc" compile --config "$configs/mixtral-$model.json" --synthetic 1 \
    --policy "$policies/ladder.toml" --no-cache -o synthetic.moeplan
done

sed 's/"num_hidden_layers": [0-9]*/"num_hidden_layers": 4/' "$configs/mixtral-8x7b.json" > config.json
[ -d model ] || "$bin/moeplanc" synth --config config.json --seed 3 -o model 2> /dev/null
bytes=$(cat model/*.safetensors | wc -c)
echo "checkpoint: $bytes bytes in $(ls model/*.safetensors | wc -l) shards" >&2
tier() { printf '[[tier]]\nname = "%s"\npin = [%s{ experts = "*", format = "%s" }]\n' "$1" "$3" "$2"; }
{ tier high int8g64 ""; tier middle int4g64 ""; tier low int3g64 ""; } > three.toml
{ tier high int8g64 ""; tier middle int4g64 '{ experts = "layers.2.experts.5", format = "int8g64" }, '
  tier low int3g64 '{ experts = "layers.3.experts.1", format = "int2g64" }, '; } > edited.toml
compile() { "$bin/moeplanc" compile model --target-cpu=x86-64-v3 "$@"; }

rm -rf xdg
cold model/*.safetensors
row "4 layers of 8x7b, three tiers, shards not in memory" "$bin/moeplanc" compile model \
  --target-cpu=x86-64-v3 --policy three.toml -o three.moeplan
grep 'three.moeplan:' err.txt >&2
row "the same again" "$bin/moeplanc" compile model --target-cpu=x86-64-v3 --policy three.toml \
  -o again.moeplan
cmp three.moeplan again.moeplan && rm again.moeplan
row "two experts of the policy changed" "$bin/moeplanc" compile model --target-cpu=x86-64-v3 \
  --policy edited.toml -o edited.moeplan
grep 'taken from' err.txt | sed "s|$PWD/||" >&2
"$bin/moeplan" diff three.moeplan edited.moeplan --patch edited.moepatch 2>&1 > /dev/null | tail -1 >&2
row "that as a patch, applied" "$bin/moeplan" patch three.moeplan edited.moepatch -o patched.moeplan
cmp edited.moeplan patched.moeplan && rm patched.moeplan edited.moeplan

# Interrupted when a third of the weights are in the cache, then resumed.
rm -rf xdg
compile --policy three.toml -o resumed.moeplan 2> /dev/null &
child=$!
while [ "$(find xdg -name '*.weight' 2> /dev/null | wc -l)" -lt 100 ]; do sleep 0.2; done
kill -TERM $child
wait $child || true
ls ./*resumed* 2> /dev/null && { echo "something was left behind" >&2; exit 1; }
row "interrupted at 100 of 288 weights, then --resume" "$bin/moeplanc" compile model \
  --target-cpu=x86-64-v3 --policy three.toml --resume -o resumed.moeplan
grep 'taken from' err.txt | sed "s|$PWD/||" >&2
cmp three.moeplan resumed.moeplan && rm resumed.moeplan

row "bf16 as it is" "$bin/moeplanc" compile model --target-cpu=x86-64-v3 -o bf16.moeplan
echo
echo "| first two tokens of the tier in 8 bits | wall, s | CPU, s | peak memory, MiB |"
echo "|---|---:|---:|---:|"
for how in "" "--preload" "--load=read" "--load=direct" "--load=direct --huge-pages"; do
  cold three.moeplan
  row "not in memory${how:+, $how}" "$bin/moeplan" run three.moeplan --plan high --token-ids 1,2,3 \
    --max-tokens 2 $how
done
# The disk itself, with as much as the last row has brought in, by all that its process has of memory.
part=$(awk -F': ' '/Maximum resident/ { print int($NF / 4096 / 8) }' time.txt)
cold three.moeplan
row "as much by eight dd iflag=direct, to compare" sh -c "for i in 0 1 2 3 4 5 6 7; do
  dd if=three.moeplan of=/dev/null iflag=direct bs=4M skip=\$((i * $part)) count=$part & done; wait"
cat three.moeplan > /dev/null
row "in the page cache" "$bin/moeplan" run three.moeplan --plan high --token-ids 1,2,3 --max-tokens 2
rm -f three.moeplan bf16.moeplan
