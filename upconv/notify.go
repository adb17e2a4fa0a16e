package upconv

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/spawn"
)

// systemd listens to a message of sd_notify(3) or not for the process that has sent it: with
// NotifyAccess=main only to the one that it has started, which is the front process. So the command
// is given a socket of the supervisor's in the place of systemd's (NOTIFY_SOCKET). What the command
// itself sends there is sent on by the front process, and what anybody else sends under the
// sender's own name: systemd decides about all of it as it would without upconv.

// A notice is one message of sd_notify(3).
type notice struct {
	data   []byte
	fds    []int // FDSTORE=1, BARRIER=1; owned
	sender unix.Ucred
}

const (
	maxNotice    = 1 << 16 // bytes; systemd takes 4,096
	maxNoticeFDs = 253     // SCM_MAX_FD, unix(7)
)

// close closes the descriptors that came with the message.
func (n *notice) close() {
	for _, fd := range n.fds {
		unix.Close(fd)
	}
}

// bindNotify gives a socket an address for the command's NOTIFY_SOCKET, and returns it. Where
// systemd's has a path, it is a path too: beside systemd's, or at a place where everybody may have
// files. Not every program knows abstract addresses, nor do those lead into other network
// namespaces.
func bindNotify(socket int, systemd string) (string, error) {
	var places []string
	if strings.HasPrefix(systemd, "/") {
		places = []string{filepath.Dir(systemd), "/dev/shm", "/tmp"}
	}
	base := fmt.Sprintf("upconv-notify-%d", os.Getpid())
	for _, dir := range places {
		path := filepath.Join(dir, base)
		err := unix.Bind(socket, &unix.SockaddrUnix{Name: path})
		if err == unix.EADDRINUSE && isDeserted(path) {
			unix.Unlink(path)
			err = unix.Bind(socket, &unix.SockaddrUnix{Name: path})
		}
		if err == nil {
			return path, os.Chmod(path, 0o777) // whatever user the command becomes; systemd's has the same mode
		}
	}
	var random [16]byte
	rand.Read(random[:])
	name := "@" + base + "-" + hex.EncodeToString(random[:])
	return name, os.NewSyscallError("bind", unix.Bind(socket, &unix.SockaddrUnix{Name: name}))
}

// isDeserted reports whether a path is that of a datagram socket that nobody has any more.
func isDeserted(path string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) == unix.ECONNREFUSED
}

// noticeQueue is a socket that messages come from, which are handled one after the other.
type noticeQueue struct {
	mu     sync.Mutex // held while messages are received and handled
	fd     int
	file   *os.File // owns fd
	handle func(*notice)
}

// newNoticeQueue takes a non-blocking socket. handle is called with each message until the socket
// is closed.
func newNoticeQueue(fd int, handle func(*notice)) *noticeQueue {
	q := &noticeQueue{fd: fd, file: os.NewFile(uintptr(fd), "notify"), handle: handle}
	go func() {
		if conn, err := q.file.SyscallConn(); err == nil {
			conn.Read(func(uintptr) bool { return q.drain() != nil })
		}
	}()
	return q
}

// drain handles all messages that are there. It returns an error where there will be no more.
func (q *noticeQueue) drain() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	data, control := make([]byte, maxNotice), make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*maxNoticeFDs))
	for {
		n, c, flags, _, err := unix.Recvmsg(q.fd, data, control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EAGAIN:
			return nil
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0 && c == 0:
			return unix.EPIPE // the other end is closed: where there is none, the sender is always told
		}
		m := &notice{data: data[:n]}
		m.readControl(control[:c])
		if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0 {
			q.handle(m)
		}
		m.close()
	}
}

// readControl takes the sender and the descriptors from control messages.
func (n *notice) readControl(control []byte) {
	messages, _ := unix.ParseSocketControlMessage(control)
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			n.fds = append(n.fds, fds...)
		} else if sender, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			n.sender = *sender
		}
	}
}

