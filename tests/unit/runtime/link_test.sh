#!/bin/sh
# Usage: link_test.sh MOEPLAN LIBMOEPLAN. Fails where the runtime's program or library needs anything
# of the compiler or of a GPU's driver, or where the library exports more than its C API.
set -eu

status=0
for file in "$1" "$2"; do
  # What the loader would bring in, whoever asks for it; without ldd, what the file itself asks for.
  needed=$( (ldd "$file" 2>/dev/null; readelf -d "$file") | grep -E '=>|NEEDED')
  if forbidden=$(echo "$needed" | grep -iE 'llvm|mlir|clang|lld|nvrtc|libcuda'); then
    echo "$file must not link:" >&2
    echo "$forbidden" >&2
    status=1
  fi
done

symbols=$(nm -D --defined-only "$2" | awk '{ print $NF }')
if ! echo "$symbols" | grep -q '^moeplan_session_create'; then
  echo "$2 does not export moeplan_session_create" >&2
  status=1
fi
if others=$(echo "$symbols" | grep -vE '^moeplan_[a-z_]+$'); then
  echo "$2 must export nothing but moeplan_*, but has:" >&2
  echo "$others" >&2
  status=1
fi
exit $status
