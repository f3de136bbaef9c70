#!/usr/bin/env bash
# The images that run on the node, without a registry: OCI archives from Debian packages and from
# what is built here.
#
#   images.sh              builds those that every node has; prints their archives, one a line
#   images.sh leasehold BINARY [NAME]
#                          the sidecar's image of a static binary, localhost/leasehold:e2e unless named
#
# localhost/pause:1         a static C program, the first process of each pod
# localhost/recorder:go     apps/recorder, a static Go program
# localhost/recorder:python apps/recorder.py, with Python and a shell of the machine's Debian release
#
# Cached in ${LEASEHOLD_CACHE:-...}/images/<key>; the key changes with what they are made of.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${LEASEHOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/leasehold}/images

say() { printf 'images: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# A root with the users that an image without a distribution has: FOLDER
new_root() {
    mkdir -p "$1/etc"
    mkdir -m 1777 "$1/tmp"
    printf 'root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/:/bin/sh\n' >"$1/etc/passwd"
    printf 'root:x:0:\nnonroot:x:65532:\n' >"$1/etc/group"
}

build_pause() {
    new_root root
    cc -O2 -static -s -o root/pause "$here/apps/pause.c"
    "$here/image.py" --name localhost/pause:1 --entrypoint /pause root pause.tar
}

build_go() {
    local program
    program=$("$here/../control-plane/tools.sh" recorder)/recorder
    new_root root
    cp "$program" root/
    "$here/image.py" --name localhost/recorder:go --entrypoint /recorder --user 65532:65532 root recorder-go.tar
}

# What a package names in its Depends: PACKAGE...
depends() { apt-cache depends "$@" 2>/dev/null | sed -n 's/^ *\(Pre\)\?Depends: \([a-z0-9.+-]*\)$/\2/p'; }

# Python, busybox and util-linux's flock, as the machine's Debian has them.
build_python() {
    local python package
    [ -n "$(depends python3-minimal)" ] || { say 'no lists of packages: apt-get update'; apt-get update -qq >&2; }
    # The release's own version: python3.11, say.
    python=$(depends python3-minimal | sed -n 's/^\(python3\.[0-9]*\)-minimal$/\1/p')
    [ -n "$python" ] || die 'apt-cache knows no python3-minimal'
    # shellcheck disable=SC2046 # one word a package
    set -- "$python-minimal" "lib$python-minimal" "lib$python-stdlib" busybox-static util-linux \
        $(depends "$python-minimal" "lib$python-minimal")
    new_root root
    mkdir -p packages root/usr/{bin,sbin,lib,lib64}
    # What older packages put into /lib is found where newer ones have it.
    for package in bin sbin lib lib64; do ln -s "usr/$package" "root/$package"; done
    # As root it says each time that it cannot drop its rights there.
    (cd packages && apt-get download -qq -o APT::Sandbox::User=root $(printf '%s\n' "$@" | sort -u) >&2) \
        || die 'the packages could not be downloaded'
    for package in packages/*.deb; do
        case $package in
            packages/util-linux_*) set -- ./usr/bin/flock ;;
            *) set -- ;;
        esac
        dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --directory root \
            --no-same-owner --exclude './usr/share/doc' --exclude './usr/share/man' "$@"
    done
    ln -s "$python" root/usr/bin/python3
    ln -s busybox root/usr/bin/sh
    local program
    for program in cat sleep ls kill; do ln -s busybox "root/usr/bin/$program"; done
    cp "$here/apps/recorder.py" root/recorder.py
    chroot root /usr/bin/python3 -c 'import fcntl, http.client, http.server, json, signal, ssl, threading' \
        || die 'the Python image does not run: a package is missing in build_python'
    # The root of a container is read-only, and compiling the library at each start would take longer than the app.
    chroot root /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash "/usr/lib/$python" >/dev/null || true
    "$here/image.py" --name localhost/recorder:python --entrypoint /usr/bin/python3 --arg /recorder.py \
        --env PATH=/usr/bin --env PYTHONUNBUFFERED=1 --env PYTHONDONTWRITEBYTECODE=1 --user 65532:65532 root recorder-python.tar
}

build_leasehold() {
    local arch
    arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
    "$here/../image/build.sh" "$binary" "$arch" . "$image"
    # Two of them go into one folder.
    mv "leasehold-$arch.tar" "leasehold-${image##*:}.tar"
}

# NAME SOURCE...: builds NAME unless it is there; prints its archive
built() {
    local name=$1 key folder
    shift
    key=$({ cat "$here/images.sh" "$here/image.py" "$@"; echo "$name ${image:-} $(uname -m)"; } | sha256sum | cut -c1-12)
    folder=$cache/$name-$key
    if [ ! -d "$folder" ]; then
        mkdir -p "$cache"
        (
            flock 9
            [ ! -d "$folder" ] || exit 0
            rm -rf "$folder.aside"
            mkdir "$folder.aside"
            cd "$folder.aside"
            "build_$name"
            rm -rf root packages
            mv "$folder.aside" "$folder"
            say "built $name"
        ) 9>"$cache/$name.lock"
    fi
    echo "$folder"/*.tar
}

case ${1:-all} in
    all)
        built pause "$here/apps/pause.c"
        built go "$here"/apps/recorder/*
        built python "$here/apps/recorder.py" /etc/os-release
        ;;
    leasehold)
        binary=$(realpath "${2:?the static binary}")
        image=${3:-localhost/leasehold:e2e}
        built leasehold "$binary" "$here/../image/build.sh" "$here/../../Dockerfile"
        ;;
    *) die "leasehold BINARY, or nothing: see the head of $0" ;;
esac
