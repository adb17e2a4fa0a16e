package peek

import (
	"encoding/binary"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func openTeller(t *testing.T) (*Peeker, *Teller) {
	t.Helper()
	p := open(t)
	teller, err := p.Tell()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(teller.Close)
	return p, teller
}

// keysIn returns what the records are about.
func keysIn(told []Told) (keys []Key) {
	for _, one := range told {
		keys = append(keys, one.Key)
	}
	return keys
}

// TestTell sends signals to a process that is stopped, so that they stay pending.
func TestTell(t *testing.T) {
	p, teller := openTeller(t)
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	pid := cmd.Process.Pid
	var thread Thread
	if errno := p.LookAtThread(pid, &thread); errno != 0 {
		t.Fatal(errno)
	}
	own, process := thread.ThreadKey(), thread.ProcessKey()
	for _, key := range []Key{own, process} {
		if errno := teller.Watch(key); errno != 0 {
			t.Fatal(errno)
		}
	}
	unix.Kill(pid, unix.SIGWINCH) // which it ignores
	unix.Kill(pid, unix.SIGSTOP)
	if _, err := unix.Wait4(pid, nil, unix.WUNTRACED, nil); err != nil {
		t.Fatal(err)
	}
	if told, lost, err := teller.Wait(nil); err != nil || lost || !slices.Equal(keysIn(told), []Key{process}) {
		t.Errorf("of a stop: %v, %v, %v", told, lost, err)
	}
	unix.Kill(pid, unix.SIGUSR1)
	unix.Tgkill(pid, pid, unix.SIGUSR1)
	if told, _, err := teller.Wait(nil); err != nil || !slices.Equal(keysIn(told), []Key{own}) {
		t.Errorf("of a signal for the thread, when another one had been told of: %v, %v", told, err)
	}
	for _, key := range []Key{own, process} {
		teller.Watch(key)
	}
	unix.Tgkill(pid, pid, unix.SIGUSR1) // pending already
	unix.Kill(pid, unix.SIGUSR2)
	if told, _, err := teller.Wait(nil); err != nil || !slices.Equal(keysIn(told), []Key{process}) {
		t.Errorf("of a signal for the process, watched anew: %v, %v", told, err)
	}
	teller.Watch(process)
	teller.Forget(own)
	unix.Tgkill(pid, pid, unix.SIGUSR2)
	unix.Kill(pid, unix.SIGHUP)
	if told, _, err := teller.Wait(nil); err != nil || !slices.Equal(keysIn(told), []Key{process}) {
		t.Errorf("of a signal for the process, when the thread is forgotten: %v, %v", told, err)
	}
}

// TestTellTooMuch sends more signals than there is room for, before anybody asks.
func TestTellTooMuch(t *testing.T) {
	p, teller := openTeller(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var self Thread
	if errno := p.LookAtThread(unix.Gettid(), &self); errno != 0 {
		t.Fatal(errno)
	}
	const room = ringSize / recordSize
	for range room + 10 {
		teller.Watch(self.ThreadKey())
		unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGURG)
	}
	if told, lost, err := teller.Wait(nil); err != nil || !lost || len(told) < room-1 {
		t.Errorf("%d told, lost: %v, %v", len(told), lost, err)
	}
	teller.Watch(self.ThreadKey())
	unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGURG)
	if told, lost, err := teller.Wait(nil); err != nil || lost || len(told) != 1 {
		t.Errorf("then: %v, lost: %v, %v", told, lost, err)
	}
}

// TestTellEnds closes it while somebody waits.
func TestTellEnds(t *testing.T) {
	_, teller := openTeller(t)
	ended := make(chan error)
	go func() {
		_, _, err := teller.Wait(nil)
		ended <- err
	}()
	teller.Close()
	if err := <-ended; err == nil {
		t.Error("there is no error")
	}
}

// TestLookIsCertain: from when signals are told of, a look is certain.
func TestLookIsCertain(t *testing.T) {
	p, _ := openTeller(t)
	var self Thread
	if errno := p.LookAtThread(os.Getpid(), &self); errno != 0 || !self.Certain || self.Interrupted {
		t.Fatalf("%+v, %v", self, errno)
	}
}

func TestRecords(t *testing.T) {
	data := make([]byte, 2*ringSize)
	write := func(at uint64, length uint32, key Key) {
		for _, at := range []uint64{at % ringSize, at%ringSize + ringSize} { // it is mapped twice
			var record [recordSize]byte
			binary.NativeEndian.PutUint32(record[:], length)
			binary.NativeEndian.PutUint32(record[recordHeader:], uint32(key))
			copy(data[at:], record[:])
		}
	}
	const first = ringSize/recordSize*recordSize - recordSize // the second one is torn by the end
	write(first, 16, 1)
	write(first+recordSize, 16, 2)
	write(first+2*recordSize, 16|recordBusy, 3)
	told, at := records(data, nil, first, first+3*recordSize)
	if !slices.Equal(keysIn(told), []Key{1, 2}) || at != first+2*recordSize {
		t.Errorf("%v up to %d", told, at)
	}
	if told, at := records(data, nil, first, first); len(told) != 0 || at != first {
		t.Errorf("of nothing: %v up to %d", told, at)
	}
}
