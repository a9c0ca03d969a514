#!/bin/sh
# Somebody else's PostgreSQL and Redis, as the distribution brings them: reached by TLS alone, with a certificate of an authority of its own.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends openssl postgresql redis-server >/dev/null
name=$(hostname)

mkdir -p /etc/theirs
cd /etc/theirs
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=Their CA" -keyout ca.key -out ca.crt 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout server.key -out server.csr 2>/dev/null
echo "subjectAltName=DNS:$name" >names
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt 2>/dev/null
for user in postgres redis; do
  install --owner="$user" --mode=0600 server.key "$user.key"
done

place=$(echo /etc/postgresql/*/main)
cat >"$place/conf.d/theirs.conf" <<CONF
listen_addresses = '*'
ssl = on
ssl_cert_file = '/etc/theirs/server.crt'
ssl_key_file = '/etc/theirs/postgres.key'
CONF
echo "hostssl all litellm all scram-sha-256" >>"$place/pg_hba.conf"
systemctl restart postgresql
runuser --user postgres -- psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 <<SQL
CREATE ROLE litellm LOGIN PASSWORD '$DATABASE_PASSWORD';
CREATE DATABASE litellm OWNER litellm ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0;
SQL

cat >>/etc/redis/redis.conf <<CONF
bind * -::*
port 0
tls-port 6380
tls-cert-file /etc/theirs/server.crt
tls-key-file /etc/theirs/redis.key
tls-ca-cert-file /etc/theirs/ca.crt
tls-auth-clients no
requirepass $REDIS_PASSWORD
CONF
mkdir -p /etc/systemd/system/redis-server.service.d
printf '[Service]\nPrivateUsers=no\n' >/etc/systemd/system/redis-server.service.d/container.conf # there are no user namespaces in this machine
systemctl daemon-reload
systemctl restart redis-server
touch finished
