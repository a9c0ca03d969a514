#!/usr/bin/env bash
# A Docker engine that answers: the one there is, or, as root on Debian or Ubuntu, the distribution's.
set -euo pipefail

log="${LLM_CACHE:?}/dockerd.log"

answers() { timeout 30 docker version --format '{{.Server.Version}}' 2>"$reason"; }
stop() { printf '%s\n' "$@" >&2; exit 1; }
on_debian() { grep -qsE '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release && command -v apt-get >/dev/null; }

# Not `systemctl` alone: it is installed on many machines where it is not PID 1.
start_engine() {
  if [ -d /run/systemd/system ]; then
    systemctl enable --now docker
  else
    mkdir -p "${log%/*}"
    setsid nohup dockerd >"$log" 2>&1 </dev/null &
    started=$!
  fi
  for _ in {1..60}; do
    answers >/dev/null && return
    [ -z "${started:-}" ] || kill -0 "$started" 2>/dev/null || break
    sleep 1
  done
  [ ! -s "$log" ] || tail -n 5 "$log" >&2
  stop "The Docker engine does not start; its messages: ${started:+$log}${started:-journalctl -u docker}."
}

reason=$(mktemp)
trap 'rm -f "$reason"' EXIT

if version=$(answers); then
  echo "Docker engine $version answers."
  exit
fi
if [ "$(id -u)" != 0 ]; then
  ! grep -q 'permission denied' "$reason" || stop "The Docker engine refuses this user. Let it in: sudo usermod -aG docker $(id -un), then log in again."
  stop "No Docker engine answers. On Debian or Ubuntu: sudo apt-get install docker.io iptables && sudo usermod -aG docker $(id -un)" \
    "Elsewhere: https://docs.docker.com/engine/install/. Then log in again."
fi
# A client without an engine (a static `docker` in /usr/local/bin) does not count; the daemon's own command does.
if ! command -v dockerd >/dev/null; then
  on_debian || stop "No Docker engine answers. Install one: https://docs.docker.com/engine/install/"
  echo "No Docker engine answers: installing the distribution's."
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends docker.io iptables ca-certificates >/dev/null
fi
start_engine
echo "Docker engine $(answers) started."
