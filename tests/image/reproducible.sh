#!/usr/bin/env bash
# Builds the static release a second time, from a copy of the sources in another folder, with another folder for what
# cargo downloads and another target folder, and compares it byte by byte with the first.
#
#   reproducible.sh PROGRAM
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

first=$(realpath "$1")
triple=$(basename "$(dirname "$(dirname "$first")")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/elsewhere" "$work/cargo"
git ls-files -z --cached --others --exclude-standard Cargo.toml Cargo.lock Makefile rust-toolchain.toml src crates benches tests/report tests/simulation \
    | xargs -0 cp --parents -t "$work/elsewhere"
# The same downloads under another path.
ln -s "${CARGO_HOME:-$HOME/.cargo}/registry" "$work/cargo/registry"
env -u CARGO_TARGET_DIR CARGO_HOME="$work/cargo" make -s -C "$work/elsewhere" static target="$triple"
second=$work/elsewhere/target/$triple/release/leasehold
sha256sum "$first" "$second" | sed "s#$work#...#" >&2
cmp "$first" "$second" || { echo "reproducible: two builds of the same sources differ" >&2; exit 1; }
echo "reproducible: two builds, the same $(stat --format %s "$first") bytes" >&2
