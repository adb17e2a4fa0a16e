package datagram

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/crossing"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/target"
)

// Control messages of sends: what they may ask for, and which privileges that takes.

// PackControl returns the control messages to send for those that the program sends, valid until
// the next call. x is not nil if the socket is one of another family. The errno is what sendmsg(2)
// says to them.
func (w *Worker) PackControl(c *session.Call, raw []byte, x *crossing.Crossing) (control []byte, errno unix.Errno) {
	translates := x != nil && !x.Mapped
	from := 0
	if translates {
		from = x.Pass.Family // for a Unix socket only to see what is wrong with them: they are left out
	}
	control, errno = w.Control.ToSend(raw, c.Compat, from)
	switch {
	case w.lacksPrivilege(c, control):
		errno = unix.EPERM
	case errno != 0 && len(control) > 0 && x.Family() == unix.AF_INET6:
		errno = 0 // the kernel looks at them in order, and may say something else to one before
	case errno != 0:
	case translates:
		errno = w.fromElsewhere(raw, c.Compat, x)
	}
	return control, errno
}

// fromElsewhere returns what is wrong with the source address that control messages ask for
// (IP_PKTINFO): what ip_route_output_key_hash_rcu in net/ipv4/route.c says of it.
func (w *Worker) fromElsewhere(control []byte, compat bool, x *crossing.Crossing) unix.Errno {
	for {
		m, rest, ok, _ := siit.TakeControl(control, compat)
		if !ok {
			return 0
		}
		control = rest
		at := 4 // ipi_spec_dst
		switch {
		case m.Level == unix.IPPROTO_IP && m.Name == unix.IP_PKTINFO && len(m.Data) == siit.SizeofInPktinfo:
		case m.Level == unix.IPPROTO_IPV6 && m.Name == unix.IPV6_PKTINFO && len(m.Data) >= siit.SizeofIn6Pktinfo && x.Pass.Family == unix.AF_INET6:
			at = 12 // the end of ipi6_addr, which is IPv4-mapped
		default:
			continue
		}
		switch source := netip.AddrFrom4([4]byte(m.Data[at : at+4])); {
		case source.IsUnspecified():
		case source.IsMulticast(), source == broadcast4, source.IsLoopback():
			return unix.EINVAL // from which nothing that is elsewhere is reached
		case source != x.Pass.Local && !w.s.Told.Has(source) && !w.s.Origin.Assigned(source):
			return unix.ENETUNREACH
		}
	}
}

// lacksPrivilege reports whether control messages need a capability that upconv has and the target
// has not.
func (w *Worker) lacksPrivilege(c *session.Call, control []byte) bool {
	if !privilegedControl(control) || !linux.HasCapability(unix.CAP_NET_ADMIN) && !linux.HasCapability(unix.CAP_NET_RAW) {
		return false
	}
	own, errOwn := os.Readlink("/proc/self/ns/user")
	of, err := os.Readlink("/proc/" + strconv.Itoa(c.TID) + "/ns/user")
	if errOwn != nil || err != nil || own != of {
		return true
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(c.TID) + "/status")
	const either = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	return err != nil || target.StatusField(status, "CapEff:", 16)&either == 0
}

// ordinaryPriority reports whether everybody may set a priority, or nobody: sk_set_prio_allowed in
// include/net/sock.h.
func ordinaryPriority(data []byte) bool {
	return len(data) != 4 || binary.NativeEndian.Uint32(data) <= 6
}

// privilegedControl reports whether there is anything in control messages that takes a capability.
func privilegedControl(control []byte) bool {
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		if h.Len < unix.SizeofCmsghdr || h.Len > uint64(len(control)) {
			return false // EINVAL
		}
		switch h.Level {
		case unix.SOL_SOCKET:
			if h.Type == unix.SO_MARK || h.Type == unix.SO_PRIORITY && !ordinaryPriority(control[unix.SizeofCmsghdr:h.Len]) {
				return true
			}
		case unix.IPPROTO_IP:
			if h.Type == unix.IP_RETOPTS {
				return true
			}
		case unix.IPPROTO_IPV6:
			if h.Type == siit.RefusedControl && h.Len == unix.SizeofCmsghdr {
				return false // EINVAL
			}
			switch h.Type {
			case unix.IPV6_PKTINFO, unix.IPV6_HOPLIMIT, unix.IPV6_TCLASS, unix.IPV6_DONTFRAG, sockstate.IPv6FlowInfo:
			default:
				return true
			}
		}
		next := min((h.Len+7)&^7, uint64(len(control)))
		control = control[next:]
	}
	return false
}

// sizeofUcred is struct ucred, unix(7).
const sizeofUcred = 12

// appendCredentials appends the control message that has the receiver of a datagram see c as its
// sender.
func appendCredentials(control []byte, pid int, c *target.Credentials) []byte {
	var ucred [sizeofUcred]byte
	for i, value := range []int{pid, c.UID, c.GID} {
		binary.NativeEndian.PutUint32(ucred[4*i:], uint32(value))
	}
	return siit.AppendControl(control, unix.SOL_SOCKET, unix.SCM_CREDENTIALS, ucred[:])
}
