#!/usr/bin/env bash
# Make sure that the tests find RabbitMQ, Redis and PostgreSQL: a URL in the environment, an installed server, or, for
# root on Debian, a fresh install. The tests start private servers themselves; an installed service is not started.
set -euo pipefail

policy=/usr/sbin/policy-rc.d
saved=/usr/sbin/policy-rc.d.qbridge-saved
marker='# Written by QBridge for the time of one installation.'

has_rabbitmq() {
    [[ -n ${QBRIDGE_TEST_AMQP_URL:-} || -x /usr/lib/rabbitmq/bin/rabbitmq-server ]] ||
        PATH=$PATH:/usr/sbin:/usr/local/sbin command -v rabbitmq-server >/dev/null 2>&1
}

has_redis() {
    [[ -n ${QBRIDGE_TEST_REDIS_URL:-} ]] ||
        command -v redis-server >/dev/null 2>&1 || command -v valkey-server >/dev/null 2>&1
}

has_postgresql() {
    [[ -n ${QBRIDGE_TEST_POSTGRESQL_URL:-} ]] || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null ||
        command -v postgres >/dev/null 2>&1
}

explain_and_exit() {
    {
        echo "error: the tests need: ${missing[*]}"
        echo "  Debian or Ubuntu:  sudo apt-get install ${missing[*]}"
        echo "  macOS (Homebrew):  brew install rabbitmq redis postgresql"
        echo "or the URL of a server that they may use: QBRIDGE_TEST_AMQP_URL=amqp://… QBRIDGE_TEST_REDIS_URL=redis://…" \
            "QBRIDGE_TEST_POSTGRESQL_URL=postgresql://…"
    } >&2
    exit 1
}

# While the guard is in place, the packages' own services are not started; any other service is treated as before.
put_guard() {
    [[ -e $policy ]] && ! grep -qF "$marker" "$policy" && mv "$policy" "$saved"
    cat >"$policy" <<EOF
#!/bin/sh
$marker
for argument in "\$@"; do
    case "\$argument" in rabbitmq-server* | redis-server* | epmd* | postgresql*) exit 101 ;; esac
done
[ -x $saved ] && exec $saved "\$@"
exit 0
EOF
    chmod 755 "$policy"
}

remove_guard() {
    [[ -e $policy ]] && grep -qF "$marker" "$policy" && rm -f "$policy"
    if [[ -e $saved ]]; then
        mv "$saved" "$policy"
    fi
}

# The packages enable their services; without this they would run from the next boot on.
disable_services() {
    command -v systemctl >/dev/null 2>&1 || return 0
    systemctl disable "${missing[@]/%/.service}" >/dev/null 2>&1 || true
}

missing=()
has_rabbitmq || missing+=(rabbitmq-server)
has_redis || missing+=(redis-server)
has_postgresql || missing+=(postgresql)
[[ ${#missing[@]} -gt 0 ]] || exit 0

[[ $EUID -eq 0 && -e /etc/debian_version ]] && command -v apt-get >/dev/null 2>&1 || explain_and_exit

echo "Installing ${missing[*]} for the tests; the services are neither started nor enabled."
trap remove_guard EXIT
put_guard
apt-get -o DPkg::Lock::Timeout=300 -qq update || explain_and_exit
DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq install --yes \
    --no-install-recommends "${missing[@]}" >/dev/null || explain_and_exit
disable_services
