#!/usr/bin/env bash
# Builds the stand-in libnvidia-ml.so.1 into a directory, unless it is there and newer than its sources: build.sh OUTDIR
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
library="${1:?build.sh OUTDIR}/libnvidia-ml.so.1"

if [ "$library" -nt "$here/nvml.c" ] && [ "$library" -nt "${BASH_SOURCE[0]}" ]; then
  exit
fi
if ! command -v cc >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "No C compiler (cc). On Debian or Ubuntu: sudo apt-get install gcc libc6-dev; elsewhere gcc and the C library's headers." >&2
    exit 1
  fi
  echo "No C compiler: installing the distribution's."
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null
fi
mkdir -p "${library%/*}"
# gnu11: from C23 on a newer C library gives strtod and sscanf names that older ones lack. Renamed at the end: two builds may run at once.
cc -std=gnu11 -shared -fPIC -O1 -Wall -Wextra -Werror -Wl,-soname,libnvidia-ml.so.1 -o "$library.$$" "$here/nvml.c"
mv "$library.$$" "$library"
