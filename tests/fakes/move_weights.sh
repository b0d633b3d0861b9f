#!/usr/bin/env bash
# A program such as a user may write for the `command` router. It keeps nothing itself: a fake on
# PORT does, so that its journal and its faults are this program's, too.
#   move_weights.sh PORT read | set | poll ID
set -u
port=$1 verb=$2 method=GET path=/shop body=
case $verb in
  read) ;;
  poll) path=/shop/changes/$3 ;;
  set) method=PUT; IFS= read -r -d '' body ;;
  *) echo "usage: move_weights.sh PORT read|set|poll ID" >&2; exit 2 ;;
esac
if ! { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null; then
  echo "nobody listens on $port" >&2; exit 3
fi
printf '%s %s HTTP/1.1\r\nHost: fake\r\nConnection: close\r\nX-Token: %s\r\nContent-Length: %d\r\n\r\n%s' \
  "$method" "$path" "$FAKE_TOKEN" "${#body}" "$body" >&3
if ! IFS=' ' read -r _ status _ <&3; then
  echo "no answer to $method $path" >&2; exit 1
fi
while IFS= read -r line <&3 && [ "$line" != $'\r' ]; do :; done
IFS= read -r -d '' answer <&3
case $status in
  2*) printf '%s' "$answer" ;;
  401) echo "denied: $answer" >&2; exit 5 ;;
  412) echo "changed: $answer" >&2; exit 4 ;;
  429) echo "too many calls" >&2; exit 3 ;;
  5*) echo "the system is ill: $answer" >&2; exit 1 ;;
  *) echo "refused: $status $answer" >&2; exit 6 ;;
esac
