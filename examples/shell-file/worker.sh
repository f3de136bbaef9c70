#!/bin/sh
# Works five times a second while this pod leads, and nowhere else; told by a file, without a request.

: "${LEASEHOLD_DIR:=/run/leasehold}" "${POD_NAME:=$(hostname)}" "${STORE:=store.db}"

# This pod leads only while this script lives, or something that it started: they hold the lock.
exec 9<"$LEASEHOLD_DIR/alive" && flock -s 9 || exit 1

# Whether a step may begin now, and under which LEASEHOLD_TOKEN. All times are hundredths of a second since boot.
leads() {
  LEASEHOLD_LEADER=0
  [ -r "$LEASEHOLD_DIR/status.env" ] && . "$LEASEHOLD_DIR/status.env"
  read -r up _ </proc/uptime; up=${up%.*}${up#*.}
  [ "$LEASEHOLD_LEADER" = 1 ] && [ "$LEASEHOLD_VALID_FROM" -le "$up" ] && [ "$up" -lt "$LEASEHOLD_VALID_UNTIL" ]
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
  if leads; then
    case $(step "$LEASEHOLD_TOKEN") in
      1) echo "worked under token $LEASEHOLD_TOKEN" ;;
      0) echo "refused under token $LEASEHOLD_TOKEN" ;;
    esac
  fi
done
