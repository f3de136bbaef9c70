#!/usr/bin/env bash
# What the program is made of, by CycloneDX: the crates that are linked into it, with versions, licences and sums.
#
#   sbom.sh CARGO_CYCLONEDX TRIPLE FOLDER    writes FOLDER/leasehold.cdx.json
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cyclonedx=$1 triple=$2
mkdir -p "$3"
# The tool writes beside Cargo.toml; a commit's time keeps two lists of the same sources alike.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0) \
    "$cyclonedx" cyclonedx --format json --spec-version 1.5 --target "$triple" --no-build-deps \
    --override-filename leasehold.cdx --manifest-path Cargo.toml >&2
mv leasehold.cdx.json "$3/leasehold.cdx.json"
rm -f crates/*/leasehold.cdx.json
python3 - "$3/leasehold.cdx.json" <<'P' >&2
import json, sys
bom = json.load(open(sys.argv[1]))
names = {c["name"] for c in bom["components"]}
missing = {"hyper", "rustls", "ring", "kube-client", "tokio"} - names
assert not missing, f"sbom: {missing} is linked and not listed"
print(f"sbom: {len(names)} crates in {sys.argv[1]}")
P
