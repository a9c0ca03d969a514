#!/usr/bin/env bash
# The programs besides Python that the tests run on this machine. As root on Debian or Ubuntu the missing ones are installed.
set -euo pipefail

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v gpg >/dev/null || missing+=(gpg gpg-agent)
command -v npm >/dev/null || missing+=(npm)  # brings the stand-in for Prisma's engines
command -v age >/dev/null || missing+=(age)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "The tests need a C compiler (cc), gpg, age and npm. On Debian or Ubuntu: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "Installing for the tests: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
