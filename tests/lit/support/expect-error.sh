# expect-error.sh CODE COMMAND...: succeeds when COMMAND exits with CODE and its standard error is one
# line that starts with the command's name; passes that line on to standard output.
set -u
expected=$1
shift
message=$("$@" 2>&1 >/dev/null)
code=$?
printf '%s\n' "$message"
if [ "$code" -ne "$expected" ]; then
  echo "expect-error: exit code $code, expected $expected: $*" >&2
  exit 1
fi
case $message in
  *"
"*) echo "expect-error: more than one line: $*" >&2; exit 1 ;;
  "$1: "*) ;;
  *) echo "expect-error: the message does not start with '$1: ': $*" >&2; exit 1 ;;
esac
