# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stand-in for the image ghcr.io/ggml-org/llama.cpp:server: the real llama-server at its place, and no more around it than the libraries it needs.

Image registries cannot be reached from machines that only have package registries. Writes an OCI layout, of which skopeo makes an image in a
registry, and prints the image's digest. Usage: build.py /path/of/llama-server DIRECTORY
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import typing as t
from pathlib import Path


def layer(program: Path) -> bytes:
    """The root file system: the program in /app, its libraries where it looks for them, directories as a distribution has them."""
    linked = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
    libraries = re.findall(r"(/\S+) \(0x", linked)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        files = {"app/llama-server": program, **{name.lstrip("/"): Path(name) for name in libraries}}
        directories = {str(parent) for place in files for parent in Path(place).parents} - {"."}
        for name in sorted(directories | {"etc", "tmp", "var"}):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(directory)
        for place, path in files.items():
            content = path.resolve().read_bytes()
            entry = tarfile.TarInfo(place)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def write(directory: Path, content: bytes) -> dict[str, t.Any]:
    digest = hashlib.sha256(content).hexdigest()
    (directory / "blobs/sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def main(program: Path, directory: Path) -> str:
    (directory / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    plain = layer(program)
    # Of its configuration the entry point and what gets in the way: another port, and a health check that asks there.
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": ["/app/llama-server"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LLAMA_ARG_HOST=0.0.0.0"],
            "WorkingDir": "/app",
            "Healthcheck": {"Test": ["CMD", "curl", "-f", "http://localhost:8080/health"]},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]},
    }
    kind = "application/vnd.oci.image"
    packed = write(directory, gzip.compress(plain, 1, mtime=0))
    described = write(directory, json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": {"mediaType": f"{kind}.config.v1+json", **described},
        "layers": [{"mediaType": f"{kind}.layer.v1.tar+gzip", **packed}],
    }
    image = write(directory, json.dumps(manifest).encode())
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    index = {"schemaVersion": 2, "manifests": [{"mediaType": f"{kind}.manifest.v1+json", **image}]}
    (directory / "index.json").write_text(json.dumps(index))
    return str(image["digest"])


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2])))
