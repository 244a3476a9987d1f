# compile-once.sh CHECKPOINT ARTIFACT: compiles unless ARTIFACT is newer than the compiler. Tests that
# run at the same time wait for one of them to do it.
set -eu
exec 9> "$2.lock"
flock 9
if ! [ "$2" -nt "$(command -v moeplanc)" ]; then
  moeplanc compile "$1" --target-cpu=host -o "$2"
fi
