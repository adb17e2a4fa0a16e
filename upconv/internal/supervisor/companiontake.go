package supervisor

import (
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// loan is a companion that is about to be the socket in use.
type loan struct {
	companion
	group *group
}

// arrives is for a socket that is about to be put into the place of another. As soon as it is
// there, another thread's call may find it there and ask for its companion: take waits until the
// caller has called arrived.
func (k *companions) arrives(fd int) (cookie uint64) {
	cookie = linux.CookieOf(fd)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.arriving == nil {
		k.arriving, k.arrival.L = map[uint64]bool{}, &k.mu
	}
	k.arriving[cookie] = true
	return cookie
}

func (k *companions) arrived(cookie uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.arriving, cookie)
	k.arrival.Broadcast()
}

// take returns the companion that the socket of which old is a copy has in a place. It is the
// caller's then, who calls settle or putBack.
func (k *companions) take(old int, at place) (fd int, ok bool) {
	c, ok := k.find(old, at)
	if !ok {
		return -1, false
	}
	if c.reader != nil { // what it has received already is to be handed on
		c.reader.mu.Lock()
		defer c.reader.mu.Unlock()
	}
	if !k.lend(&c) {
		return -1, false
	}
	if c.beside {
		discard(c.fd)
	}
	return c.fd, true
}

// find returns the companion for take, which waits while that is being put there.
func (k *companions) find(old int, at place) (found companion, ok bool) {
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
	i := slices.IndexFunc(g.kept, func(c companion) bool { return c.place == at })
	if i < 0 {
		return found, false
	}
	return g.kept[i], true
}

// lend has a companion be no longer kept. It returns false if it is not.
func (k *companions) lend(c *companion) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.kept[int32(c.fd)]
	if g == nil {
		return false
	}
	i := slices.IndexFunc(g.kept, func(other companion) bool { return other.fd == c.fd && other.place == c.place })
	if i < 0 {
		return false
	}
	g.kept = slices.Delete(g.kept, i, i+1)
	k.release(c)
	if k.lent == nil {
		k.lent = map[int]loan{}
	}
	k.lent[c.fd] = loan{*c, g}
	return true
}

// settle is for a socket that is in use now, whether take has returned it or not.
func (k *companions) settle(fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.lent, fd)
}

// putBack keeps a socket again that take has returned and that did not come into use. It reports
// whether it is kept, and so no longer the caller's.
func (k *companions) putBack(fd int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.lent[fd]
	delete(k.lent, fd)
	if !ok || c.group.over || slices.ContainsFunc(c.group.kept, func(other companion) bool { return other.place == c.place }) {
		return false
	}
	if k.add(c.group, c.companion) && c.handsOn {
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
