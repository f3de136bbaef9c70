// The app of recorder.py in Go: it asks whether it leads and writes down every promise that it
// gets, in the same lines and by the same settings, which are described there.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// By the boot clock, which Go's own time does not read.
func now() int64 {
	const bootTime = 7
	var at syscall.Timespec
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, bootTime, uintptr(unsafe.Pointer(&at)), 0); errno != 0 {
		panic(errno)
	}
	return at.Nano()
}

func setting(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

func milliseconds(name, fallback string) time.Duration {
	number, err := strconv.Atoi(setting(name, fallback))
	if err != nil {
		fail("%s: %v", name, err)
	}
	return time.Duration(number) * time.Millisecond
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(1)
}

var (
	started    = now()
	pod        = setting("POD_NAME", hostname())
	sidecar    = strings.TrimSuffix(setting("LEASEHOLD_URL", "http://127.0.0.1:4040"), "/")
	statusJSON = setting("LEASEHOLD_FILE", "/run/leasehold/status.json")
	statusEnv  = strings.TrimSuffix(statusJSON, filepath.Ext(statusJSON)) + ".env"
	pause      = milliseconds("RECORDER_PAUSE_MS", "30")
	bootID     = readBootID()
	record     = openRecord()
)

func hostname() string {
	name, _ := os.Hostname()
	return name
}

func readBootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		fail("%v", err)
	}
	return strings.TrimSpace(string(text))
}

func openRecord() *os.File {
	folder := os.Getenv("RECORDER_FOLDER")
	if folder == "" {
		return os.Stdout
	}
	path := fmt.Sprintf("%s/%s.%d.jsonl", folder, pod, started)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err == nil {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		fail("%s: %v", path, err)
	}
	return file
}

type line map[string]any

func write(what line) {
	what["pod"] = pod
	text, err := json.Marshal(what)
	if err == nil {
		_, err = record.Write(append(text, '\n'))
	}
	if err != nil {
		fail("the record: %v", err)
	}
}

// The last promise, and what was said before a change, by each way of asking.
var belief = struct {
	sync.Mutex
	until, token int64
	said         map[string]string
}{said: map[string]string{}}

func promised(via string, asked, answered, until, token int64) {
	if until <= answered {
		// Read too late: it promises nothing to anyone.
		denied(via, asked, answered, "over")
		return
	}
	belief.Lock()
	belief.until, belief.token = until, token
	delete(belief.said, via)
	belief.Unlock()
	write(line{"via": via, "asked": asked, "answered": answered, "leader": true, "token": token, "until": until})
}

func denied(via string, asked, answered int64, reason string) {
	belief.Lock()
	// It holds for every way of asking: an app that is told no stops.
	if via == "http" {
		belief.until = 0
	}
	news := belief.said[via] != reason
	belief.said[via] = reason
	belief.Unlock()
	if news {
		write(line{"via": via, "asked": asked, "answered": answered, "leader": false, "reason": reason})
	}
}

// An answer, in the words of docs/http.md.
type answer struct {
	Leader     bool    `json:"leader"`
	Token      int64   `json:"fencing_token"`
	ValidForMs int64   `json:"valid_for_ms"`
	ValidFrom  float64 `json:"valid_from_uptime"`
	ValidUntil float64 `json:"valid_until_uptime"`
	BootID     string  `json:"boot_id"`
	Reason     string  `json:"reason"`
}

func askHTTP() {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConns: 1}}
	for {
		asked := now()
		var said answer
		response, err := client.Get(sidecar + "/v1/leader")
		if err == nil {
			err = json.NewDecoder(response.Body).Decode(&said)
			response.Body.Close()
		}
		answered := now()
		switch {
		case err != nil:
			denied("http", asked, answered, "unreachable")
		case said.Leader:
			promised("http", asked, answered, asked+said.ValidForMs*1_000_000, said.Token)
		default:
			denied("http", asked, answered, said.Reason)
		}
		time.Sleep(pause)
	}
}

// A file's promise, in hundredths of a second of uptime; a reason where it makes none.
type filePromise struct {
	from, until, token int64
	reason             string
}

