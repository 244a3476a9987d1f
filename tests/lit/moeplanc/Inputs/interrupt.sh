# interrupt.sh SIGNAL CODE DIRECTORY COMMAND...: runs COMMAND with a cache in DIRECTORY/SIGNAL/cache, and
# sends it SIGNAL once it has quantised a weight. It must end with CODE and leave no output.
set -eu
signal=$1 code=$2 directory=$3/$1
shift 3
mkdir -p "$directory/out"
"$@" --cache-dir "$directory/cache" -o "$directory/out/model.moeplan" 2>"$directory/err" &
child=$!
until find "$directory/cache" -name '*.weight' 2>/dev/null | grep -q .; do
  kill -0 $child # or it has ended before
  sleep 0.02
done
kill -$signal $child
status=0
wait $child || status=$?
if [ $status -ne "$code" ]; then
  echo "interrupt: exit code $status, expected $code" >&2
  exit 1
fi
if [ -n "$(ls -A "$directory/out")" ]; then
  echo "interrupt: left behind:" >&2
  ls -lA "$directory/out" >&2
  exit 1
fi
