package calls

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/receive"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// callRow says all of one system call that a filter has rules for. The filter, what finds the
// handler of a stopped call, and socketcall(2) are made of the rows.
type callRow struct {
	name   string
	handle func(w *Worker, c *session.Call) session.Outcome // of what the filter stops
	anew   session.Handler                                  // the same, for a call that is taken up again
	// rules adds what the filter does with the call for a policy with these needs.
	rules func(n session.Needs, r *callRules)
	// socketcall is the number that the call has in i386's socketcall(2), and args how many arguments
	// that then reads from memory; 0: it has none.
	socketcall, args int
	// unseen reports whether the filter stops the call if socketcall(2) makes it, where a filter
	// sees no arguments. nil: whenever rules stop any of it.
	unseen func(n session.Needs) bool
}

// Commands of fcntl(2) and ioctl(2) that say who gets a descriptor's signals: asm-generic/fcntl.h,
// asm-generic/sockios.h.
const (
	fioSetOwn = 0x8901
	siocSPGrp = 0x8902
)

// Requests of ioctl(2) about interfaces, routes and neighbours: linux/sockios.h, linux/wireless.h.
// In between is one that is about a connection, and that programs make often.
const (
	siocAddRT   = 0x890b
	siocLast    = 0x89ff
	siocOutQNSD = 0x894b
	siocIWFirst = 0x8b00
	siocIWLast  = 0x8bff
)

// calls is the table of calls. Order means nothing.
var calls = []callRow{
	// Stopped where the address is long enough to mean something, and short enough for the kernel.
	{
		name: "connect", handle: (*Worker).connectCall, socketcall: linux.SocketcallConnect, args: 3,
		rules: func(n session.Needs, r *callRules) {
			r.stop(low(2).AtLeast(shortestAddress(n)), low(2).AtMost(linux.SizeofSockaddrStorage))
		},
	},
	// A socket may be made in the egress to begin with, see atsocket.go. That one is of SMC is to be
	// known where sockets are not seen.
	{
		name: "socket", handle: (*Worker).socketCall, socketcall: linux.SocketcallSocket, args: 3,
		rules: func(n session.Needs, r *callRules) {
			inet, kind := low(0).Equal(unix.AF_INET), seccompx.Arg(1).Masked(sockTypeMask)
			r.stopIf(n.Streams, inet, kind.Equal(unix.SOCK_STREAM))
			r.stopIf(n.Datagrams, inet, kind.Equal(unix.SOCK_DGRAM))
			r.stopIf(n.Swaps && !n.Sees, low(0).Equal(linux.AFSMC))
			r.stopIf(n.Swaps && !n.Sees, low(2).Equal(sockstate.IPProtoSMC))
		},
		unseen: func(n session.Needs) bool { return n.AtSocket() }, // see socketcall
	},
	// The port of a companion, or of a socket that a receiver waits for, must be free when the
	// program has closed its socket, or has been killed; that of a stream that has left the origin
	// must not be, see stream/ports.go.
	{
		name: "bind", handle: (*Worker).bind, socketcall: linux.SocketcallBind, args: 3,
		rules: func(n session.Needs, r *callRules) { r.stopIf(n.Swaps, low(2).AtLeast(linux.SizeofSockaddrIn)) },
	},
	// A socket of an egress must not listen there.
	{
		name: "listen", handle: (*Worker).listen, socketcall: linux.SocketcallListen, args: 2,
		rules: func(n session.Needs, r *callRules) { r.stopIf(n.Netns) },
	},

	// Sends to an address, as far as a filter sees it: that of sendmsg(2) and sendmmsg(2) is in
	// memory. With MSG_FASTOPEN they connect.
	{
		name: "sendto", handle: (*Worker).send, socketcall: linux.SocketcallSendto, args: 6, unseen: stopsUnseenSends,
		rules: func(n session.Needs, r *callRules) {
			least, most := low(5).AtLeast(linux.SizeofSockaddrIn), low(5).AtMost(linux.SizeofSockaddrStorage)
			r.stopIf(n.Sends, least, most)
			r.stopIf(n.Swaps || n.Rejects, low(3).HasAny(unix.MSG_FASTOPEN), least, most)
		},
	},
	{
		name: "sendmsg", handle: (*Worker).send, socketcall: linux.SocketcallSendmsg, args: 3, unseen: stopsUnseenSends,
		rules: func(n session.Needs, r *callRules) { r.stopMessages(n, 2) },
	},
	{
		name: "sendmmsg", handle: (*Worker).send, socketcall: linux.SocketcallSendmmsg, args: 4, unseen: stopsUnseenSends,
		rules: func(n session.Needs, r *callRules) { r.stopMessages(n, 3) },
	},

	// Receiving more than the data over another family: a source address or control messages,
	// which of a struct msghdr a filter cannot see. Without datagrams those of the error queue are
	// all there is.
	{
		name: "recvfrom", handle: (*Worker).Recvfrom, socketcall: linux.SocketcallRecvfrom, args: 6,
		rules: func(n session.Needs, r *callRules) {
			r.stopIf(n.Crosses() && n.Receives, seccompx.Arg(4).NotEqual(0))
			r.stopIf(n.Crosses(), low(3).HasAny(unix.MSG_ERRQUEUE))
		},
	},
	{
		name: "recvmsg", handle: (*Worker).Recvmsg, socketcall: linux.SocketcallRecvmsg, args: 3,
		rules: func(n session.Needs, r *callRules) { r.stopReceipt(n, 2) },
	},
	{
		name: "recvmmsg", handle: (*Worker).Recvmmsg, socketcall: linux.SocketcallRecvmmsg, args: 5,
		rules: func(n session.Needs, r *callRules) { r.stopReceipt(n, 3) },
	},
	{
		name: "recvmmsg_time64", handle: (*Worker).RecvmmsgTime64,
		rules: func(n session.Needs, r *callRules) { r.stopReceipt(n, 3) },
	},

	// What would tell a program that its socket is of another family.
	{
		name: "getpeername", handle: (*Worker).Getpeername, socketcall: linux.SocketcallGetpeername, args: 3,
		rules: func(n session.Needs, r *callRules) { r.stopIf(n.Crosses()) },
	},
	{
		name: "getsockname", handle: (*Worker).Getsockname, socketcall: linux.SocketcallGetsockname, args: 3,
		rules: func(n session.Needs, r *callRules) { r.stopIf(n.Crosses()) },
	},
	{
		name: "getsockopt", handle: (*Worker).Getsockopt, socketcall: linux.SocketcallGetsockopt, args: 5,
		rules: getsockoptRules,
	},

	// What is done to a socket, and must be done to the one that takes its place. It is stopped only
	// to know that anybody does it at all, see sockstate.OptionsUsed.
	{
		name: "setsockopt", handle: (*Worker).setsockopt, socketcall: linux.SocketcallSetsockopt, args: 5,
		rules: setsockoptRules,
	},
	{name: "fcntl", handle: (*Worker).setOwner, rules: fcntlRules},
	{name: "fcntl64", handle: (*Worker).setOwner, rules: fcntlRules},
	// What is about interfaces is about those of the origin.
	{
		name: "ioctl", handle: (*Worker).ioctl,
		rules: func(n session.Needs, r *callRules) {
			request := low(1)
			r.passIf(n.AtSocket(), request.Equal(siocOutQNSD))
			r.stopIf(n.AtSocket(), request.AtLeast(siocAddRT), request.AtMost(siocLast))
			r.stopIf(n.AtSocket(), request.AtLeast(siocIWFirst), request.AtMost(siocIWLast))
			r.stopIf(n.Swaps, request.Equal(fioSetOwn))
			r.stopIf(n.Swaps, request.Equal(siocSPGrp))
		},
	},
	// To know who has epoll sets, unless a look tells whether a socket is in one, see
	// session/sight.go.
	{name: "epoll_create", handle: (*Worker).EpollCreate, rules: epollCreateRules},
	{name: "epoll_create1", handle: (*Worker).EpollCreate, rules: epollCreateRules},
	// To know that anybody has forbidden himself ports, see stream/restricted.go.
	{
		name: "landlock_restrict_self", handle: (*Worker).RestrictSelf,
		rules: func(n session.Needs, r *callRules) { r.stopIf(n.Swaps) },
	},

	// Its own rules are those of the calls that it knows by a number.
	{name: "socketcall", handle: (*Worker).socketcall, rules: func(session.Needs, *callRules) {}},
	// io_uring connects without a system call. Programs do without it.
	{name: "io_uring_setup", rules: func(_ session.Needs, r *callRules) { r.fail(unix.ENOSYS) }},
}

