#!/usr/bin/env bash
# Builds the stand-in libnvidia-ml.so.1 into a directory, unless it is there and newer than its sources: build.sh OUTDIR
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
library="${1:?build.sh OUTDIR}/libnvidia-ml.so.1"

if [ "$library" -nt "$here/nvml.c" ] && [ "$library" -nt "${BASH_SOURCE[0]}" ]; then
  exit
fi
mkdir -p "${library%/*}"
# gnu11: from C23 on a newer C library gives strtod and sscanf names that older ones lack. Renamed at the end: two builds may run at once.
cc -std=gnu11 -shared -fPIC -O1 -Wall -Wextra -Werror -Wl,-soname,libnvidia-ml.so.1 -o "$library.$$" "$here/nvml.c"
mv "$library.$$" "$library"