// send sends the message from this process, or under another name if sender is given, to an address
// or, where that is nil, to the socket's peer.
func (n *notice) send(socket int, to unix.Sockaddr, sender *unix.Ucred) error {
	var control []byte
	if len(n.fds) > 0 {
		control = unix.UnixRights(n.fds...)
	}
	if sender != nil {
		control = append(control, unix.UnixCredentials(sender)...)
	}
	for {
		err := unix.Sendmsg(socket, n.data, control, to, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

// newNotifySender returns a socket to send messages to systemd by. A systemd that does not read
// holds it up for some seconds only.
func newNotifySender() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(notifyPatience / time.Second)})
	return fd, nil
}

// speaker is the front process's part: it sends what the command has sent.
type speaker struct {
	queue  *noticeQueue
	socket int
	to     unix.SockaddrUnix
}

// newSpeaker takes the messages of the command from a socket that the supervisor has the other end
// of.
func newSpeaker(from int, to string) (*speaker, error) {
	socket, err := newNotifySender()
	if err != nil {
		return nil, err
	}
	s := &speaker{socket: socket, to: unix.SockaddrUnix{Name: to}}
	s.queue = newNoticeQueue(from, s.speak)
	return s, nil
}

// startSpeaker starts the front process's speaker if the command may have something to tell
// systemd. It returns the other end of its socket, which the caller owns, or -1.
func (f *front) startSpeaker() (int, error) {
	if f.service.Notify == "" {
		return -1, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socketpair", err)
	}
	if f.speaker, err = newSpeaker(pair[0], f.service.Notify); err != nil {
		unix.Close(pair[0])
		unix.Close(pair[1])
		return -1, err
	}
	return pair[1], nil
}

// end sends what the command has sent last.
func (s *speaker) end() {
	if s != nil {
		s.queue.drain()
	}
}

// speakerHeader is the length of what stands before a message from the supervisor: the user and
// group ID of the sender.
const speakerHeader = 8

// speak sends a message from this process, with the user of the sender: what a command may that has
// dropped its privileges is not what this process may.
func (s *speaker) speak(n *notice) {
	if len(n.data) < speakerHeader {
		return
	}
	sender := unix.Ucred{
		Pid: int32(os.Getpid()), Uid: binary.NativeEndian.Uint32(n.data), Gid: binary.NativeEndian.Uint32(n.data[4:]),
	}
	n.data = n.data[speakerHeader:]
	n.send(s.socket, &s.to, &sender)
	unix.Sendto(s.queue.fd, []byte{0}, unix.MSG_NOSIGNAL, nil)
}

// relay is the supervisor's part: it receives all messages.
type relay struct {
	queue   *noticeQueue
	socket  int // for messages that are not the command's
	speaker int // the front process has the other end
	to      unix.SockaddrUnix
	address string // of the queue's socket, as the command is told
	front   int    // pids
	command int    // 0 once it is reaped
	log     *slog.Logger
}

// newRelay receives on a socket of the command's network namespace, which it gives an address, for
// the rest of this process's life.
func (p *process) newRelay(socket int) (*relay, error) {
	r := &relay{
		speaker: p.order.Speaker, to: unix.SockaddrUnix{Name: p.order.Service.Notify},
		front: p.order.Front, command: p.command, log: p.log,
	}
	err := os.NewSyscallError("setsockopt SO_PASSCRED", unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
	if err == nil {
		r.socket, err = newNotifySender()
	}
	if err == nil {
		r.address, err = bindNotify(socket, p.order.Service.Notify)
	}
	if err != nil {
		return nil, fmt.Errorf("a socket for the command's %s: %w", spawn.NotifySocket, err)
	}
	r.queue = newNoticeQueue(socket, r.pass)
	return r, nil
}

// awaitManager waits until systemd has done what it was doing, such as sending signals: it reads
// messages only then. See sd_notify_barrier(3).
func (r *relay) awaitManager(limit time.Duration) {
	var ends [2]int
	if unix.Pipe2(ends[:], unix.O_CLOEXEC) != nil {
		return
	}
	defer unix.Close(ends[0])
	barrier := notice{data: []byte("BARRIER=1"), fds: ends[1:]}
	err := barrier.send(r.socket, &r.to, nil)
	barrier.close()
	if err != nil {
		return
	}
	awaitReadable(ends[0], limit)
}

// notifyPatience is how long systemd, or a front process that is stopped, may hold up one message.
const notifyPatience = 5 * time.Second

// awaitReadable waits until there is something to read, or the other end is closed, but not longer
// than limit.
func awaitReadable(fd int, limit time.Duration) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(limit); ; {
		if _, err := unix.Poll(fds, int(max(0, time.Until(deadline)).Milliseconds())); err != unix.EINTR {
			return
		}
	}
}

