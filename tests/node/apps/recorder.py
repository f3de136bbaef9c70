#!/usr/bin/env python3
"""An app that asks whether it leads and writes down every promise that it gets. recorder/ is the same in Go.

It asks GET /v1/leader on one connection and reads status.json and status.env, over and over, and takes times by the
boot clock, which all pods of a machine share. Lines of JSON, times in nanoseconds:

    {"pod", "uid", "process", "started"}                                   the first
    {"pod", "via": "http"|"json"|"env", "asked", "answered", "leader": true, "token", "until"}
                                                                           a promise, each of them
    {"pod", "via", "asked", "answered", "leader": false, "reason"}         when that changes
    {"pod", "told": "term"|"exit"|"eat", "at"}                             what it is told to do
    {"pod", "ended"}                                                       the last, unless it is killed

It holds a lock (flock) on its file for as long as it lives, so that a reader can tell whether it has ended.

POD_NAME, POD_UID   who it is; the host name, and nothing, unless set
RECORDER_FOLDER     where its file goes, named by pod and start; to standard output unless set
RECORDER_ALIVE      lock or session: what it shows the sidecar before its first question; nothing unless set
RECORDER_PAUSE_MS   between two questions, 30
RECORDER_LINGER_MS  goes on for that long after SIGTERM, 0
RECORDER_RUN_MS     ends by itself after that time; runs on unless set
RECORDER_PORT       8080: / says whether it leads by its last promise, /eat eats memory, /exit?code=N ends it
LEASEHOLD_URL, LEASEHOLD_FILE   as in any pod
"""

import fcntl
import http.client
import http.server
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.parse


def now():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def setting(name, default):
    return os.environ.get(name) or default


POD = setting("POD_NAME", socket.gethostname())
SIDECAR = urllib.parse.urlsplit(setting("LEASEHOLD_URL", "http://127.0.0.1:4040"))
STATUS_JSON = setting("LEASEHOLD_FILE", "/run/leasehold/status.json")
STATUS_ENV = os.path.splitext(STATUS_JSON)[0] + ".env"
PAUSE = int(setting("RECORDER_PAUSE_MS", "30")) / 1000
LINGER = int(setting("RECORDER_LINGER_MS", "0")) / 1000
STARTED = now()
with open("/proc/sys/kernel/random/boot_id") as file:
    BOOT_ID = file.read().strip()


def open_record():
    folder = setting("RECORDER_FOLDER", "")
    if not folder:
        return 1
    record = os.open(f"{folder}/{POD}.{STARTED}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    fcntl.flock(record, fcntl.LOCK_EX)
    return record


RECORD = open_record()


def write(**line):
    os.write(RECORD, (json.dumps({"pod": POD} | line) + "\n").encode())


class Belief:
    """The last promise, and what was said before a change, by each way of asking."""

    def __init__(self):
        self.until = self.token = 0
        self.said = {}

    def promised(self, via, asked, answered, until, token):
        if until <= answered:
            # Read too late: it promises nothing to anyone.
            return self.denied(via, asked, answered, "over")
        self.until, self.token = until, token
        self.said[via] = None
        write(via=via, asked=asked, answered=answered, leader=True, token=token, until=until)

    def denied(self, via, asked, answered, reason):
        # It holds for every way of asking: an app that is told no stops.
        if via == "http":
            self.until = 0
        if self.said.get(via) != reason:
            self.said[via] = reason
            write(via=via, asked=asked, answered=answered, leader=False, reason=reason)


BELIEF = Belief()


def ask_http():
    connection = None
    while True:
        asked = now()
        try:
            if connection is None:
                connection = http.client.HTTPConnection(SIDECAR.hostname, SIDECAR.port, timeout=10)
            connection.request("GET", "/v1/leader")
            answer = json.load(connection.getresponse())
            answered = now()
            if answer["leader"]:
                until = asked + answer["valid_for_ms"] * 1_000_000
                BELIEF.promised("http", asked, answered, until, answer["fencing_token"])
            else:
                BELIEF.denied("http", asked, answered, answer["reason"])
        except (OSError, ValueError, http.client.HTTPException) as error:
            BELIEF.denied("http", asked, now(), type(error).__name__)
            if connection is not None:
                connection.close()
            connection = None
        time.sleep(PAUSE)


def read_json():
    with open(STATUS_JSON) as file:
        answer = json.load(file)
    if not answer["leader"] or answer["boot_id"] != BOOT_ID:
        return answer["reason"]
    # Hundredths of a second of uptime, as whole numbers.
    bounds = (round(answer[key] * 100) for key in ("valid_from_uptime", "valid_until_uptime"))
    return *bounds, answer["fencing_token"]


def read_env():
    with open(STATUS_ENV) as file:
        values = dict(line.strip().split("=", 1) for line in file)
    if values["LEASEHOLD_LEADER"] != "1":
        return "not leader"
    return tuple(int(values["LEASEHOLD_" + key]) for key in ("VALID_FROM", "VALID_UNTIL", "TOKEN"))


def ask_file(via, read):
    asked = now()
    try:
        said = read()
    except (OSError, ValueError, KeyError) as error:
        said = type(error).__name__
    answered = now()
    if isinstance(said, tuple) and said[0] <= answered // 10_000_000:
        BELIEF.promised(via, asked, answered, said[1] * 10_000_000, said[2])
    else:
        BELIEF.denied(via, asked, answered, said if isinstance(said, str) else "not yet")


def ask_files():
    while True:
        ask_file("json", read_json)
        ask_file("env", read_env)
        time.sleep(PAUSE)


def hold_lock():
    alive = open(os.path.dirname(STATUS_JSON) + "/alive")
    fcntl.flock(alive, fcntl.LOCK_SH)
    return alive


def hold_session(opened):
    while True:
        try:
            connection = http.client.HTTPConnection(SIDECAR.hostname, SIDECAR.port)
            connection.request("GET", "/v1/session")
            events = connection.getresponse()
            opened.set()
            while events.read1(65536):
                pass
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(PAUSE)


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/eat":
            write(told="eat", at=now())
            threading.Thread(target=eat, daemon=True).start()
        if url.path == "/exit":
            write(told="exit", at=now())
            end(int(urllib.parse.parse_qs(url.query).get("code", ["0"])[0]))
        moment = now()
        leads = moment < BELIEF.until
        answer = {"pod": POD, "leads": leads, "token": BELIEF.token if leads else None, "now": moment}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Pages(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        # A client that went away in the middle, as probes do.
        pass


def eat():
    eaten = []
    while True:
        eaten.append(b"x" * 4_000_000)


def end(code):
    write(ended=now())
    os._exit(code)


def main():
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    write(uid=setting("POD_UID", ""), process=os.getpid(), started=STARTED)
    Pages.allow_reuse_address = True
    pages = Pages(("0.0.0.0", int(setting("RECORDER_PORT", "8080"))), Page)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    alive = setting("RECORDER_ALIVE", "")
    if alive == "lock":
        # Kept: when the file is collected, the lock goes.
        main.lock = hold_lock()
    elif alive == "session":
        opened = threading.Event()
        threading.Thread(target=hold_session, args=[opened], daemon=True).start()
        opened.wait()
    elif alive:
        sys.exit(f"RECORDER_ALIVE={alive}: lock or session")
    threading.Thread(target=ask_http, daemon=True).start()
    threading.Thread(target=ask_files, daemon=True).start()
    run = setting("RECORDER_RUN_MS", "")
    if stopping.wait(int(run) / 1000 if run else None):
        write(told="term", at=now())
        time.sleep(LINGER)
    end(0)


main()
