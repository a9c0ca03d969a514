#!/usr/bin/env bash
# Stand-in for NVIDIA's package repository: builds labelled stand-ins for the four packages of the container toolkit, in two versions, and signs the
# repository with a key made here. It is laid out as a mirror: MIRROR/nvidia.github.io/libnvidia-container/{gpgkey,stable/deb/<architecture>}.
# Usage, on Debian with apt-utils, gpg and gpg-agent: build.sh MIRROR; prints the fingerprint of the key.
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "$0")" && pwd)
root=${1:?directory of the mirror}/nvidia.github.io/libnvidia-container
architecture=$(dpkg --print-architecture)
repository=$root/stable/deb/$architecture
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GNUPGHOME=$work/keys
mkdir -p -m 0700 "$GNUPGHOME" "$repository"

package() {  # NAME VERSION DEPENDS; what is in $work/NAME already goes into it
  mkdir -p "$work/$1/DEBIAN"
  cat >"$work/$1/DEBIAN/control" <<END
Package: $1
Version: $2
Architecture: $architecture
Maintainer: Nobody <nobody@example.org>
${3:+Depends: $3}
Description: stand-in for $1, for tests of baremetal.llm
END
  sed -i '/^$/d' "$work/$1/DEBIAN/control"
  dpkg-deb --root-owner-group --build "$work/$1" "$repository" >/dev/null
  rm -r "${work:?}/$1"
}

base() {  # what nvidia-container-toolkit-base brings along
  local place=$work/nvidia-container-toolkit-base
  mkdir -p "$place/usr/bin" "$place/usr/lib/systemd/system" "$place/DEBIAN"
  cp "$here/nvidia-ctk" "$place/usr/bin/nvidia-ctk"
  printf '#!/bin/sh\n# stand-in: a runtime without a GPU\nexec runc "$@"\n' >"$place/usr/bin/nvidia-container-runtime"
  # As upstream's, without what asks nvidia-smi.
  cat >"$place/usr/lib/systemd/system/nvidia-cdi-refresh.service" <<'END'
[Unit]
Description=Refresh NVIDIA CDI specification file (stand-in)
ConditionPathExists=/proc/driver/nvidia/version
ConditionPathExists=/usr/bin/nvidia-ctk
[Service]
Type=oneshot
Environment=NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml
ExecStart=/usr/bin/nvidia-ctk cdi generate
[Install]
WantedBy=multi-user.target
END
  cat >"$place/usr/lib/systemd/system/nvidia-cdi-refresh.path" <<'END'
[Unit]
Description=Trigger CDI refresh on toolkit install events (stand-in)
[Path]
PathChanged=/usr/bin/nvidia-ctk
[Install]
WantedBy=multi-user.target
END
  # What debhelper writes, in short.
  cat >"$place/DEBIAN/postinst" <<'END'
#!/bin/sh
set -e
systemctl daemon-reload
systemctl enable --quiet nvidia-cdi-refresh.path nvidia-cdi-refresh.service
systemctl start nvidia-cdi-refresh.path nvidia-cdi-refresh.service
END
  cat >"$place/DEBIAN/prerm" <<'END'
#!/bin/sh
set -e
[ "$1" != remove ] || systemctl disable --quiet --now nvidia-cdi-refresh.path nvidia-cdi-refresh.service
END
  chmod 0755 "$place/usr/bin/"* "$place/DEBIAN/postinst" "$place/DEBIAN/prerm"
}

for version in 1.20.0-1 1.20.1-1; do
  package libnvidia-container1 "$version" ""
  package libnvidia-container-tools "$version" "libnvidia-container1 (>= $version)"
  base
  package nvidia-container-toolkit-base "$version" ""
  package nvidia-container-toolkit "$version" "nvidia-container-toolkit-base (= $version), libnvidia-container-tools (= $version)"
done

gpg --batch --quiet --passphrase '' --quick-generate-key 'stand-in <nobody@example.org>' rsa3072 sign never
gpg --batch --armor --export >"$root/gpgkey"
cd "$repository"
apt-ftparchive packages . >Packages
apt-ftparchive release . >"$work/Release"
gpg --batch --quiet --yes --clear-sign --output InRelease "$work/Release"
gpg --batch --list-keys --with-colons | sed -n 's/^fpr:*\([0-9A-F]*\):.*/\1/p' | head -n 1