// remove takes the address out of the file system.
func (r *relay) remove() {
	if r != nil && strings.HasPrefix(r.address, "/") {
		unix.Unlink(r.address)
	}
}

// pass hands a message on.
func (r *relay) pass(n *notice) {
	n.data = renameMainPID(n.data, r.command, r.front)
	var err error
	if int(n.sender.Pid) != r.command {
		err = r.passFrom(n)
	} else {
		header := binary.NativeEndian.AppendUint32(nil, n.sender.Uid)
		n.data = append(binary.NativeEndian.AppendUint32(header, n.sender.Gid), n.data...)
		if err = n.send(r.speaker, nil, nil); err == nil {
			// What others send after it must not overtake it.
			awaitReadable(r.speaker, notifyPatience)
			unix.Read(r.speaker, make([]byte, 1))
		}
	}
	if err != nil {
		r.log.Debug("a message to systemd is lost", "pid", n.sender.Pid, "error", err)
	}
}

// passFrom hands on the message of another process than the command, under its own name where this
// process may do that. Else systemd is to take it for one of the service, as it does with
// NotifyAccess=all, and nobody who is not of the service may have that.
func (r *relay) passFrom(n *notice) error {
	err := n.send(r.socket, &r.to, &n.sender)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	if !isOfSameService(int(n.sender.Pid)) {
		return errors.New("its sender is not in this control group")
	}
	sender := n.sender
	sender.Pid = int32(os.Getpid())
	return n.send(r.socket, &r.to, &sender)
}

// end hands on what the command has sent last. From then on its pid is nobody's.
func (r *relay) end() {
	if r == nil {
		return
	}
	r.queue.drain()
	r.queue.mu.Lock()
	r.command = 0
	r.queue.mu.Unlock()
}

// renameMainPID has a message that says the command to be the service's main process say it of the
// front process, which systemd can wait for, and which passes on its signals.
func renameMainPID(message []byte, command, front int) []byte {
	old, mainPidfd := "MAINPID="+strconv.Itoa(command), "MAINPIDFDID="
	lines := strings.Split(string(message), "\n")
	at := slices.Index(lines, old)
	if command == 0 || at < 0 {
		return message
	}
	for ; at >= 0; at = slices.Index(lines, old) {
		lines[at] = "MAINPID=" + strconv.Itoa(front)
	}
	// That was of the command, too.
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, mainPidfd) })
	return []byte(strings.Join(lines, "\n"))
}

// isOfSameService reports whether a process is in the control group that this process is in, or
// below it: systemd tells its services by that.
func isOfSameService(pid int) bool {
	theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	ours, err := os.ReadFile("/proc/self/cgroup")
	return err == nil && isWithin(string(theirs), string(ours))
}

// isWithin compares two contents of /proc/PID/cgroup, cgroups(7): by the hierarchy that systemd
// uses, which is the unified one or the one that bears its name.
func isWithin(theirs, ours string) bool {
	groups := func(text string) (list []string) {
		for line := range strings.Lines(text) {
			if fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(fields) == 3 && (fields[0] == "0" || fields[1] == "name=systemd") {
				list = append(list, fields[1]+":"+strings.TrimSuffix(fields[2], "/")+"/")
			}
		}
		return list
	}
	has := groups(theirs)
	found := false
	for _, group := range groups(ours) {
		within := false
		for _, g := range has {
			within = within || strings.HasPrefix(g, group)
		}
		if !within {
			return false
		}
		found = true
	}
	return found
}
