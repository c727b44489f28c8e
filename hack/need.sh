# Sourced by the scripts here: sees that the tools they build with are there,
# and installs what Debian has of them when it may.

need_go=1.26

# need COMMAND PACKAGE WHY
need() {
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $2: $3" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null
    command -v "$1" >/dev/null && return
  fi
  echo "$1 is missing: $3" >&2
  echo "hint: install it, on Debian and Ubuntu: apt-get install $2" >&2
  exit 1
}

need_build() {
  need git git "the version of a build comes from it"
  need gcc build-essential "DuckDB is linked by cgo, which takes a C compiler"
  if ! command -v go >/dev/null; then
    echo "go is missing" >&2
    echo "hint: install Go $need_go or later from https://go.dev/dl/" >&2
    exit 1
  fi
}

need_node() {
  need node nodejs "the portal's scripts are bundled with it"
  need npm npm "the portal's scripts are bundled with what it installs"
}

# need_postgres sees that tests find PostgreSQL, or says that they run without.
need_postgres() {
  ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing postgresql: users of the portal are tested on it" >&2
    # No cluster of its own: tests start theirs.
    mkdir -p /etc/postgresql-common && { [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf; }
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null && return
  fi
  echo "without PostgreSQL the users of the portal are tested on SQLite alone; on Debian and Ubuntu: apt-get install postgresql" >&2
}

# need_chromium sees that tests find a browser, or says that they run without.
need_chromium() {
  local name
  for name in chromium chromium-browser google-chrome; do
    ! command -v "$name" >/dev/null || return 0
  done
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing chromium: the portal's pages are tested in it" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null && return
  fi
  echo "without Chromium the portal's pages are not looked at in a browser; on Debian: apt-get install chromium" >&2
}

# need_dbus sees that tests find a D-Bus daemon, or says that they run without.
need_dbus() {
  ! command -v dbus-daemon >/dev/null || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing dbus: micro:bits are tested over it" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq dbus >/dev/null && return
  fi
  echo "without dbus-daemon nothing of Bluetooth is tested; on Debian and Ubuntu: apt-get install dbus" >&2
}
