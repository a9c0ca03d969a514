#!/usr/bin/env bash
# ansible-test sanity on a copy of what git would commit: ansible-test wants the path ansible_collections/baremetal/llm to be real.
# Usage: tests/sanity.sh [ansible-test arguments], e.g. tests/sanity.sh --test validate-modules
set -euo pipefail
cd "$(dirname "$0")/.."

# Its own virtual environments live in a home of their own, kept between runs.
home="${LLM_CACHE:?}/sanity"
mkdir -p "$home/.ansible/test/cache" "$home/.config/pip"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# ansible-test downloads pip's bootstrap from Ansible's own site, which not every network reaches. Python brings one along.
# The name is the pip that ansible-core 2.19 asks for.
cat >"$home/.ansible/test/cache/get_pip_24_2.py" <<'EOF'
import ensurepip
import os
import runpy
import sys

ensurepip.bootstrap()
os.environ.pop("PIP_CONFIG_FILE", None)  # ensurepip set it to /dev/null: the machine's certificates and mirrors count
sys.argv = ["pip", "install", *(a for a in sys.argv[1:] if a not in ("--no-setuptools", "--no-wheel"))]
runpy.run_module("pip", run_name="__main__")
EOF

# ansible-test hides most of the environment from pip: what it must know goes into its file.
python=$PWD/.venv/bin/python
index=$("$python" -m pip config get global.index-url 2>/dev/null || true)
cert=${PIP_CERT:-${SSL_CERT_FILE:-}}
printf '[global]\n%s\n%s\n' "${index:+index-url = $index}" "${cert:+cert = $cert}" >"$home/.config/pip/pip.conf"

copy=$work/ansible_collections/baremetal/llm
mkdir -p "$copy"
git ls-files -coz --exclude-standard | tar --null --ignore-failed-read -T - -cf - 2>/dev/null | tar -xf - -C "$copy"
cd "$copy"
git init --quiet && git add --all
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
HOME=$home "${python%/*}/ansible-test" sanity --color no --python "$version" "$@"
