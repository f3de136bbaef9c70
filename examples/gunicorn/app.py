"""A web app of four workers, of which one, in one pod only, also works five times a second."""

import http.client, json, os, sqlite3, threading, time, urllib.request

SESSION = os.environ.get("LEASEHOLD_URL", "http://127.0.0.1:4040") + "/v1/session?exclusive=true"
POD = os.environ.get("POD_NAME", os.uname().nodename)
ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # to localhost by no proxy
told = {"leader": False}  # the newest event


def listen():
    """Holds a session open for as long as this worker lives. Of its pod's, one is told that it leads."""
    global told
    while True:
        try:
            with ask(SESSION, timeout=3) as events:
                for line in events:
                    if line.startswith(b"data:"):
                        told = json.loads(line[5:])
        except (OSError, http.client.HTTPException, ValueError):
            pass  # the sidecar is not there, or not yet again
        told = {"leader": False}
        time.sleep(0.2)


def leads(event):
    """An event may have lain unread, so it names the times of the boot clock between which its yes is true."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    return event["leader"] and event["valid_from_uptime"] <= now < event["valid_until_uptime"]


def step(store, token):
    """One transaction, which does nothing if the store has seen a newer token. Says whether it did."""
    store.execute("BEGIN IMMEDIATE")
    with store:
        store.execute(
            "INSERT INTO fence (name, token) VALUES ('work', ?)"
            " ON CONFLICT (name) DO UPDATE SET token = excluded.token WHERE fence.token < excluded.token", (token,))
        done = store.execute(
            "INSERT INTO work (token, pod) SELECT token, ? FROM fence WHERE name = 'work' AND token = ?",
            (f"{POD}/{os.getpid()}", token))
        return done.rowcount == 1


def work():
    store = sqlite3.connect(os.environ.get("STORE", "store.db"), isolation_level=None)
    while True:
        event = told
        if leads(event):
            token = event["fencing_token"]
            print("worked" if step(store, token) else "refused", "under token", token, flush=True)
        time.sleep(0.2)


def start():
    for run in listen, work:
        threading.Thread(target=run, daemon=True).start()


def app(environ, respond):
    respond("200 OK", [("Content-Type", "text/plain")])
    return [b"leader\n" if leads(told) else b"not leader\n"]
