#!/usr/bin/env bash
# What the examples are run from, built once, with the toolchains that are installed here.
#
#   build.sh NAME...    build what is missing; print for each the folder that it is run from
#
# A name is a folder of examples/, or a store: sqlite (anything will do as its folder), postgresql
# (the folder of initdb, postgres and psql). A runtime that is not installed ends this with a
# sentence that says how to install it. Only folders go to stdout, progress goes to stderr.
#
# The cache is ${LEASEHOLD_CACHE:-${XDG_CACHE_HOME:-~/.cache}/leasehold}/examples; a folder's key
# changes with the example's files and its toolchain. Dependencies are pinned: go.sum,
# package-lock.json, requirements.txt with hashes; for Maven, which has nothing of the kind, the
# sums of the jars beside this file.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
examples=$(cd "$here/../../examples" && pwd)
cache=${LEASEHOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/leasehold}/examples

say() { printf 'examples: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# PROGRAM PACKAGE
need() { command -v "$1" >/dev/null || die "$1 is not installed: apt-get install $2"; }

# The newest PostgreSQL server's programs: where Debian puts them, or on the PATH.
postgresql() {
    local initdb
    initdb=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1)
    [ -x "$initdb" ] || initdb=$(command -v initdb) || die 'PostgreSQL is not installed: apt-get install postgresql'
    dirname "$initdb"
}

# The machine's own, else what tests/control-plane/tools.sh brought.
go_program() { "$here/../control-plane/tools.sh" go || die 'there is no Go for examples/go: see above'; }

# Each builds an example in the present folder, a copy of its own.
build_c() { cc -O2 -Wall -Wextra -Werror -o worker worker.c -lsqlite3; }
build_go() {
    GOTOOLCHAIN=local GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=0 \
        "$go" build -trimpath -buildvcs=false -o worker .
}
build_node() { npm ci --no-audit --no-fund --ignore-scripts --silent; }
build_gunicorn() {
    python3 -m venv venv \
        && venv/bin/pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
            -r requirements.txt
}
build_maven() {
    # Spring Boot packs the jars that it needs into its own.
    mvn --batch-mode --quiet --strict-checksums -Dstyle.color=never package \
        && cd target \
        && jar xf worker.jar BOOT-INF/lib \
        && find . -name '*.jar' ! -name worker.jar | sort | xargs sha256sum | diff "$1" - \
        && cd ..
}

# An example's files, and nothing that was built beside them.
pack() {
    tar --directory "$examples/$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
        --exclude={node_modules,target,venv,__pycache__,./worker,'store.db*'} --create .
}

# NAME TOOLCHAIN BUILD...: the folder of an example that is built.
built() {
    local name=$1 toolchain=$2 key folder began
    shift 2
    key=$({ pack "$name"; cat "$here/build.sh"; echo "$toolchain"; } | sha256sum | cut -c1-12)
    folder=$cache/$name-$key
    if [ ! -d "$folder" ]; then
        mkdir -p "$cache"
        (
            flock 9
            [ ! -d "$folder" ] || exit 0
            say "building examples/$name"
            began=$SECONDS
            rm -rf "$folder.aside"
            mkdir "$folder.aside"
            cd "$folder.aside"
            pack "$name" | tar --extract
            "$@" >&2 || die "examples/$name could not be built"
            mv "$folder.aside" "$folder"
            say "built examples/$name in $((SECONDS - began)) s"
        ) 9>"$cache/$name.lock"
    fi
    echo "$folder"
}

[ $# -gt 0 ] || set -- sqlite postgresql python shell-http shell-file c node go java gunicorn spring-boot
for name; do
    case $name in
        sqlite) need sqlite3 sqlite3; echo "$examples/store" ;;
        postgresql) postgresql ;;
        python) need python3 python3; echo "$examples/python" ;;
        shell-http) need curl curl; need flock util-linux; need sqlite3 sqlite3; echo "$examples/shell-http" ;;
        shell-file) need flock util-linux; need sqlite3 sqlite3; echo "$examples/shell-file" ;;
        c)
            need cc 'gcc libc6-dev'
            echo '#include <sqlite3.h>' | cc -E - >/dev/null 2>&1 \
                || die 'the header sqlite3.h is not installed: apt-get install libsqlite3-dev'
            built c "$(cc --version)" build_c
            ;;
        go) go=$(go_program); built go "$("$go" version)" build_go ;;
        node) need node nodejs; need npm npm; built node "$(node --version)" build_node ;;
        gunicorn)
            need python3 python3
            python3 -c 'import ensurepip, venv' 2>/dev/null \
                || die 'python3 -m venv is not installed: apt-get install python3-venv'
            built gunicorn "$(python3 --version)" build_gunicorn
            ;;
        java | spring-boot)
            need javac default-jdk-headless
            need mvn maven
            built "$name" "$(javac --version)" build_maven "$here/$name.sha256"
            ;;
        *) die "no example is called $name: see the head of $0" ;;
    esac
done
