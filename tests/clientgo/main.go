// clientgo campaigns for a Lease with client-go's own elector, as any Go controller does, and
// prints what that elector believes and when: one JSON object a line on stdout, stamped with the
// boot clock so that it compares with every other process of the machine.
//
// It is the other side of two kinds of test: leasehold sharing a Lease with client-go, and
// leasehold measured beside it.
//
// Events: "campaigning" (the elector runs), "new_leader" (with "leader"), "started" (the callbacks
// lead), "renewed" (a write that names us was answered; "sent_ns" says when it was sent),
// "released" (the same, with no holder), "stopped" (the callbacks no longer lead), "ended".
//
// With -watch-belief also "believes": a goroutine that asks every millisecond, as an app beside the
// elector might, was told from "from_ns" to "until_ns" that this process leads: by the context of
// its callbacks ("by" is "callbacks") or by IsLeader ("is_leader"). A belief that lasts is reported
// again and again, with the same beginning; a time in which the process did not run ends it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "path of the kubeconfig")
	namespace := flag.String("namespace", "default", "namespace of the Lease")
	lease := flag.String("lease", "", "name of the Lease")
	id := flag.String("id", "", "holder identity")
	leaseDuration := flag.Duration("lease-duration", 15*time.Second, "lease duration")
	renewDeadline := flag.Duration("renew-deadline", 10*time.Second, "renew deadline")
	retryPeriod := flag.Duration("retry-period", 2*time.Second, "retry period, and so the renew interval")
	releaseOnCancel := flag.Bool("release-on-cancel", false, "release the Lease at SIGTERM")
	requestTimeout := flag.Duration("request-timeout", -1, "of each request, 0 for none (default half the renew deadline)")
	watchBelief := flag.Bool("watch-belief", false, "report what this process believes, by the millisecond")
	flag.Parse()
	if *lease == "" || *id == "" {
		fail("-lease and -id must be given")
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		fail("kubeconfig: %v", err)
	}
	// As controller-runtime does: a request must not outlast the renew deadline.
	config.Timeout = *renewDeadline / 2
	if *requestTimeout >= 0 {
		config.Timeout = *requestTimeout
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		fail("client: %v", err)
	}
	lock := &reporting{LeaseLock: &resourcelock.LeaseLock{
		LeaseMeta:  meta.ObjectMeta{Namespace: *namespace, Name: *lease},
		Client:     client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: *id},
	}}
	var led atomic.Bool
	var term atomic.Pointer[context.Context]
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            lock,
		LeaseDuration:   *leaseDuration,
		RenewDeadline:   *renewDeadline,
		RetryPeriod:     *retryPeriod,
		ReleaseOnCancel: *releaseOnCancel,
		Name:            *lease,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				led.Store(true)
				term.Store(&ctx)
				report("started", nil)
				<-ctx.Done()
			},
			// Called at the end of every campaign, also of one that never led.
			OnStoppedLeading: func() {
				if led.Swap(false) {
					report("stopped", nil)
				}
			},
			OnNewLeader: func(leader string) { report("new_leader", map[string]any{"leader": leader}) },
		},
	})
	if err != nil {
		fail("elector: %v", err)
	}

	if *watchBelief {
		go watch("callbacks", func() bool {
			ctx := term.Load()
			return ctx != nil && (*ctx).Err() == nil
		})
		go watch("is_leader", elector.IsLeader)
	}

	// A lost term ends Run: most controllers exit there and are restarted; this one goes on.
	for ctx.Err() == nil {
		report("campaigning", nil)
		elector.Run(ctx)
	}
	report("ended", nil)
}

const (
	// Between two looks at a belief.
	look = time.Millisecond
	// Without a look for so long the process did not run, or not enough to act.
	gap = 100 * int64(time.Millisecond)
	// Between two reports of one belief.
	repeat = 50 * int64(time.Millisecond)
)

// watch reports when believes says yes.
func watch(by string, believes func() bool) {
	var from, until, told int64
	tell := func() {
		report("believes", map[string]any{"by": by, "from_ns": from, "until_ns": until})
		told = until
	}
	for range time.Tick(look) {
		yes, now := believes(), boottime()
		if from != 0 && (!yes || now-until > gap) {
			tell()
			from = 0
		}
		if yes {
			until = now
			if from == 0 {
				from = now
			}
			if until-told > repeat {
				tell()
			}
		}
	}
}

// reporting is a LeaseLock that reports each write that was answered with success.
type reporting struct {
	*resourcelock.LeaseLock
}

func (r *reporting) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return written(record, func() error { return r.LeaseLock.Create(ctx, record) })
}

func (r *reporting) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return written(record, func() error { return r.LeaseLock.Update(ctx, record) })
}

func written(record resourcelock.LeaderElectionRecord, write func() error) error {
	sent := boottime()
	err := write()
	if err == nil {
		event := "renewed"
		if record.HolderIdentity == "" {
			event = "released"
		}
		report(event, map[string]any{"sent_ns": sent, "transitions": record.LeaderTransitions})
	}
	return err
}

// printing keeps each event's line whole.
var printing sync.Mutex

func report(event string, more map[string]any) {
	line := map[string]any{"event": event, "boottime_ns": boottime()}
	for key, value := range more {
		line[key] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		fail("report: %v", err)
	}
	printing.Lock()
	defer printing.Unlock()
	fmt.Printf("%s\n", text)
}

func boottime() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		fail("CLOCK_BOOTTIME: %v", err)
	}
	return now.Nano()
}

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "clientgo: "+format+"\n", arguments...)
	os.Exit(1)
}
