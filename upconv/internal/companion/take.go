package companion

import (
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// loan is a companion that is about to be the socket in use.
type loan struct {
	Companion
	group *group
}

// Arrives is for a socket that is about to be put into the place of another. As soon as it is
// there, another thread's call may find it there and ask for its companion: take waits until the
// caller has called arrived.
func (k *Set) Arrives(fd int) (cookie uint64) {
	cookie = linux.CookieOf(fd)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.arriving == nil {
		k.arriving, k.arrival.L = map[uint64]bool{}, &k.mu
	}
	k.arriving[cookie] = true
	return cookie
}

// Arrived says that a socket that Arrives has been told of is in its place.
func (k *Set) Arrived(cookie uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.arriving, cookie)
	k.arrival.Broadcast()
}

// Take returns the companion that the socket of which old is a copy has in a place. It is the
// caller's then, who calls settle or putBack.
func (k *Set) Take(old int, at Place) (fd int, ok bool) {
	c, ok := k.find(old, at)
	if !ok {
		return -1, false
	}
	if c.Reader != nil { // what it has received already is to be handed on
		c.Reader.mu.Lock()
		defer c.Reader.mu.Unlock()
	}
	if !k.lend(&c) {
		return -1, false
	}
	if c.beside {
		discard(c.FD)
	}
	return c.FD, true
}

// find returns the companion for take, which waits while that is being put there.
func (k *Set) find(old int, at Place) (found Companion, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.groups) == 0 && len(k.arriving) == 0 {
		return found, false
	}
	cookie := linux.CookieOf(old)
	for k.arriving[cookie] { // whoever puts it there has taken what it needs, and so waits for nobody
		k.arrival.Wait()
	}
	g := k.groups[cookie]
	if g == nil {
		return found, false
	}
	i := slices.IndexFunc(g.kept, func(c Companion) bool { return c.Place == at })
	if i < 0 {
		return found, false
	}
	return g.kept[i], true
}

// lend has a companion be no longer kept. It returns false if it is not.
func (k *Set) lend(c *Companion) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.kept[int32(c.FD)]
	if g == nil {
		return false
	}
	i := slices.IndexFunc(g.kept, func(other Companion) bool { return other.FD == c.FD && other.Place == c.Place })
	if i < 0 {
		return false
	}
	g.kept = slices.Delete(g.kept, i, i+1)
	k.release(c)
	if k.lent == nil {
		k.lent = map[int]loan{}
	}
	k.lent[c.FD] = loan{*c, g}
	return true
}

// Settle is for a socket that is in use now, whether take has returned it or not.
func (k *Set) Settle(fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.lent, fd)
}

// PutBack keeps a socket again that take has returned and that did not come into use. It reports
// whether it is kept, and so no longer the caller's.
func (k *Set) PutBack(fd int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.lent[fd]
	delete(k.lent, fd)
	if !ok || c.group.over || slices.ContainsFunc(c.group.kept, func(other Companion) bool { return other.Place == c.Place }) {
		return false
	}
	if k.add(c.group, c.Companion) && c.handsOn {
		k.watch(unix.EPOLL_CTL_ADD, fd)
	}
	return true
}

// discard receives what has come for a socket. A Unix socket is locked while a program receives
// from it; so not a RawSyscall.
func discard(fd int) {
	var buf [1]byte
	for range 1 << 16 {
		_, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf)), 1, unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EAGAIN {
			return
		}
	}
}
