// Package event is the record of upconv's decisions: what one is, and who writes them down.
package event

import (
	"encoding/json"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Event is one decision, as one line of JSON. The keys are stable.
type Event struct {
	Time   time.Time `json:"time"`   // when the call was taken up, RFC 3339 with nanoseconds
	Call   string    `json:"call"`   // the system call: "connect", "sendto", "sendmsg" or "sendmmsg"; or "reload"
	PID    int       `json:"pid"`    // the process, in upconv's pid namespace
	TID    int       `json:"tid"`    // the thread
	Comm   string    `json:"comm"`   // its name, proc_pid_comm(5)
	Cgroup string    `json:"cgroup"` // its cgroup v2 path, or the first v1 one where there is no v2
	Netns  uint64    `json:"netns"`  // inode of the origin
	FD     int       `json:"fd"`     // the descriptor in the process
	Proto  string    `json:"proto"`  // "tcp" or "udp"; for ICMP too it is "udp"
	Dst    string    `json:"dst"`    // address:port that the program asked for
	Rule   string    `json:"rule"`   // "1" for the first rule, "local" or "default"
	Route  string    `json:"route"`  // as policy.ParseRoute reads it
	// Local is address:port of the new socket; empty where none was made or connecting it failed at
	// once.
	Local string `json:"local"`
	// Result is "ok" where the connection is made or under way, else the name of the errno that the
	// program was given. Of one that was under way upconv does not learn the end: it is the kernel
	// that waits.
	Result   string `json:"result"`
	Duration int64  `json:"duration_us"` // from taking the call up to having the answer, in microseconds
	// Note says what a program could find to be different from a socket that was not swapped;
	// mostly left out.
	Note string `json:"note,omitempty"`
}

// A Recorder writes events from a goroutine of its own, so that a reader who is slow holds up the
// record and not the programs. Should the queue run full, events are dropped, counted, and the
// count is written when there is room.
type Recorder struct {
	queue   chan Event
	dropped atomic.Uint64
	flushes chan chan struct{}
	once    sync.Once
	failed  func(error) // told of the first error from the writer
}

// queueLength is how many events may wait for the writer.
const queueLength = 4096

// NewRecorder returns a recorder that writes to out, one JSON object a line, for ever. failed is
// called once, should writing fail.
func NewRecorder(out io.Writer, failed func(error)) *Recorder {
	r := &Recorder{queue: make(chan Event, queueLength), flushes: make(chan chan struct{}), failed: failed}
	go r.write(out)
	return r
}

// Record queues an event. It never waits.
func (r *Recorder) Record(e Event) {
	select {
	case r.queue <- e:
	default:
		r.dropped.Add(1)
	}
}

// write writes down what is recorded.
func (r *Recorder) write(out io.Writer) {
	encode := json.NewEncoder(out)
	encode.SetEscapeHTML(false)
	put := func(v any) {
		if err := encode.Encode(v); err != nil {
			r.once.Do(func() { r.failed(err) })
		}
	}
	one := func(e Event) {
		if n := r.dropped.Swap(0); n > 0 {
			put(struct {
				Time    time.Time `json:"time"`
				Dropped uint64    `json:"dropped"`
			}{time.Now(), n})
		}
		put(e)
	}
	for {
		select {
		case e := <-r.queue:
			one(e)
		case flushed := <-r.flushes:
			for len(r.queue) > 0 {
				one(<-r.queue)
			}
			close(flushed)
		}
	}
}

// Flush waits until everything recorded so far is written, but no longer than the given time: a
// reader that has stopped reading must not keep the command's end from being reported.
func (r *Recorder) Flush(atMost time.Duration) {
	deadline := time.NewTimer(atMost)
	defer deadline.Stop()
	flushed := make(chan struct{})
	select {
	case r.flushes <- flushed:
	case <-deadline.C:
		return
	}
	select {
	case <-flushed:
	case <-deadline.C:
	}
}
