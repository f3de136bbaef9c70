// Works five times a second while this pod leads, and nowhere else.
package main

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	_ "github.com/lib/pq"
)

var url = cmp.Or(os.Getenv("LEASEHOLD_URL"), "http://127.0.0.1:4040")
var client = http.Client{Timeout: time.Second, Transport: &http.Transport{}} // to localhost by no proxy

// The fencing token, and until when a step may go on: a time.Time counts on by the monotonic clock.
func term() (token string, until time.Time) {
	asked := time.Now() // before the question
	reply, err := client.Head(url + "/leader")
	if err != nil {
		return "", asked // no answer is a no
	}
	reply.Body.Close()
	validFor, _ := strconv.Atoi(reply.Header.Get("Leasehold-Valid-For-Ms")) // 0: not leader
	return reply.Header.Get("Leasehold-Token"), asked.Add(time.Duration(validFor) * time.Millisecond)
}

// One transaction, which does nothing if the store has seen a newer token.
const step = `WITH newest AS (INSERT INTO fence (name, token) VALUES ('work', $1)
  ON CONFLICT (name) DO UPDATE SET token = excluded.token WHERE fence.token <= excluded.token RETURNING token)
  INSERT INTO work (token, pod) SELECT token, $2 FROM newest`

func main() {
	alive, err := os.Open(cmp.Or(os.Getenv("LEASEHOLD_DIR"), "/run/leasehold") + "/alive")
	if err != nil {
		panic(err)
	}
	defer alive.Close()
	syscall.Flock(int(alive.Fd()), syscall.LOCK_SH) // this pod leads only while this process lives, which holds the lock
	store, err := sql.Open("postgres", cmp.Or(os.Getenv("STORE"), "postgres://localhost/postgres"))
	if err != nil {
		panic(err)
	}
	for ; ; time.Sleep(200 * time.Millisecond) {
		token, until := term()
		if !time.Now().Before(until) {
			continue
		}
		ctx, cancel := context.WithDeadline(context.Background(), until)
		done, err := store.ExecContext(ctx, step, token, cmp.Or(os.Getenv("POD_NAME"), "pod"))
		cancel()
		if err != nil {
			fmt.Println("failed under token", token, err)
		} else if rows, _ := done.RowsAffected(); rows == 1 {
			fmt.Println("worked under token", token)
		} else {
			fmt.Println("refused under token", token)
		}
	}
}
