package swap

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/upconv/upconv/upconv/internal/peek"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// epolls knows which descriptors of which process are epoll sets. A socket that a program has put
// into such a set before it connects would be lost to the set in a swap: a registration belongs to
// the open file.
//
// A process is looked through once, and again when it has made another set: epoll_create(2) is
// stopped for that alone. As long as nobody has made any, nothing is looked at. Where upconv can
// look at a socket in the kernel (session.Worker.See) that is not needed: it says whether there is
// anything to be found.
type epolls struct {
	Any        atomic.Bool // somebody may have a set
	noKcmp     atomic.Bool // kcmp(2) is refused, or this kernel has none
	deaf       bool        // nobody says when a set is made
	mu         sync.Mutex
	makers     map[int]*epollMaker // by process
	tables     map[int]*epollTable // by process, or by thread with descriptors of its own
	generation int                 // counts the sets that are made
}

// epollMaker is what is known of a process that makes sets.
type epollMaker struct {
	created    time.Time // when it last was about to make one
	making     []int     // the threads that were
	generation int       // of the last one
}

// epollTable is what is known of a table of descriptors. Maps in it are not changed: others may be
// reading them.
type epollTable struct {
	fds        []int
	large      map[int]bool   // sets that it takes long to search
	files      map[uint64]int // fds by what Sight.File says of them; only for sets that were looked at
	known      bool           // fds is what it had
	generation int            // of the last set that its process had made then
}

const (
	maxEpollProcesses = 1024
	// settling is how long epoll_create(2), once let go on, may take to have the set in place.
	settling = 100 * time.Millisecond
)

// blind has every process be looked through every time: neither does the filter tell of new sets,
// nor can sockets be seen.
func (e *epolls) blind() {
	e.Any.Store(true)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deaf = true
}

// EpollCreate handles a stopped epoll_create(2): it is noted and goes on.
func (w *Worker) EpollCreate(c *session.Call) session.Outcome {
	w.s.Epolls.create(w.s.Targets.Process(c.TID), c.TID)
	return session.CarryOn
}

// files returns what a thread's descriptor table is known by, and its process. That is the pid, or
// the tid of a thread that has a table of its own, or that may have one where nothing tells.
func (w *Worker) files(tid int) (files, pid int) {
	pid = w.s.Targets.Process(tid)
	if pid == tid || w.s.Epolls.noKcmp.Load() {
		return tid, pid
	}
	order, errno := target.CompareTables(pid, tid)
	if errno == 0 && order == 0 {
		return pid, pid
	}
	if target.RefusesKcmp(errno) {
		w.s.Epolls.noKcmp.Store(true)
	}
	return tid, pid
}

// create notes that a thread is about to make a set.
func (e *epolls) create(pid, tid int) {
	e.Any.Store(true)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.makers == nil || len(e.makers) >= maxEpollProcesses {
		e.makers = map[int]*epollMaker{}
	}
	m := e.makers[pid]
	if m == nil {
		m = &epollMaker{}
		e.makers[pid] = m
	}
	e.generation++
	m.generation, m.created, m.making = e.generation, time.Now(), append(m.making, tid)
}

// forget drops what is known of a table of descriptors, and has turned out to be wrong.
func (e *epolls) forget(files int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.tables, files)
}

// Ended drops what is known of a process or thread that has ended.
func (e *epolls) Ended(tid int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.tables, tid)
	delete(e.makers, tid)
}

// table returns the entry of a descriptor table; the caller holds mu.
func (e *epolls) table(files int) *epollTable {
	if e.tables == nil || len(e.tables) >= maxEpollProcesses {
		e.tables = map[int]*epollTable{}
	}
	t := e.tables[files]
	if t == nil {
		t = &epollTable{}
		e.tables[files] = t
	}
	return t
}

// list returns the epoll descriptors of the thread tid, and which are known to be large. Whatever
// that was about to make is made. It is false if they cannot be found out. files and pid are what
// Worker.files says.
func (e *epolls) list(files, pid, tid int) (fds []int, large map[int]bool, ok bool) {
	if t, known := e.lookUp(files, pid); known {
		return t.fds, t.large, true
	}
	generation, made := e.generationOf(pid, tid)
	fds, ok = target.DescriptorsLinkedTo(tid, epollLink) // of which a program may have very many: nobody else waits for that
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.table(files)
	t.fds, t.large, t.known, t.generation = fds, nil, ok && made && !e.deaf, generation
	return fds, nil, ok
}

// lookUp returns what is known of a table, if it is what the table has now.
func (e *epolls) lookUp(files, pid int) (known epollTable, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, generation := e.table(files), 0
	if m := e.makers[pid]; m != nil {
		generation = m.generation
	}
	return *t, t.known && t.generation == generation
}

// generationOf returns which set a process has made last, and whether all are in place that its
// threads, apart from tid, were about to make.
func (e *epolls) generationOf(pid, tid int) (generation int, made bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.makers[pid]
	if m == nil {
		return 0, true
	}
	m.making = slices.DeleteFunc(m.making, func(other int) bool { return other == tid })
	if time.Since(m.created) > settling {
		m.making = nil
	}
	return m.generation, len(m.making) == 0
}

// epollLink is what proc_pid_fd(5) says of an epoll set.
const epollLink = "anon_inode:[eventpoll]"

// noteLarge notes that it took long to search a set.
func (e *epolls) noteLarge(files, epfd int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.tables[files]; t != nil && !t.large[epfd] {
		large := maps.Clone(t.large)
		if large == nil {
			large = map[int]bool{}
		}
		large[epfd] = true
		t.large = large
	}
}

// setOf returns the descriptor of a set that was seen: file is what Sight.File says of it. It may
// be another one's by now.
func (e *epolls) setOf(files int, file uint64) (epfd int, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.tables[files]; t != nil {
		epfd, ok = t.files[file]
	}
	return epfd, ok
}

// lookAtSets looks at all sets that a thread has, for setOf.
func (w *Worker) lookAtSets(tid int) {
	files, _ := w.files(tid)
	fds, _ := target.DescriptorsLinkedTo(tid, epollLink)
	found := make(map[uint64]int, len(fds))
	peeker := w.s.Sights.Load().Peeker
	for _, fd := range fds {
		var sight peek.Sight
		if peeker.Look(tid, fd, &sight) == 0 && sight.File != 0 {
			found[sight.File] = fd
		}
	}
	e := &w.s.Epolls
	e.mu.Lock()
	defer e.mu.Unlock()
	e.table(files).files = found
}
