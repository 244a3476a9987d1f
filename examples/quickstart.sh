#!/usr/bin/env bash
# From nothing to text: installs what is missing, builds, compiles the tiny checkpoint, generates.
#
#   ./examples/quickstart.sh [PROMPT]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source .ci/setup.sh
prompt=${1:-"It was a dark night, and"}

install_dependencies
build_preset release moeplanc moeplan_tool
bin=build/release/bin
model=examples/tiny-mixtral

say "compiling $model"
"$bin/moeplanc" compile "$model" -o build/tiny.moeplan
say "generating from \"$prompt\""
"$bin/moeplan" run build/tiny.moeplan --prompt "$prompt" --max-tokens 64 --temperature 0.7 --seed 1
say "perplexity on 64 windows of wiki.test.txt"
"$bin/moeplan" eval build/tiny.moeplan --text "$model/wiki.test.txt" --context 256 --max-windows 64
