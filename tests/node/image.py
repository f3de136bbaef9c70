#!/usr/bin/env python3
"""Writes a folder as an OCI image archive of one layer, the same bytes each time.

    image.py --name NAME --entrypoint PROGRAM [--arg ARG]... [--env KEY=VALUE]... [--user UID:GID] FOLDER ARCHIVE

`ctr images import ARCHIVE` makes it known as NAME. Everything in it belongs to root.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import tarfile


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer_of(folder):
    """The folder as a tar, with nothing in it that differs from one run to the next."""

    def plain(entry):
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(os.listdir(folder)):
            tar.add(os.path.join(folder, name), arcname=name, filter=plain)
    return data.getvalue()


def archive(image, layer):
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    # Loaded once from a local disk: quick to pack matters, size does not.
    packed = gzip.compress(layer, 1, mtime=0)
    config = json.dumps({
        "architecture": machine,
        "os": "linux",
        "config": {"Entrypoint": [image.entrypoint], "Cmd": image.arg, "Env": image.env, "User": image.user},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }).encode()

    def describe(kind, data):
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(data), "size": len(data)}

    manifest = json.dumps({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("config.v1+json", config),
        "layers": [describe("layer.v1.tar+gzip", packed)],
    }).encode()
    names = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name}
    index = json.dumps({
        "schemaVersion": 2,
        "manifests": [describe("manifest.v1+json", manifest)
                      | {"platform": {"architecture": machine, "os": "linux"}, "annotations": names}],
    }).encode()
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": index}
    files |= {"blobs/sha256/" + digest(blob)[7:]: blob for blob in (manifest, config, packed)}
    with tarfile.open(image.archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
arguments.add_argument("--name", required=True)
arguments.add_argument("--entrypoint", required=True)
arguments.add_argument("--arg", action="append", default=[])
arguments.add_argument("--env", action="append", default=[])
arguments.add_argument("--user", default="")
arguments.add_argument("folder")
arguments.add_argument("archive")
image = arguments.parse_args()
archive(image, layer_of(image.folder))
