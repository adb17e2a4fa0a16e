package companion

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// TestCompanionsOfTwo has two processes use one socket, put aside others for it one after the
// other, and close it: nothing is kept.
func TestCompanionsOfTwo(t *testing.T) {
	var k Set
	udp := func() int {
		fd, errno := linux.NewSocket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		return fd
	}
	current, first, second, elsewhere := udp(), udp(), udp(), udp()
	k.Keep(Companion{FD: first, Place: 1}, current, false)
	k.Keep(Companion{FD: elsewhere, Place: 2}, current, false)
	k.Keep(Companion{FD: second, Place: 1}, current, false)
	if k.count != 2 {
		t.Errorf("%d are kept, and not one a namespace", k.count)
	}
	if fd, ok := k.Take(current, 1); !ok || fd != second {
		t.Errorf("taken: %d %v, and not the latest, %d", fd, ok, second)
	} else {
		linux.Close(fd)
	}
	linux.Close(current)
	k.sweep()
	if k.count != 0 || len(k.kept) != 0 {
		t.Errorf("%d are kept, %d are known", k.count, len(k.kept))
	}
	for _, fd := range []int{first, second, elsewhere} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
			t.Errorf("%d is open yet: %v", fd, err)
		}
	}
}

// A bind(2) to the port of a companion whose socket is closed finds the port free; to others it
// looks at no companion.
func TestCompanionsFreePort(t *testing.T) {
	var k Set
	var sockets [2]int // the one in use, and its companion
	for i := range sockets {
		var errno unix.Errno
		if sockets[i], errno = linux.NewSocket(unix.AF_INET, unix.SOCK_DGRAM, 0); errno != 0 {
			t.Fatal(errno)
		}
	}
	if errno := linux.Bind(sockets[1], netns.AnyName(sockets[1])); errno != 0 {
		t.Fatal(errno)
	}
	var name sockstate.Socket
	name.ReadName(sockets[1])
	k.Keep(Companion{FD: sockets[1], Place: 1}, sockets[0], false)
	linux.Close(sockets[0])
	k.mu.Lock() // or the sweep that comes by itself may be first
	defer k.mu.Unlock()
	other := name.Name
	other[2] ^= 0x80
	if k.mayHave(other[:]) {
		t.Error("another port is taken for that of a companion")
	}
	if !k.mayHave(name.Name[:]) {
		t.Error("the port of a companion is taken for another one")
	}
	if k.sweepLocked(); k.mayHave(name.Name[:]) || k.count != 0 || len(k.ports) != 0 {
		t.Errorf("%d companions and %d ports are kept", k.count, len(k.ports))
	}
}

// TestCompanionsInTurn has two sockets take each other's place again and again, under other numbers
// each time: of the one in use alone upconv is told when it is closed, and once.
func TestCompanionsInTurn(t *testing.T) {
	var k Set
	copyOf := func(fd int) int {
		copied, errno := linux.Dup(fd)
		if errno != 0 {
			t.Fatal(errno)
		}
		return copied
	}
	var sockets [2]int // as the program has them
	for i := range sockets {
		fd, errno := linux.NewSocket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		sockets[i] = fd
	}
	var more []int
	for round := range 20 {
		more = append(more, copyOf(sockets[0]))
		from, to := sockets[round%2], sockets[(round+1)%2]
		old, current := copyOf(from), copyOf(to)
		if fd, ok := k.Take(old, Place(1+(round+1)%2)); ok != (round > 0) {
			t.Fatalf("round %d: taken: %v", round, ok)
		} else if ok {
			linux.Close(fd)
		}
		k.Keep(Companion{FD: old, Place: Place(1 + round%2)}, current, false)
		text, ok := k.registered()
		if n := bytes.Count(text, []byte("tfd:")); !ok || n != 1 {
			t.Fatalf("round %d: %d are in use\n%s", round, n, text)
		}
		if k.Watches(from) != 0 || k.Watches(to) != 1 {
			t.Fatalf("round %d: the one in use is in %d sets, the other in %d", round, k.Watches(to), k.Watches(from))
		}
		linux.Close(current)
	}
	for _, fd := range append(more, sockets[:]...) {
		linux.Close(fd)
	}
	k.sweep()
	if k.count != 0 || len(k.groups) != 0 {
		t.Errorf("%d are kept, in %d groups", k.count, len(k.groups))
	}
}

// TestCompanionPutBack has a companion not come into use after all: it is kept as it was, and what
// comes for it is handed on as before. When the socket in use is closed it is closed too, by
// whoever has it.
func TestCompanionPutBack(t *testing.T) {
	var k Set
	inUse, errno := linux.NewSocket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	own, errno := linux.NewSocket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	if errno := linux.Bind(own, netns.AnyName(own)); errno != 0 {
		t.Fatal(errno)
	}
	k.Keep(Companion{FD: own, Place: 1}, inUse, true)
	inInbox := func() bool { return unix.EpollCtl(k.inbox.FD, unix.EPOLL_CTL_MOD, own, &unix.EpollEvent{}) == nil }
	for range 2 {
		fd, ok := k.Take(inUse, 1)
		if !ok || fd != own || inInbox() {
			t.Fatalf("taken: %d %v, and not %d", fd, ok, own)
		}
		if _, ok := k.Take(inUse, 1); ok {
			t.Fatal("it is taken twice")
		}
		if !k.PutBack(fd) || k.count != 1 || !inInbox() {
			t.Fatalf("%d are kept after it was put back", k.count)
		}
	}
	if fd, _ := k.Take(inUse, 1); fd != own {
		t.Fatal("it is not kept")
	}
	k.Settle(own)
	if k.PutBack(own) {
		t.Error("one that is in use is kept as well")
	}
	k.Keep(Companion{FD: own, Place: 1}, inUse, true)
	k.Take(inUse, 1)
	linux.Close(inUse)
	k.sweep()
	if k.PutBack(own) || k.count != 0 || len(k.lent) != 0 {
		t.Errorf("%d are kept and %d lent for a socket that is closed", k.count, len(k.lent))
	}
	linux.Close(own)
}

// TestOutletAfterShortage has descriptors run out when an outlet is opened: the next try succeeds,
// and is remembered.
func TestOutletAfterShortage(t *testing.T) {
	var k Set
	k.mu.Lock()
	opened := k.open()
	k.mu.Unlock()
	if !opened {
		t.Fatal("no companions")
	}
	t.Cleanup(k.Close)
	raw := func(domain int) (int, unix.Errno) {
		return linux.NewSocket(domain, unix.SOCK_RAW, unix.IPPROTO_RAW)
	}
	probe, may := raw(unix.AF_INET)
	if may == 0 {
		linux.Close(probe)
	}
	if ok, errno := k.OpenOutlet(1, func(int) (int, unix.Errno) { return -1, unix.EMFILE }); ok || errno != unix.EMFILE {
		t.Fatalf("without descriptors: %v, %v", ok, errno)
	}
	if ok, errno := k.OpenOutlet(1, raw); ok != (may == 0) || errno != may {
		t.Errorf("with descriptors: %v, %v", ok, errno)
	}
	if out, ok := k.raw[1]; !ok || (may == 0) != (out.v4 >= 0) || (may == 0) != (out.v6 >= 0) {
		t.Errorf("remembered: %+v %v", out, ok)
	}
	if ok, errno := k.OpenOutlet(1, func(int) (int, unix.Errno) { panic("it is open") }); ok != (may == 0) || errno != 0 {
		t.Errorf("the second time: %v, %v", ok, errno)
	}
}
