#!/usr/bin/env bash
# Make a small Debian 13 tree with RabbitMQ 4.0, Redis 8.0 and Valkey 8.1 in .matrix/, and a folder of commands for
# each: .matrix/bin/rabbitmq-4, redis-8, valkey-8.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

home=$PWD/.matrix
tree=$home/trixie

# write_command SERVER NAME PROGRAM: a command that runs a program of the tree.
write_command() {
    mkdir -p "$home/bin/$1"
    printf '#!/bin/sh\nexec "%s/scripts/in-tree.sh" "%s" "%s" "$@"\n' "$PWD" "$tree" "$3" >"$home/bin/$1/$2"
    chmod 755 "$home/bin/$1/$2"
}

scripts/debian-tree.sh trixie rabbitmq-server,redis-server,valkey-server
for program in rabbitmq-server rabbitmqctl; do
    write_command rabbitmq-4 "$program" "/usr/lib/rabbitmq/bin/$program"
done
write_command rabbitmq-4 epmd /usr/bin/epmd
for program in server cli; do
    write_command redis-8 "redis-$program" "/usr/bin/redis-$program"
    write_command valkey-8 "redis-$program" "/usr/bin/valkey-$program"
done
