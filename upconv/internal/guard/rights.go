package guard

import (
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/siit"
)

// What a send on a Unix socket carries besides data is the program's: its descriptors (SCM_RIGHTS),
// which upconv fetches and passes on, and its credentials (SCM_CREDENTIALS).

// maxRights is how many descriptors a message carries at most: SCM_MAX_FD, net/scm.h.
const maxRights = 253

// sealUnix is seal for a Unix socket.
func (e *envelope) sealUnix(m *guardedMessage) unix.Errno {
	claim, errno := e.sealRights(m.control)
	if errno == 0 {
		errno = e.sealCredentials(claim)
	}
	s, tid := e.worker.s, e.call.TID
	switch {
	case errno != 0:
		return errno
	case e.to.kind == unix.SOCK_STREAM && s.Needs.Unix && len(m.name) > 0:
		if p, _ := e.worker.PassportOf(e.to.fd); p != nil { // the program's is a TCP socket
			return 0
		}
	case e.to.kind == unix.SOCK_DGRAM && len(m.name) > linux.SizeofFamily && binary.NativeEndian.Uint16(m.name) == unix.AF_UNIX:
		if errno := e.peer.Find(s.Targets, tid, m.name); errno != 0 {
			return errno
		}
		e.name, e.pathed = e.peer.Sockaddr(), true
		return 0
	}
	e.name = m.name
	return 0
}

// sealRights puts the descriptors, and what else is in control messages of the program's, into the
// envelope. claim is the struct ucred that it sends, nil if it sends none.
func (e *envelope) sealRights(raw []byte) (claim []byte, errno unix.Errno) {
	compat := e.call.Compat
	if header, _ := siit.ControlLayout(compat); compat && len(raw) > 0 && len(raw) < header {
		return nil, unix.EINVAL
	}
	for {
		m, rest, ok, errno := siit.TakeControl(raw, compat)
		switch {
		case errno != 0 || !ok:
			return claim, errno
		case m.Level != unix.SOL_SOCKET || m.Name != unix.SCM_RIGHTS && m.Name != unix.SCM_CREDENTIALS:
			e.control = siit.AppendControl(e.control, m.Level, m.Name, m.Data)
		case m.Name == unix.SCM_CREDENTIALS && len(m.Data) != unix.SizeofUcred:
			return nil, unix.EINVAL
		case m.Name == unix.SCM_CREDENTIALS:
			claim = m.Data
		default:
			if errno := e.sealDescriptors(m.Data); errno != 0 {
				return nil, errno
			}
		}
		raw = rest
	}
}

// sealDescriptors fetches the descriptors of one SCM_RIGHTS.
func (e *envelope) sealDescriptors(numbers []byte) unix.Errno {
	count := len(numbers) / 4
	if count > maxRights-len(e.fds) {
		return unix.EINVAL
	}
	own := make([]byte, 0, 4*count)
	for i := range count {
		fd, errno := e.worker.s.Targets.Getfd(e.call.TID, int(int32(binary.NativeEndian.Uint32(numbers[4*i:]))))
		switch errno {
		case 0:
		case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
			return unix.ETOOMANYREFS // natively said where too many are on their way
		default:
			return unix.EBADF
		}
		e.fds = append(e.fds, fd)
		own = binary.NativeEndian.AppendUint32(own, uint32(fd))
	}
	if count > 0 {
		e.control = siit.AppendControl(e.control, unix.SOL_SOCKET, unix.SCM_RIGHTS, own)
	}
	return 0
}

// sealCredentials has the receiver see the program as the sender, as far as upconv may say so. The
// errno is EPERM for a claim that the program may not make: scm_check_creds in net/core/scm.c.
func (e *envelope) sealCredentials(claim []byte) unix.Errno {
	s, tid := e.worker.s, e.call.TID
	sender, errno := s.Targets.SenderOf(tid)
	if errno != 0 {
		return errno
	}
	says := sender.Ucred()
	if claim != nil {
		if says, errno = sender.Allow(tid, claim); errno != 0 {
			return errno
		}
	}
	if !s.namesSenders(sender.PID) {
		if claim == nil && int(says.Uid) == s.UID && int(says.Gid) == s.GID {
			return 0 // upconv's own are as good as any
		}
		says.Pid = int32(s.PID)
	}
	var raw [unix.SizeofUcred]byte
	binary.NativeEndian.PutUint32(raw[:], uint32(says.Pid))
	binary.NativeEndian.PutUint32(raw[4:], says.Uid)
	binary.NativeEndian.PutUint32(raw[8:], says.Gid)
	e.control = siit.AppendControl(e.control, unix.SOL_SOCKET, unix.SCM_CREDENTIALS, raw[:])
	return 0
}

// namesSenders reports whether upconv may say that another process, such as pid, has sent what it
// sends. That takes CAP_SYS_ADMIN where processes are numbered.
func (s *Session) namesSenders(pid int) bool {
	s.naming.once.Do(func() {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return
		}
		defer linux.Close(pair[0])
		defer linux.Close(pair[1])
		other := unix.UnixCredentials(&unix.Ucred{Pid: int32(pid), Uid: uint32(s.UID), Gid: uint32(s.GID)})
		s.naming.names = unix.Sendmsg(pair[0], []byte{0}, other, nil, unix.MSG_NOSIGNAL) == nil
	})
	return s.naming.names
}

// naming is what namesSenders has found.
type naming struct {
	once  sync.Once
	names bool
}
