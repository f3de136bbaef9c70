"""Works five times a second while this pod leads, and nowhere else."""

import fcntl, json, os, sqlite3, time, urllib.request

URL = os.environ.get("LEASEHOLD_URL", "http://127.0.0.1:4040")
DIR = os.environ.get("LEASEHOLD_DIR", "/run/leasehold")
POD = os.environ.get("POD_NAME", os.uname().nodename)
ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # to localhost by no proxy
alive = open(DIR + "/alive")
fcntl.flock(alive, fcntl.LOCK_SH)  # this pod leads only while this process lives, which holds the lock
store = sqlite3.connect(os.environ.get("STORE", "store.db"), isolation_level=None)


def term():
    """The fencing token, and until when by this process's own clock a step may begin."""
    asked = time.monotonic()  # before the question
    try:
        with ask(URL + "/v1/leader", timeout=1) as reply:
            answer = json.load(reply)
        return answer["fencing_token"], asked + answer["valid_for_ms"] / 1000  # 0 ms: not leader
    except (OSError, ValueError):
        return None, asked  # no answer is a no


def step(token):
    """One transaction, which does nothing if the store has seen a newer token. Says whether it did."""
    store.execute("BEGIN IMMEDIATE")
    with store:
        store.execute(
            "INSERT INTO fence (name, token) VALUES ('work', ?)"
            " ON CONFLICT (name) DO UPDATE SET token = excluded.token WHERE fence.token < excluded.token", (token,))
        done = store.execute(
            "INSERT INTO work (token, pod) SELECT token, ? FROM fence WHERE name = 'work' AND token = ?", (POD, token))
        return done.rowcount == 1


while True:
    token, until = term()
    if time.monotonic() < until:
        print("worked" if step(token) else "refused", "under token", token, flush=True)
    time.sleep(0.2)
