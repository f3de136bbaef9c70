#!/bin/sh
# Works five times a second while this pod leads, and nowhere else. Needs curl 7.84 or newer.

: "${LEASEHOLD_URL:=http://127.0.0.1:4040}" "${LEASEHOLD_DIR:=/run/leasehold}"
: "${POD_NAME:=$(hostname)}" "${STORE:=store.db}"

# This pod leads only while this script lives, or something that it started: they hold the lock.
exec 9<"$LEASEHOLD_DIR/alive" && flock -s 9 || exit 1

# Hundredths of a second since the machine started: the number that counts on, whatever the wall clock does.
now() {
  read -r up _ </proc/uptime
  up=${up%.*}${up#*.}
}

# Sets the fencing token, and until when a step may begin.
term() {
  now; asked=$up                                             # before the question
  answer=$(curl --silent --noproxy '*' --max-time 1 --output /dev/null \
    --write-out '%header{leasehold-valid-for-ms} %header{leasehold-token}' "$LEASEHOLD_URL/v1/leader") || answer=0
  valid_for=${answer%% *} token=${answer#* }
  until=$((asked + ${valid_for:-0} / 10))                    # 0 ms: not leader
}

# One transaction, which does nothing if the store has seen a newer token. Prints how many rows it wrote.
step() {
  sqlite3 -batch -bail -cmd '.timeout 5000' "$STORE" "
    BEGIN IMMEDIATE;
    INSERT INTO fence (name, token) VALUES ('work', $1)
      ON CONFLICT (name) DO UPDATE SET token = excluded.token WHERE fence.token < excluded.token;
    INSERT INTO work (token, pod) SELECT token, '$POD_NAME' FROM fence WHERE name = 'work' AND token = $1;
    SELECT changes();
    COMMIT;"
}

while sleep 0.2; do
  term; now
  if [ "$up" -lt "$until" ]; then
    case $(step "$token") in
      1) echo "worked under token $token" ;;
      0) echo "refused under token $token" ;;
    esac
  fi
done
