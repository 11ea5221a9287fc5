#!/bin/sh
# Makes the passwords that compose.yaml needs, once, in the folder given: PostgreSQL's, and the same in libpq's own format.
set -eu
cd "$1"
umask 077
if [ ! -s pgpass ]; then
  python3 -c 'import secrets; print(secrets.token_urlsafe(32), end="")' > postgres
  # Written aside and renamed: a file that was begun is not taken for a whole one.
  printf 'postgres:5432:*:driftline:%s\n' "$(cat postgres)" > pgpass.new
  mv pgpass.new pgpass
fi
