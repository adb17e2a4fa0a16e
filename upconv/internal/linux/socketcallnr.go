package linux

// The first argument of i386's socketcall(2), which says what call it is: linux/net.h.
const (
	SocketcallSocket      = 1
	SocketcallBind        = 2
	SocketcallConnect     = 3
	SocketcallListen      = 4
	SocketcallGetsockname = 6
	SocketcallGetpeername = 7
	SocketcallRecv        = 10
	SocketcallSendto      = 11
	SocketcallRecvfrom    = 12
	SocketcallSetsockopt  = 14
	SocketcallGetsockopt  = 15
	SocketcallSendmsg     = 16
	SocketcallRecvmsg     = 17
	SocketcallRecvmmsg    = 19
	SocketcallSendmmsg    = 20
)
