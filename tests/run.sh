#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test: first the release build, then the runtime and
# the reading of checkpoints and artifacts again under AddressSanitizer and UndefinedBehaviorSanitizer, then
# the runtime under ThreadSanitizer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source .ci/setup.sh

install_dependencies
provide_nvrtc
build_preset release
say "running the tests of preset 'release'"
ctest --preset release -j2
build_preset asan moeplan_tests
say "running the tests of preset 'asan'"
ctest --preset asan -j2
build_preset tsan moeplan_tests
say "running the tests of preset 'tsan'"
ctest --preset tsan -j2
say "all tests passed"
