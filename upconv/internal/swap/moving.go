package swap

import "sync"

// movingSockets are the datagram sockets that somebody moves now: each can be moved by one worker
// at a time. A program can hold up who moves its socket, but so only those who want that same one.
type movingSockets struct {
	mu    sync.Mutex
	locks map[uint64]*movingLock // by inode, of those that somebody moves or waits for
	spare []*movingLock          // to be used again
}

// movingLock is held while its socket is moved.
type movingLock struct {
	sync.Mutex
	ino   uint64
	users int // who has it, and who waits for it; under movingSockets.mu
}

// maxSpareLocks is how many locks are kept for later.
const maxSpareLocks = 64

// Lock waits until nobody else moves the socket with an inode number. The caller gives what it
// returns to Unlock.
func (m *movingSockets) Lock(ino uint64) *movingLock {
	l := m.lockOf(ino)
	l.Lock()
	return l
}

func (m *movingSockets) lockOf(ino uint64) *movingLock {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.locks[ino]
	if l == nil {
		if last := len(m.spare) - 1; last >= 0 {
			l, m.spare = m.spare[last], m.spare[:last]
		} else {
			l = &movingLock{}
		}
		if m.locks == nil {
			m.locks = map[uint64]*movingLock{}
		}
		l.ino, m.locks[ino] = ino, l
	}
	l.users++
	return l
}

// Unlock lets the next one move the socket.
func (m *movingSockets) Unlock(l *movingLock) {
	l.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.users--; l.users > 0 {
		return
	}
	delete(m.locks, l.ino)
	if len(m.spare) < maxSpareLocks {
		m.spare = append(m.spare, l)
	}
}
