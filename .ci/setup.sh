# Sourced by examples/quickstart.sh and tests/run.sh: what a fresh Debian 12 machine needs, and how a
# preset is built. Idempotent; works as root and with sudo.

MOEPLAN_PACKAGES=(
  g++ cmake ninja-build pkg-config ccache python3
  llvm-19-dev libmlir-19-dev mlir-19-tools clang-19 lld-19 liblld-19-dev
  libflatbuffers-dev flatbuffers-compiler libzstd-dev libxxhash-dev libsentencepiece-dev
  nlohmann-json3-dev libtomlplusplus-dev libcli11-dev libgtest-dev libgmock-dev
  libbenchmark-dev libboost-context-dev
)

say() {
  if [ -t 2 ]; then printf '\033[1m==> %s\033[0m\n' "$*" >&2; else printf '==> %s\n' "$*" >&2; fi
}

install_dependencies() {
  local missing=() package
  for package in "${MOEPLAN_PACKAGES[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
      missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    say "all packages are installed"
    return
  fi
  if ! command -v apt-get >/dev/null; then
    say "this is no Debian; install by hand: ${missing[*]}"
    return 1
  fi
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { say "need root or sudo to install: ${missing[*]}"; return 1; }
    as_root=(sudo)
  fi
  say "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# What makes code for CUDA devices, for the tests: nothing where it is there already, else the wheel from
# PyPI, into a cache outside of the tree. Without it these tests are skipped; that is no error.
MOEPLAN_NVRTC_VERSION=13.0.88
provide_nvrtc() {
  local library cache=${XDG_CACHE_HOME:-$HOME/.cache}/moeplan/nvrtc-$MOEPLAN_NVRTC_VERSION
  [ -z "${MOEPLAN_NVRTC:-}" ] || return 0
  for library in "${CUDA_HOME:-/usr/local/cuda}" "${CUDA_PATH:-/usr/local/cuda}" /usr/local/cuda*; do
    ! compgen -G "$library/lib64/libnvrtc.so*" >/dev/null || return 0
  done
  ! ldconfig -p 2>/dev/null | grep -q 'libnvrtc\.so' || return 0
  library=$cache/nvidia/cu13/lib/libnvrtc.so.13
  if [ ! -e "$library" ]; then
    say "fetching NVRTC $MOEPLAN_NVRTC_VERSION"
    rm -rf "$cache.part"
    if python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
      --target "$cache.part" "nvidia-cuda-nvrtc==$MOEPLAN_NVRTC_VERSION" >&2; then
      rm -rf "$cache"
      mv "$cache.part" "$cache"
    fi
  fi
  if [ -e "$library" ]; then
    export MOEPLAN_NVRTC=$library
  else
    say "no NVRTC: tests of code for CUDA devices are skipped (pip install nvidia-cuda-nvrtc)"
  fi
}

# build_preset PRESET [TARGET...]: configures and builds into build/PRESET.
build_preset() {
  local preset=$1
  shift
  say "building preset '$preset' (build/$preset)"
  cmake --preset "$preset" >"/tmp/moeplan-configure.$$" 2>&1 ||
    { cat "/tmp/moeplan-configure.$$" >&2; rm -f "/tmp/moeplan-configure.$$"; return 1; }
  rm -f "/tmp/moeplan-configure.$$"
  cmake --build --preset "$preset" ${1:+--target "$@"}
}
