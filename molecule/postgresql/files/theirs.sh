#!/bin/sh
# Somebody else's server: a cluster on port 6543 that other machines reach by TLS, with a certificate of its own authority.
# Usage: theirs.sh VERSION PASSWORD
set -eu
place=/etc/postgresql/$1/theirs
pg_createcluster --port 6543 --locale C.UTF-8 --encoding UTF8 "$1" theirs
cd "$place"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=Their CA" -keyout ca.key -out ca.crt 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=db.example.org" -keyout server.key -out server.csr 2>/dev/null
echo "subjectAltName=DNS:db.example.org" >names
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt 2>/dev/null
chown postgres server.key
chmod 600 server.key
cat >conf.d/theirs.conf <<CONF
listen_addresses = '*'
ssl = on
ssl_cert_file = '$place/server.crt'
ssl_key_file = '$place/server.key'
CONF
cat >>pg_hba.conf <<HBA
hostssl litellm,latin,shared,missing litellm,boss all scram-sha-256
host plain litellm all scram-sha-256
HBA
systemctl start "postgresql@$1-theirs"
runuser --user postgres -- psql --no-psqlrc --quiet --port=6543 --set=ON_ERROR_STOP=1 <<SQL
CREATE ROLE litellm LOGIN PASSWORD '$2';
CREATE ROLE boss LOGIN SUPERUSER PASSWORD '$2';
CREATE DATABASE litellm OWNER litellm;
CREATE DATABASE plain OWNER litellm;
CREATE DATABASE shared;
CREATE DATABASE latin OWNER litellm TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C';
SQL