// shortestAddress is the least length of an address that connect(2) is stopped for: AF_UNSPEC
// disconnects a socket of an egress.
func shortestAddress(n session.Needs) uint64 {
	if n.Netns {
		return linux.SizeofFamily
	}
	return linux.SizeofSockaddrIn
}

// stopsUnseenSends reports whether sends are stopped that socketcall(2) makes. For MSG_FASTOPEN
// alone they are not: that would stop all of what 32-bit programs send, for what hardly any does.
func stopsUnseenSends(n session.Needs) bool { return n.Sends || n.AtSocket() }

// stopMessages stops sendmsg(2) or sendmmsg(2), of which an argument is the flags.
func (r *callRules) stopMessages(n session.Needs, flags int) {
	r.stopIf(n.Sends)
	r.stopIf(n.Swaps || n.Rejects, low(flags).HasAny(unix.MSG_FASTOPEN))
}

// stopReceipt stops recvmsg(2) or recvmmsg(2), of which an argument is the flags.
func (r *callRules) stopReceipt(n session.Needs, flags int) {
	r.stopIf(n.Crosses() && n.Receives)
	r.stopIf(n.Crosses(), low(flags).HasAny(unix.MSG_ERRQUEUE))
}

func fcntlRules(n session.Needs, r *callRules) {
	for _, command := range []uint64{unix.F_SETOWN, unix.F_SETSIG, unix.F_SETOWN_EX} {
		r.stopIf(n.Swaps, low(1).Equal(command))
	}
}

func epollCreateRules(n session.Needs, r *callRules) { r.stopIf(n.Swaps && !n.Sees) }

// getsockoptRules stop the reading of the options that tell of the family of a socket.
func getsockoptRules(n session.Needs, r *callRules) {
	for _, o := range receive.AskedOptions(n) {
		when := []seccompx.Cond{low(1).Equal(uint64(o.Level))}
		if o.Name != receive.AnyOption {
			when = append(when, low(2).Equal(uint64(o.Name)))
		}
		r.stop(when...)
	}
}

// setsockoptRules stop the setting of all options that a stream can have, and that are not read at
// every swap.
func setsockoptRules(n session.Needs, r *callRules) {
	if !n.Swaps {
		return
	}
	r.stopIf(n.Unix && n.UDP, low(1).Equal(unix.IPPROTO_UDP))
	for _, level := range sockstate.Levels {
		ofLevel := low(1).Equal(uint64(level))
		for i := range sockstate.Options {
			row := &sockstate.Options[i]
			passes := row.Level == level && n.Passes(row)
			r.passIf(passes, ofLevel, low(2).Equal(uint64(row.Name)))
			for _, name := range row.OtherNames() {
				r.passIf(passes, ofLevel, low(2).Equal(uint64(name)))
			}
		}
		r.stop(ofLevel)
	}
}