func readJSON() (filePromise, error) {
	text, err := os.ReadFile(statusJSON)
	if err != nil {
		return filePromise{}, err
	}
	var said answer
	if err := json.Unmarshal(text, &said); err != nil {
		return filePromise{}, err
	}
	if !said.Leader || said.BootID != bootID {
		return filePromise{reason: said.Reason}, nil
	}
	hundredths := func(seconds float64) int64 { return int64(seconds*100 + 0.5) }
	return filePromise{hundredths(said.ValidFrom), hundredths(said.ValidUntil), said.Token, ""}, nil
}

func readEnv() (filePromise, error) {
	text, err := os.ReadFile(statusEnv)
	if err != nil {
		return filePromise{}, err
	}
	values := map[string]int64{}
	for entry := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(entry), "=")
		number, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return filePromise{}, err
		}
		values[strings.TrimPrefix(key, "LEASEHOLD_")] = number
	}
	if values["LEADER"] != 1 {
		return filePromise{reason: "not leader"}, nil
	}
	return filePromise{values["VALID_FROM"], values["VALID_UNTIL"], values["TOKEN"], ""}, nil
}

func askFile(via string, read func() (filePromise, error)) {
	const hundredth = 10_000_000
	asked := now()
	said, err := read()
	answered := now()
	switch {
	case errors.Is(err, os.ErrNotExist):
		denied(via, asked, answered, "no file")
	case err != nil:
		denied(via, asked, answered, "unreadable")
	case said.reason != "":
		denied(via, asked, answered, said.reason)
	case said.from > answered/hundredth:
		denied(via, asked, answered, "not yet")
	default:
		promised(via, asked, answered, said.until*hundredth, said.token)
	}
}

func askFiles() {
	for {
		askFile("json", readJSON)
		askFile("env", readEnv)
		time.Sleep(pause)
	}
}

// Never closed: with the last descriptor the lock would go.
var lock *os.File

func holdLock() {
	var err error
	if lock, err = os.Open(filepath.Dir(statusJSON) + "/alive"); err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_SH)
	}
	if err != nil {
		fail("the alive lock: %v", err)
	}
}

func holdSession(opened func()) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		if response, err := client.Get(sidecar + "/v1/session"); err == nil {
			opened()
			buffer := make([]byte, 65536)
			for err == nil {
				_, err = response.Body.Read(buffer)
			}
			response.Body.Close()
		}
		time.Sleep(pause)
	}
}

func serve() {
	http.HandleFunc("/", func(out http.ResponseWriter, _ *http.Request) {
		belief.Lock()
		moment, token := now(), any(nil)
		leads := moment < belief.until
		if leads {
			token = belief.token
		}
		belief.Unlock()
		out.Header().Set("Content-Type", "application/json")
		json.NewEncoder(out).Encode(line{"pod": pod, "leads": leads, "token": token, "now": moment})
	})
	http.HandleFunc("/eat", func(http.ResponseWriter, *http.Request) {
		write(line{"told": "eat", "at": now()})
		go eat()
	})
	http.HandleFunc("/exit", func(_ http.ResponseWriter, request *http.Request) {
		write(line{"told": "exit", "at": now()})
		code, _ := strconv.Atoi(request.URL.Query().Get("code"))
		end(code)
	})
	fail("%v", http.ListenAndServe("0.0.0.0:"+setting("RECORDER_PORT", "8080"), nil))
}

func eat() {
	var eaten [][]byte
	for {
		more := make([]byte, 4_000_000)
		for at := range more {
			more[at] = 'x'
		}
		eaten = append(eaten, more)
	}
}

func end(code int) {
	write(line{"ended": now()})
	os.Exit(code)
}

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	write(line{"uid": os.Getenv("POD_UID"), "process": os.Getpid(), "started": started})
	go serve()
	switch alive := os.Getenv("RECORDER_ALIVE"); alive {
	case "":
	case "lock":
		holdLock()
	case "session":
		opened := make(chan struct{})
		go holdSession(sync.OnceFunc(func() { close(opened) }))
		<-opened
	default:
		fail("RECORDER_ALIVE=%s: lock or session", alive)
	}
	go askHTTP()
	go askFiles()
	var over <-chan time.Time
	if run := os.Getenv("RECORDER_RUN_MS"); run != "" {
		over = time.After(milliseconds("RECORDER_RUN_MS", ""))
	}
	select {
	case <-stop:
		write(line{"told": "term", "at": now()})
		time.Sleep(milliseconds("RECORDER_LINGER_MS", "0"))
	case <-over:
	}
	end(0)
}
