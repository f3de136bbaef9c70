#!/usr/bin/env bash
# The image of a program that is built already, by the `prebuilt` stage of the Dockerfile, without a network.
#
#   build.sh PROGRAM ARCH FOLDER [NAME]    writes FOLDER/leasehold-ARCH.tar, an OCI archive
#
# Named localhost/leasehold:VERSION unless told.
#
# Takes buildah (no daemon, no user namespace: it may run as root in a container). The same program gives the same
# image: no time of day goes into it.
set -euo pipefail

program=$(realpath "$1") arch=$2
mkdir -p "$3"
folder=$(realpath "$3")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v buildah >/dev/null || { echo "image: needs buildah: apt-get install buildah" >&2; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=${4:-localhost/leasehold:$version}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/context"
cp "$program" "$work/context/leasehold-$arch"

export STORAGE_DRIVER=vfs
store=(--root "$work/store" --runroot "$work/run" --storage-driver vfs)
buildah "${store[@]}" bud --quiet --isolation chroot --format oci --timestamp 0 --pull-never \
    --target prebuilt --arch "$arch" --build-arg "TARGETARCH=$arch" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --tag "$name" --file Dockerfile "$work/context" >/dev/null
rm -f "$folder/leasehold-$arch.tar"
buildah "${store[@]}" push --quiet "$name" "oci-archive:$folder/leasehold-$arch.tar:$name"
size() { stat --format %s "$1"; }
echo "image: $folder/leasehold-$arch.tar: program $(size "$program") bytes, archive (compressed) $(size "$folder/leasehold-$arch.tar") bytes" >&2
