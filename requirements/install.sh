#!/usr/bin/env bash
# The virtual environment .venv with the hash-locked requirements of one purpose, and the link under which Ansible finds
# this checkout as the collection baremetal.llm. Usage: install.sh demo|test. Does nothing where nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:?demo or test}
venv=$PWD/.venv
wanted=$(echo "$venv" | cat - requirements/*.txt requirements/install.sh | sha256sum)

collection=.collections/ansible_collections/baremetal/llm
[ -e "$collection" ] || { mkdir -p "${collection%/*}" && ln -s ../../.. "$collection"; }

# What the tests need holds what the demo needs.
for stamp in "$venv/.installed-$purpose" "$venv/.installed-test"; do
  [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || ! "$venv/bin/python" -c '' 2>/dev/null || exit 0
done

# ansible-core 2.19 runs on Python 3.11 to 3.13; Debian and Ubuntu ship venv as a package of its own.
find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

if ! python=$(find_python) && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Python 3.11 or newer with venv is missing: installing the distribution's."
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
  # Ubuntu 22.04: its python3 is 3.10, but it has this one too.
  find_python >/dev/null || apt-get install -y -qq --no-install-recommends python3.11-venv >/dev/null || true
fi
if ! python=$(find_python); then
  echo "No Python 3.11, 3.12 or 3.13 with venv. On Debian or Ubuntu: sudo apt-get install python3-venv (Ubuntu 22.04: python3.11-venv)." >&2
  exit 1
fi

# The system's trust store, and the index that pip was told to use, count for uv as well.
export UV_CACHE_DIR="${LLM_CACHE:?}/uv" UV_SYSTEM_CERTS=true PIP_DISABLE_PIP_VERSION_CHECK=1
[ -z "${SSL_CERT_FILE:-}" ] || export PIP_CERT="${PIP_CERT:-$SSL_CERT_FILE}"

echo "Python environment for $purpose: $venv"
"$python" -m venv --clear "$venv"
"$venv/bin/pip" install --quiet --require-hashes -r requirements/uv.txt
index=$("$venv/bin/pip" config get global.index-url 2>/dev/null || true)
[ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --require-hashes -r "requirements/$purpose.txt"
echo "$wanted" >"$venv/.installed-$purpose"
