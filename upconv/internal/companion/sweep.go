package companion

import (
	"bytes"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
)

// sweeping is how often it is looked whether the sockets in use are still there. bind(2) does not
// wait for it.
const sweeping = 50 * time.Millisecond

// makeRoom looks for companions of closed sockets where there can be no more.
func (k *Set) makeRoom() {
	if k.count >= k.most {
		k.sweepLocked()
	}
}

// sweeps calls sweep now and then, until over is closed.
func (k *Set) sweeps(over <-chan struct{}) {
	ticker := time.NewTicker(sweeping)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			k.sweep()
		case <-over:
			return
		}
	}
}

// sweep closes the companions of sockets that nobody has any more.
func (k *Set) sweep() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sweepLocked()
}

// FreePort is sweep for a bind(2), with sa the beginning of its address, if a companion may have
// its port. To look at all of them for every port takes long where many ask name servers, each from
// a port of its own.
func (k *Set) FreePort(sa []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mayHave(sa) {
		k.sweepLocked()
	}
}

// mayHave reports whether a companion may have the port of an address. The caller holds mu.
func (k *Set) mayHave(sa []byte) bool {
	port := binary.BigEndian.Uint16(sa[2:])
	return len(k.groups) > 0 && (port == 0 || k.ports[port] > 0 || k.ports[0] > 0)
}

// sweepLocked is sweep for who holds mu.
func (k *Set) sweepLocked() {
	if len(k.groups) == 0 {
		return
	}
	text, ok := k.registered()
	if !ok {
		return
	}
	used := map[uint32]bool{}
	for line := range bytes.Lines(text) {
		if _, event, _, ok := target.ParseRegistration(line); ok {
			used[uint32(event.Fd)] = true
		}
	}
	for cookie, g := range k.groups {
		if used[g.id] {
			continue
		}
		for _, c := range g.kept {
			k.release(&c)
			linux.Close(c.FD)
		}
		g.over = true
		delete(k.groups, cookie)
	}
}

// registered returns what proc_pid_fdinfo(5) says of users.
func (k *Set) registered() (text []byte, ok bool) {
	for {
		n, err := unix.Pread(k.info, k.text, 0)
		if err != nil {
			return nil, false
		}
		if n < len(k.text) {
			return k.text[:n], true
		}
		k.text = make([]byte, max(4096, 2*len(k.text)))
	}
}
