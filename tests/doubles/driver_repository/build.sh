#!/usr/bin/env bash
# A stand-in for NVIDIA's package repository for Debian 13, which cannot be had from package registries: packages with the names, versions and
# dependencies of the real ones, without a driver in them. The kernel module is an empty ELF file that only names its version and licence.
# Usage, on the machine under test: build.sh MIRROR. Prints the fingerprint of the key that signs it.
set -euo pipefail

place=${1:?the mirror}/developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$place"

package() {  # name, version, further fields of the control file; what lies in $work/tree goes into it
  mkdir -p "$work/tree/DEBIAN"
  printf '%s\n' "Package: $1" "Version: $2-1" "Architecture: all" "Maintainer: Nobody <nobody@example.org>" "Description: stand-in" "${@:3}" \
    >"$work/tree/DEBIAN/control"
  dpkg-deb --root-owner-group --build "$work/tree" "$place" >/dev/null
  rm -r "$work/tree"
}

for version in 580.95.05 580.105.08 590.44.01; do
  for flavour in "" -open; do
    module=$work/tree/lib/modules/6.12.0-stand-in/updates/dkms/nvidia-current$flavour.ko
    mkdir -p "$(dirname "$module")"
    python3 "$here/module.py" "$version" "$([ -n "$flavour" ] && echo "Dual MIT/GPL" || echo NVIDIA)" >"$module"
    package "nvidia-kernel$flavour-dkms" "$version" "Depends: kmod"
  done
  package libnvidia-ml1 "$version"
  package nvidia-driver-cuda "$version" "Depends: libnvidia-ml1 (= $version-1)"
done
package nvidia-container-toolkit 1.20.0

export GNUPGHOME=$work/gnupg
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key nobody@example.org rsa3072 sign never
gpg --batch --armor --export >"$place/8793F200.pub"
cd "$place"
apt-ftparchive packages . >Packages
apt-ftparchive -o APT::FTPArchive::Release::Origin=NVIDIA -o "APT::FTPArchive::Release::Label=NVIDIA CUDA" release . >"$work/Release"
gpg --batch --clear-sign --output InRelease "$work/Release"
gpg --batch --with-colons --list-keys | awk -F: '$1 == "fpr" {print $10; exit}'
