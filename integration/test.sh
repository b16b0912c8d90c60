#!/usr/bin/env bash
# The whole test run: real PostgreSQL, MariaDB and Kafka in folders of their own, then every test of the workspace.
#   integration/test.sh [arguments for the test binaries, such as a filter]
# Installs the two databases and Maven with its Java where they are missing (Debian, needs root or sudo), fetches the
# broker's jars and unpacks Prometheus' two programs below target. Ends with "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; echo "0 passed, 1 failed"; exit 1; }

update() {
  command -v apt-get >/dev/null || die "$1 is missing and there is no apt-get to install it with"
  as=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "$1 is missing: install it as root, then run this again"
    as=(sudo)
  fi
  say "installing $1"
  "${as[@]}" apt-get update -qq
}

install() {
  update "$1"
  DEBIAN_FRONTEND=noninteractive "${as[@]}" apt-get install -y -qq --no-install-recommends "$1" >/dev/null
}

# A package that is installed would run as a service, on a port that somebody may need.
unpack_prometheus() {
  update prometheus
  mkdir -p "$1"
  (cd "$1" && apt-get download -qq prometheus 2>/dev/null && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
}

postgres_bin() { printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1; }
# mariadbd lives where a user's PATH may not lead.
PATH=$PATH:/usr/sbin:/usr/local/sbin

command -v cargo >/dev/null || die "cargo is missing: install Rust $(sed -n 's/^rust-version = //p' Cargo.toml)"
[ -x "$(postgres_bin)/initdb" ] || install postgresql-15
command -v mariadbd >/dev/null || install mariadb-server
command -v java >/dev/null || install default-jre-headless
# The broker's jars: Debian has no package of it.
jars=$(realpath -m "${CARGO_TARGET_DIR:-target}")/kafka/libs
if ! ls "$jars"/kafka_2.13-*.jar >/dev/null 2>&1; then
  command -v mvn >/dev/null || install maven
  say "fetching Kafka"
  mvn -q -B -f integration/kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime \
    "-DoutputDirectory=$jars" >&2 || die "Kafka can not be fetched"
fi
bin=$(postgres_bin)
if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then
  prometheus=$PWD/target/prometheus
  [ -x "$prometheus/usr/bin/promtool" ] || unpack_prometheus "$prometheus" || die "prometheus can not be unpacked"
  PATH=$PATH:$prometheus/usr/bin
fi

dir=$(mktemp -d)
chmod 755 "$dir"
maria=
kafka=
stop() {
  trap - EXIT
  # A second signal must not leave the servers behind.
  trap '' INT TERM
  if [ -f "$dir/postgres/data/postmaster.pid" ]; then
    (cd / && as_postgres "$bin/pg_ctl" -D "$dir/postgres/data" -m immediate -w stop >/dev/null 2>&1) || true
  fi
  # Nothing of its data is kept. Waiting reaps it: as the child of a shell it would else stay a zombie.
  local server
  for server in $maria $kafka; do kill -9 "$server" 2>/dev/null && wait "$server" 2>/dev/null || true; done
  rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT TERM

# PostgreSQL refuses root, and both servers need a working directory that their user can read.
if [ "$(id -u)" = 0 ]; then
  as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups env HOME=/tmp "$@"; }
  maria_user=(--user=mysql)
else
  as_postgres() { "$@"; }
  maria_user=()
fi
own() { if [ "$(id -u)" = 0 ]; then chown "$1": "$2"; fi; }
# From 3,000 of its own: one that has not started yet does not show that it has a port.
free_port() {
  local port
  while :; do
    port=$(($1 + RANDOM % 3000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

start_postgres() {
  mkdir "$dir/postgres"
  own postgres "$dir/postgres"
  (cd / && as_postgres "$bin/initdb" -D "$dir/postgres/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8) \
    >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; return 1; }
  for _ in 1 2 3; do
    local port
    port=$(free_port 20000)
    local options="-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$dir/postgres -c max_connections=300"
    if (cd / && as_postgres "$bin/pg_ctl" -D "$dir/postgres/data" -w -t 30 -l "$dir/postgres/log" -o "$options" start >/dev/null 2>&1)
    then
      export TERCET_TEST_POSTGRES_URL="postgres://postgres@127.0.0.1:$port/postgres"
      return
    fi
  done
  cat "$dir/postgres/log" >&2
  return 1
}

start_mariadb() {
  mkdir "$dir/mariadb"
  own mysql "$dir/mariadb"
  mariadb-install-db --no-defaults "${maria_user[@]}" --datadir="$dir/mariadb/data" --skip-test-db \
    --auth-root-authentication-method=normal >"$dir/mariadb.log" 2>&1 || { cat "$dir/mariadb.log" >&2; return 1; }
  local root=(--no-defaults -S "$dir/mariadb/socket" -u root)
  for _ in 1 2 3; do
    local port
    port=$(free_port 23000)
    mariadbd --no-defaults "${maria_user[@]}" --datadir="$dir/mariadb/data" --port="$port" --bind-address=127.0.0.1 \
      --socket="$dir/mariadb/socket" --pid-file="$dir/mariadb/pid" --max-connections=300 --skip-name-resolve \
      --innodb-flush-log-at-trx-commit=1 --innodb-buffer-pool-size=128M >"$dir/mariadb.log" 2>&1 &
    maria=$!
    for _ in $(seq 300); do
      if mariadb-admin "${root[@]}" ping >/dev/null 2>&1; then
        mariadb "${root[@]}" -e "CREATE USER tercet@'%' IDENTIFIED BY 'tercet'; GRANT ALL ON *.* TO tercet@'%'"
        export TERCET_TEST_MARIADB_URL="mysql://tercet:tercet@127.0.0.1:$port/mysql"
        return
      fi
      kill -0 "$maria" 2>/dev/null || break
      sleep 0.1
    done
    kill "$maria" 2>/dev/null || true
    wait "$maria" || true
    maria=
  done
  cat "$dir/mariadb.log" >&2
  return 1
}

# Begins before the databases and is waited for after them: it takes longest.
start_kafka() {
  mkdir "$dir/kafka"
  kafka_port=$(free_port 26000)
  local controller
  controller=$(free_port 29000)
  cat >"$dir/kafka/properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$kafka_port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port
controller.listener.names=CONTROLLER
log.dirs=$dir/kafka/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=2097152
END
  local java=(java -Xms192m -Xmx192m -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$jars/*")
  {
    "${java[@]}" kafka.tools.StorageTool format --cluster-id dGVyY2V0LXRlc3RzLi4uLg --config "$dir/kafka/properties" &&
      exec "${java[@]}" kafka.Kafka "$dir/kafka/properties"
  } >"$dir/kafka/log" 2>&1 &
  kafka=$!
}

await_kafka() {
  for _ in $(seq 600); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$kafka_port") 2>/dev/null; then
      export TERCET_TEST_KAFKA="127.0.0.1:$kafka_port"
      return
    fi
    kill -0 "$kafka" 2>/dev/null || break
    sleep 0.1
  done
  cat "$dir/kafka/log" >&2
  return 1
}

# Incremental files would only fill the disk of a machine that builds once.
export CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never
say "building"
# The programs first: tests start them as processes.
cargo build --workspace --bins --locked --quiet || die "the workspace does not build"
cargo test --workspace --locked --no-run --quiet || die "the tests do not build"

say "starting PostgreSQL, MariaDB and Kafka"
start_kafka
start_postgres || die "PostgreSQL does not start"
start_mariadb || die "MariaDB does not start"
await_kafka || die "Kafka does not start"

status=0
cargo test --workspace --locked --no-fail-fast -- "$@" 2>&1 | tee "$dir/tests.log" || status=1

# Every binary ends with "test result: ok. 12 passed; 0 failed; ...". One that died has no such line, but cargo fails.
read -r passed failed < <(awk '/^test result:/ { passed += $4; failed += $6 } END { print passed + 0, failed + 0 }' "$dir/tests.log")
if [ "$status" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
if [ "$passed" = 0 ] && [ "$failed" = 0 ]; then say "no test ran"; failed=1; fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
