#!/usr/bin/env bash
# The fresh machine's image: Debian with systemd as PID 1 and Python for Ansible, nothing of ours.
# Usage: image.sh bookworm|trixie. Kept until this script or what it carries over from the host changes.
set -euo pipefail

suite=${1:?the Debian release, e.g. bookworm}
image="${LLM_MACHINE_IMAGE:-baremetal-llm-machine}:$suite"
packages=systemd,systemd-sysv,dbus,python3,python3-apt,ca-certificates,iproute2,procps,sudo

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
carried=$work/carried

# The machine must reach what the host reaches: the host's own authorities, proxy and mirror.
mirror() {  # where the host, if it is a Debian, gets the archive with this label
  apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" "Label: $1" 2>/dev/null | head -n 1 || true
}
archive=$(mirror Debian)
security=$(mirror Debian-Security)
mkdir -p "$carried/etc/apt/apt.conf.d" "$carried/usr/local/share/ca-certificates"
find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$carried/usr/local/share/ca-certificates/" \; 2>/dev/null || true
{ apt-config dump 2>/dev/null || true; } | grep -E '^Acquire::(https?::|Check-)' >"$carried/etc/apt/apt.conf.d/90host" || true
sources=$carried/etc/apt/sources.list  # stays away where the host names no archive: the image's own is used then
[ -z "$archive" ] || printf 'deb %s main\n' "$archive $suite" "$archive $suite-updates" >"$sources"
[ -z "$archive" ] || [ -z "$security" ] || printf 'deb %s %s-security main\n' "$security" "$suite" >>"$sources"

key=$( (cat "$0"; echo "$suite"; cd "$carried"; find . -type f | sort | xargs cat) | sha256sum | cut -c 1-16)
if [ "$(docker image inspect --format '{{index .Config.Labels "baremetal.llm.key"}}' "$image" 2>/dev/null)" = "$key" ]; then
  echo "Image $image is there."
  exit
fi

if timeout 120 docker pull --quiet "debian:$suite" 2>/dev/null; then
  echo "Building $image from the pulled debian:$suite."
  cat >"$work/Dockerfile" <<EOF
FROM debian:$suite
COPY carried/ /
RUN if [ -e /etc/apt/sources.list ]; then rm -f /etc/apt/sources.list.d/debian.sources; fi \
 && apt-get update && apt-get install -y --no-install-recommends ${packages//,/ } \
 && update-ca-certificates
ENV container=docker
LABEL baremetal.llm.key=$key
CMD ["/sbin/init"]
EOF
  docker build --quiet --tag "$image" "$work"
  exit
fi

echo "No image registry answers: building $image from Debian's packages."
if ! command -v mmdebstrap >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Neither an image registry nor mmdebstrap: pull debian:$suite, or install mmdebstrap and debian-archive-keyring (Debian, Ubuntu)." >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends mmdebstrap debian-archive-keyring >/dev/null
fi
# the package lists stay, as on a real machine: without them --check could not tell what apt would install
mmdebstrap --quiet --skip=cleanup/apt/lists --variant=minbase --include="$packages" --aptopt="$carried/etc/apt/apt.conf.d/90host" \
  --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
  --customize-hook="sync-in '$carried' /" --customize-hook='rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap' \
  --customize-hook='if [ -s "$1"/etc/apt/sources.list ]; then rm -f "$1"/etc/apt/sources.list.d/*; fi' \
  --customize-hook='chroot "$1" update-ca-certificates >/dev/null 2>&1' \
  "$suite" - ${archive:+"$sources"} |
  docker import --change 'CMD ["/sbin/init"]' --change 'ENV container=docker' --change "LABEL baremetal.llm.key=$key" - "$image" >/dev/null
echo "Image $image built."
