package openfile

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
)

// adopted returns numbers for this process, and what it has open that is close-on-exec: the Go
// runtime's, too.
func adopted(t *testing.T) *numbers {
	t.Helper()
	r, w, err := os.Pipe() // has the runtime open its poller
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	n := &numbers{}
	n.Adopt(0, nil)
	t.Cleanup(func() { unix.Close(n.null) })
	if len(n.atStart) < 2 {
		t.Fatalf("the runtime has a set and an eventfd; found are %v", n.atStart)
	}
	return n
}

// newSet returns an epoll set.
func newSet(t *testing.T) int {
	t.Helper()
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(set) })
	return set
}

// newPeers returns two sockets that are connected to each other.
func newPeers(t *testing.T) (one, other int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[1]) })
	return pair[0], pair[1]
}

// contents returns the numbers under which files are in a set.
func contents(t *testing.T, set int) (numbers []int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", set))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if number, _, _, ok := target.ParseRegistration(line); ok {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// limitDescriptors sets the soft RLIMIT_NOFILE until the test ends. It returns the hard one.
func limitDescriptors(t *testing.T, soft uint64) (hard uint64) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &before) })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	return before.Max
}

// A file can be put into a set under every number, whatever has that number in this process.
func TestNumbers(t *testing.T) {
	n := adopted(t)
	set := newSet(t)
	other, _ := newPeers(t)
	defer unix.Close(other)
	const limit = 1000
	hard := limitDescriptors(t, limit)
	n.privateFrom = 5 * limit

	numbers := []int{0, 1, 2, set, other, n.null, 100, limit - 1, limit, 2 * limit, n.privateFrom, n.privateFrom + 5, hugeNumber + 1}
	for _, number := range append(numbers, n.atStart...) {
		if uint64(number) >= hard && !linux.HasCapability(unix.CAP_SYS_RESOURCE) {
			if errno := n.Control(set, other, number, &unix.EpollEvent{}, unix.EPOLL_CTL_ADD); errno != unix.EMFILE {
				t.Errorf("under number %d: %v, want EMFILE: it is above the hard limit", number, errno)
			}
			continue
		}
		link := func() string { s, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", number)); return s }
		before := link()
		file, peer := newPeers(t)
		event := unix.EpollEvent{Events: unix.EPOLLIN}
		if errno := n.Control(set, file, number, &event, unix.EPOLL_CTL_ADD); errno != 0 {
			t.Errorf("under number %d: %v", number, errno)
		}
		if got := contents(t, set); len(got) != 1 || got[0] != number {
			t.Errorf("added under number %d, it is there under %v", number, got)
		}
		if errno := n.Control(set, file, number, &event, unix.EPOLL_CTL_ADD, unix.EPOLL_CTL_DEL); errno != unix.EEXIST {
			t.Errorf("added again under number %d: %v", number, errno)
		}
		if errno := n.Control(set, file, number, &event, unix.EPOLL_CTL_DEL, unix.EPOLL_CTL_ADD); errno != 0 || len(contents(t, set)) != 1 {
			t.Errorf("removed and added under number %d: %v", number, errno)
		}
		if errno := n.SetFlags(file, number, unix.O_ASYNC); errno != 0 {
			t.Errorf("O_ASYNC under number %d: %v", number, errno)
		}
		if flags, _ := unix.FcntlInt(uintptr(file), unix.F_GETFL, 0); flags&unix.O_ASYNC == 0 {
			t.Errorf("O_ASYNC under number %d: it is not set", number)
		}
		// Nobody has a copy of it.
		unix.Close(file)
		if got := contents(t, set); len(got) != 0 {
			t.Errorf("closed, it is still there under %v", got)
		}
		if got, err := unix.Read(peer, make([]byte, 1)); got != 0 || err != nil {
			t.Errorf("closed, its peer reads %d, %v", got, err)
		}
		if after := link(); after != before {
			t.Errorf("number %d was %q and is %q", number, before, after)
		}
	}
}

// The Go runtime goes on using its own descriptors while their numbers are something else for a
// moment.
func TestNumbersOfRuntime(t *testing.T) {
	n := adopted(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	end := time.Now().Add(300 * time.Millisecond)
	var all sync.WaitGroup
	for range 4 {
		set := newSet(t)
		file, _ := newPeers(t)
		defer unix.Close(file)
		all.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				number := n.atStart[i%len(n.atStart)]
				if errno := n.Control(set, file, number, &unix.EpollEvent{}, unix.EPOLL_CTL_ADD, unix.EPOLL_CTL_DEL); errno != 0 {
					t.Errorf("under number %d: %v", number, errno)
					return
				}
			}
		})
	}
	all.Go(func() { // timers, the poller, and memory to be collected
		for time.Now().Before(end) {
			time.Sleep(10 * time.Microsecond)
			w.Write(make([]byte, 100))
			if got, err := r.Read(make([]byte, 100)); got != 100 {
				t.Errorf("read %d, %v", got, err)
				return
			}
		}
	})
	all.Wait()
}
