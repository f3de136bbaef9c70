#!/usr/bin/env bash
# A cluster comes up, the scenarios run on it, and it is taken down, whatever happens meanwhile.
#
#   run.sh BINARY [NAME]    the static leasehold whose image the pods run; only the scenarios whose names hold NAME
#
# NODE_NAME and NODE_NET as for tests/node/node.sh; by default others than those of `make node`, so that both can be up.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
node=$root/tests/node/node.sh
binary=$1 name=${2:-}
export NODE_NAME=${NODE_NAME:-lhe} NODE_NET=${NODE_NET:-78}
logs=${CARGO_TARGET_DIR:-$root/target}/e2e-logs

say() { printf 'e2e: %5d s  %s\n' "$SECONDS" "$*" >&2; }

tests='' is_up='' went_well='' state=''
end() {
    # Once, and not by a second signal.
    trap - EXIT
    trap '' INT TERM HUP
    [ -z "$tests" ] || kill -KILL -- "-$tests" 2>/dev/null || true
    if [ -n "$is_up" ]; then
        if [ -z "$went_well" ] && [ -n "$state" ]; then
            rm -rf "$logs"
            mkdir -p "$logs"
            for folder in "$state"/node*; do cp -r "$folder/log" "$logs/${folder##*/}" || true; done
            cp -r "$state/records" "$logs" || true
            say "the daemons' logs and the apps' records are in $logs"
        fi
        sort -k 3 "$state/measured" >&2 2>/dev/null || true
        "$node" down
        say 'the cluster is down'
    fi
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

cd "$root"
image=$(tests/node/images.sh leasehold "$binary")
# The same under another name, to change a running sidecar's image.
next=$(tests/node/images.sh leasehold "$binary" localhost/leasehold:e2e-next)
say 'the image is built'
tests/control-plane/tools.sh helm >/dev/null
cargo test --locked --test e2e --no-run
say 'the scenarios are built'
is_up=yes
"$node" up "$image" "$next" >/dev/null
{ read -r state; read -r _; } < <("$node" env)
say 'the cluster is up'
# Two scenarios a processor: each has pods that ask all the time, and images that start.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}
# In a process group of its own, which can be ended as a whole.
set -m
cargo test --locked --test e2e -- ${name:+"$name"} &
tests=$!
set +m
wait "$tests" || exit
went_well=yes tests=''
say 'the scenarios have passed'
