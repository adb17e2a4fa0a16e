// options_probe inet|inet6 tcp|mptcp ADDRESS PORT finds out by itself which socket options there are: it tries every
// number of every level with all kinds of values. A value counts if some option then reads otherwise than on
// a fresh socket. Each that counts is set on a socket of its own, which is then connected; every option that can
// be read is printed where it differs from what a socket says that was just connected. Natively and under
// upconv it prints the same.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define NUMBERS 256 // of each level; the kernel has used less than 100
#define MAX_SIZE 256
#define MAX_VALUES 8 // of each option

static const struct {
	const char *name;
	int level;
} levels[] = {{"SOL_SOCKET", SOL_SOCKET}, {"IPPROTO_IP", IPPROTO_IP}, {"IPPROTO_TCP", IPPROTO_TCP}, {"IPPROTO_IPV6", IPPROTO_IPV6}};
static int n_levels; // AF_INET sockets do not have the last

// Not compared, since they are another on every socket or at every moment.
static const struct {
	int level, number;
} unsteady[] = {
	{SOL_SOCKET, 49}, // SO_INCOMING_CPU: the last packet's
	{SOL_SOCKET, 55}, // SO_MEMINFO: what is in flight
	{SOL_SOCKET, 56}, // SO_INCOMING_NAPI_ID: the last packet's
	{SOL_SOCKET, 57}, // SO_COOKIE: names the socket
	{SOL_SOCKET, 71}, // SO_NETNS_COOKIE: the native run is in the egress from the start; see K7 and the tests of sockets
	{IPPROTO_IP, 52}, // IP_PROTOCOL: here the local port
	{IPPROTO_TCP, 11}, // TCP_INFO: times and counts; steady_info prints the rest
	{IPPROTO_TCP, 24}, // TCP_TIMESTAMP: a clock
	{IPPROTO_TCP, 26}, // TCP_CC_INFO: measurements
};

// Not set, since an interface's number or name means another one in another namespace.
static const struct {
	int level, number;
} not_set[] = {
	{SOL_SOCKET, 25}, // SO_BINDTODEVICE
	{SOL_SOCKET, 62}, // SO_BINDTOIFINDEX
};

// Not set together with the rest.
static const struct {
	int level, number;
} alone[] = {
	{IPPROTO_TCP, 19}, // TCP_REPAIR: connected without a packet
	{IPPROTO_TCP, 30}, // TCP_FASTOPEN_CONNECT: with TCP_FASTOPEN_NO_COOKIE there would be no connection before a write
};

// For the reader only; an option without a name is printed as its number (these are of x86 and arm64).
static const struct {
	int level, number;
	const char *name;
} names[] = {
	{SOL_SOCKET, 1, "SO_DEBUG"}, {SOL_SOCKET, 2, "SO_REUSEADDR"}, {SOL_SOCKET, 5, "SO_DONTROUTE"},
	{SOL_SOCKET, 6, "SO_BROADCAST"}, {SOL_SOCKET, 7, "SO_SNDBUF"}, {SOL_SOCKET, 8, "SO_RCVBUF"},
	{SOL_SOCKET, 9, "SO_KEEPALIVE"}, {SOL_SOCKET, 10, "SO_OOBINLINE"}, {SOL_SOCKET, 11, "SO_NO_CHECK"},
	{SOL_SOCKET, 12, "SO_PRIORITY"}, {SOL_SOCKET, 13, "SO_LINGER"}, {SOL_SOCKET, 15, "SO_REUSEPORT"},
	{SOL_SOCKET, 16, "SO_PASSCRED"}, {SOL_SOCKET, 18, "SO_RCVLOWAT"}, {SOL_SOCKET, 20, "SO_RCVTIMEO"},
	{SOL_SOCKET, 21, "SO_SNDTIMEO"}, {SOL_SOCKET, 25, "SO_BINDTODEVICE"}, {SOL_SOCKET, 26, "SO_ATTACH_FILTER"},
	{SOL_SOCKET, 28, "SO_PEERNAME"}, {SOL_SOCKET, 29, "SO_TIMESTAMP"}, {SOL_SOCKET, 32, "SO_SNDBUFFORCE"},
	{SOL_SOCKET, 33, "SO_RCVBUFFORCE"}, {SOL_SOCKET, 34, "SO_PASSSEC"}, {SOL_SOCKET, 35, "SO_TIMESTAMPNS"},
	{SOL_SOCKET, 36, "SO_MARK"}, {SOL_SOCKET, 37, "SO_TIMESTAMPING"}, {SOL_SOCKET, 40, "SO_RXQ_OVFL"},
	{SOL_SOCKET, 41, "SO_WIFI_STATUS"}, {SOL_SOCKET, 42, "SO_PEEK_OFF"}, {SOL_SOCKET, 43, "SO_NOFCS"},
	{SOL_SOCKET, 44, "SO_LOCK_FILTER"}, {SOL_SOCKET, 45, "SO_SELECT_ERR_QUEUE"}, {SOL_SOCKET, 46, "SO_BUSY_POLL"},
	{SOL_SOCKET, 47, "SO_MAX_PACING_RATE"}, {SOL_SOCKET, 60, "SO_ZEROCOPY"}, {SOL_SOCKET, 61, "SO_TXTIME"},
	{SOL_SOCKET, 62, "SO_BINDTOIFINDEX"}, {SOL_SOCKET, 63, "SO_TIMESTAMP_NEW"}, {SOL_SOCKET, 64, "SO_TIMESTAMPNS_NEW"},
	{SOL_SOCKET, 65, "SO_TIMESTAMPING_NEW"}, {SOL_SOCKET, 66, "SO_RCVTIMEO_NEW"}, {SOL_SOCKET, 67, "SO_SNDTIMEO_NEW"},
	{SOL_SOCKET, 69, "SO_PREFER_BUSY_POLL"}, {SOL_SOCKET, 70, "SO_BUSY_POLL_BUDGET"}, {SOL_SOCKET, 72, "SO_BUF_LOCK"},
	{SOL_SOCKET, 73, "SO_RESERVE_MEM"}, {SOL_SOCKET, 74, "SO_TXREHASH"}, {SOL_SOCKET, 75, "SO_RCVMARK"},
	{SOL_SOCKET, 76, "SO_PASSPIDFD"}, {SOL_SOCKET, 82, "SO_RCVPRIORITY"}, {SOL_SOCKET, 83, "SO_PASSRIGHTS"},
	{IPPROTO_IP, 1, "IP_TOS"}, {IPPROTO_IP, 2, "IP_TTL"}, {IPPROTO_IP, 4, "IP_OPTIONS"},
	{IPPROTO_IP, 5, "IP_ROUTER_ALERT"}, {IPPROTO_IP, 6, "IP_RECVOPTS"}, {IPPROTO_IP, 7, "IP_RETOPTS"},
	{IPPROTO_IP, 8, "IP_PKTINFO"}, {IPPROTO_IP, 9, "IP_PKTOPTIONS"}, {IPPROTO_IP, 10, "IP_MTU_DISCOVER"},
	{IPPROTO_IP, 11, "IP_RECVERR"}, {IPPROTO_IP, 12, "IP_RECVTTL"}, {IPPROTO_IP, 13, "IP_RECVTOS"},
	{IPPROTO_IP, 14, "IP_MTU"}, {IPPROTO_IP, 15, "IP_FREEBIND"}, {IPPROTO_IP, 18, "IP_PASSSEC"},
	{IPPROTO_IP, 19, "IP_TRANSPARENT"}, {IPPROTO_IP, 20, "IP_ORIGDSTADDR"}, {IPPROTO_IP, 21, "IP_MINTTL"},
	{IPPROTO_IP, 22, "IP_NODEFRAG"}, {IPPROTO_IP, 23, "IP_CHECKSUM"}, {IPPROTO_IP, 24, "IP_BIND_ADDRESS_NO_PORT"},
	{IPPROTO_IP, 25, "IP_RECVFRAGSIZE"}, {IPPROTO_IP, 26, "IP_RECVERR_RFC4884"}, {IPPROTO_IP, 32, "IP_MULTICAST_IF"},
	{IPPROTO_IP, 33, "IP_MULTICAST_TTL"}, {IPPROTO_IP, 34, "IP_MULTICAST_LOOP"}, {IPPROTO_IP, 49, "IP_MULTICAST_ALL"},
	{IPPROTO_IP, 50, "IP_UNICAST_IF"}, {IPPROTO_IP, 51, "IP_LOCAL_PORT_RANGE"},
	{IPPROTO_TCP, 1, "TCP_NODELAY"}, {IPPROTO_TCP, 2, "TCP_MAXSEG"}, {IPPROTO_TCP, 3, "TCP_CORK"},
	{IPPROTO_TCP, 4, "TCP_KEEPIDLE"}, {IPPROTO_TCP, 5, "TCP_KEEPINTVL"}, {IPPROTO_TCP, 6, "TCP_KEEPCNT"},
	{IPPROTO_TCP, 7, "TCP_SYNCNT"}, {IPPROTO_TCP, 8, "TCP_LINGER2"}, {IPPROTO_TCP, 9, "TCP_DEFER_ACCEPT"},
	{IPPROTO_TCP, 10, "TCP_WINDOW_CLAMP"}, {IPPROTO_TCP, 12, "TCP_QUICKACK"}, {IPPROTO_TCP, 13, "TCP_CONGESTION"},
	{IPPROTO_TCP, 16, "TCP_THIN_LINEAR_TIMEOUTS"}, {IPPROTO_TCP, 17, "TCP_THIN_DUPACK"},
	{IPPROTO_TCP, 18, "TCP_USER_TIMEOUT"}, {IPPROTO_TCP, 19, "TCP_REPAIR"}, {IPPROTO_TCP, 23, "TCP_FASTOPEN"},
	{IPPROTO_TCP, 25, "TCP_NOTSENT_LOWAT"}, {IPPROTO_TCP, 27, "TCP_SAVE_SYN"}, {IPPROTO_TCP, 28, "TCP_SAVED_SYN"},
	{IPPROTO_TCP, 29, "TCP_REPAIR_WINDOW"}, {IPPROTO_TCP, 30, "TCP_FASTOPEN_CONNECT"}, {IPPROTO_TCP, 31, "TCP_ULP"},
	{IPPROTO_TCP, 33, "TCP_FASTOPEN_KEY"}, {IPPROTO_TCP, 34, "TCP_FASTOPEN_NO_COOKIE"},
	{IPPROTO_TCP, 35, "TCP_ZEROCOPY_RECEIVE"}, {IPPROTO_TCP, 36, "TCP_INQ"}, {IPPROTO_TCP, 37, "TCP_TX_DELAY"},
	{IPPROTO_TCP, 43, "TCP_IS_MPTCP"}, {IPPROTO_TCP, 44, "TCP_RTO_MAX_MS"}, {IPPROTO_TCP, 45, "TCP_RTO_MIN_US"},
	{IPPROTO_TCP, 46, "TCP_DELACK_MAX_US"},
	{IPPROTO_IPV6, 2, "IPV6_2292PKTINFO"}, {IPPROTO_IPV6, 3, "IPV6_2292HOPOPTS"}, {IPPROTO_IPV6, 4, "IPV6_2292DSTOPTS"},
	{IPPROTO_IPV6, 5, "IPV6_2292RTHDR"}, {IPPROTO_IPV6, 6, "IPV6_2292PKTOPTIONS"},
	{IPPROTO_IPV6, 8, "IPV6_2292HOPLIMIT"}, {IPPROTO_IPV6, 11, "IPV6_FLOWINFO"}, {IPPROTO_IPV6, 16, "IPV6_UNICAST_HOPS"},
	{IPPROTO_IPV6, 17, "IPV6_MULTICAST_IF"}, {IPPROTO_IPV6, 18, "IPV6_MULTICAST_HOPS"},
	{IPPROTO_IPV6, 19, "IPV6_MULTICAST_LOOP"}, {IPPROTO_IPV6, 23, "IPV6_MTU_DISCOVER"}, {IPPROTO_IPV6, 24, "IPV6_MTU"},
	{IPPROTO_IPV6, 25, "IPV6_RECVERR"}, {IPPROTO_IPV6, 26, "IPV6_V6ONLY"}, {IPPROTO_IPV6, 29, "IPV6_MULTICAST_ALL"},
	{IPPROTO_IPV6, 30, "IPV6_ROUTER_ALERT_ISOLATE"}, {IPPROTO_IPV6, 31, "IPV6_RECVERR_RFC4884"},
	{IPPROTO_IPV6, 33, "IPV6_FLOWINFO_SEND"}, {IPPROTO_IPV6, 49, "IPV6_RECVPKTINFO"},
	{IPPROTO_IPV6, 51, "IPV6_RECVHOPLIMIT"}, {IPPROTO_IPV6, 53, "IPV6_RECVHOPOPTS"}, {IPPROTO_IPV6, 54, "IPV6_HOPOPTS"},
	{IPPROTO_IPV6, 55, "IPV6_RTHDRDSTOPTS"}, {IPPROTO_IPV6, 56, "IPV6_RECVRTHDR"}, {IPPROTO_IPV6, 57, "IPV6_RTHDR"},
	{IPPROTO_IPV6, 58, "IPV6_RECVDSTOPTS"}, {IPPROTO_IPV6, 59, "IPV6_DSTOPTS"}, {IPPROTO_IPV6, 60, "IPV6_RECVPATHMTU"},
	{IPPROTO_IPV6, 61, "IPV6_PATHMTU"}, {IPPROTO_IPV6, 62, "IPV6_DONTFRAG"}, {IPPROTO_IPV6, 66, "IPV6_RECVTCLASS"},
	{IPPROTO_IPV6, 67, "IPV6_TCLASS"}, {IPPROTO_IPV6, 70, "IPV6_AUTOFLOWLABEL"},
	{IPPROTO_IPV6, 72, "IPV6_ADDR_PREFERENCES"}, {IPPROTO_IPV6, 73, "IPV6_MINHOPCOUNT"},
	{IPPROTO_IPV6, 74, "IPV6_ORIGDSTADDR"}, {IPPROTO_IPV6, 75, "IPV6_TRANSPARENT"},
	{IPPROTO_IPV6, 76, "IPV6_UNICAST_IF"}, {IPPROTO_IPV6, 77, "IPV6_RECVFRAGSIZE"}, {IPPROTO_IPV6, 78, "IPV6_FREEBIND"},
};

// A reading is what getsockopt says of an option, for a large buffer and for one of eight bytes: some answer with
// another size then.
struct reading {
	int size[2]; // -1: not to be read
	unsigned char data[2][MAX_SIZE];
};

struct value {
	int size;
	unsigned char data[MAX_SIZE];
};

static struct reading fresh[4][NUMBERS], dump[4][NUMBERS], plain[4][NUMBERS];
static char readable[4][NUMBERS]; // on a fresh or on a connected socket

static struct option {
	int level, number; // level is an index
	int n;
	struct value values[MAX_VALUES];
	char connects[MAX_VALUES];
} options[4 * NUMBERS];
static int n_options;

static int family, protocol;
static struct sockaddr_storage dst;
static socklen_t dst_size;

static void die(const char *what) {
	printf("%s: %s\n", what, strerrorname_np(errno));
	exit(3);
}

static int sock(void) {
	int fd = socket(family, SOCK_STREAM, protocol);
	if (fd < 0)
		die("socket");
	return fd;
}

// drop closes by a reset: what was set must not keep the connection, and with it the namespace, alive.
static void drop(int fd) {
	struct linger linger = {1, 0};
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	close(fd);
}

static int is_unsteady(int level, int number) {
	for (size_t i = 0; i < sizeof unsteady / sizeof *unsteady; i++)
		if (unsteady[i].level == levels[level].level && unsteady[i].number == number)
			return 1;
	return 0;
}

static const char *option_name(int level, int number) {
	static char text[40];
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (names[i].level == levels[level].level && names[i].number == number)
			return names[i].name;
	snprintf(text, sizeof text, "%s/%d", levels[level].name, number);
	return text;
}

static void read_option(int fd, int level, int number, struct reading *r) {
	static unsigned char buffer[8 * MAX_SIZE];
	for (int i = 0; i < 2; i++) {
		socklen_t size = i ? 8 : MAX_SIZE;
		memset(buffer, 0, sizeof buffer);
		int filter = levels[level].level == SOL_SOCKET && number == SO_GET_FILTER; // counts instructions of 8 bytes
		r->size[i] = -1;
		if (!getsockopt(fd, levels[level].level, number, buffer, &size) && size <= MAX_SIZE) {
			r->size[i] = filter ? 8 * size : size;
			memcpy(r->data[i], buffer, r->size[i]);
		}
	}
}

static int same(const struct reading *a, const struct reading *b) {
	for (int i = 0; i < 2; i++)
		if (a->size[i] != b->size[i] || (a->size[i] > 0 && memcmp(a->data[i], b->data[i], a->size[i])))
			return 0;
	return 1;
}

static void read_all(int fd, struct reading to[4][NUMBERS], int every) {
	for (int level = 0; level < n_levels; level++)
		for (int number = 0; number < NUMBERS; number++)
			if ((every || readable[level][number]) && !is_unsteady(level, number)) {
				read_option(fd, level, number, &to[level][number]);
				if (to[level][number].size[0] >= 0 || to[level][number].size[1] >= 0)
					readable[level][number] = 1;
			} else
				to[level][number].size[0] = to[level][number].size[1] = -1;
}

static int all_same(struct reading a[4][NUMBERS], struct reading b[4][NUMBERS]) {
	for (int level = 0; level < n_levels; level++)
		for (int number = 0; number < NUMBERS; number++)
			if (readable[level][number] && !same(&a[level][number], &b[level][number]))
				return 0;
	return 1;
}

static void hex(const unsigned char *data, int size) {
	if (size < 0)
		printf("none");
	else if (size == 0)
		printf("empty");
	for (int i = 0; i < size; i++)
		printf("%02x", data[i]);
}

static void print_reading(const struct reading *r) {
	hex(r->data[0], r->size[0]);
	if (r->size[0] != r->size[1] && !(r->size[0] > 8 && r->size[1] == 8)) {
		printf("|");
		hex(r->data[1], r->size[1]);
	}
}

// try_value sets an option of a fresh socket, and keeps the value if anything reads in a new way then.
static void try_value(struct option *o, const void *data, int size) {
	static struct reading seen[MAX_VALUES][4][NUMBERS];
	if (o->n == MAX_VALUES)
		return;
	int fd = sock();
	if (!setsockopt(fd, levels[o->level].level, o->number, data, size)) {
		read_all(fd, seen[o->n], 0);
		int news = !all_same(seen[o->n], fresh);
		for (int i = 0; i < o->n && news; i++)
			news = !all_same(seen[o->n], seen[i]);
		if (news) {
			o->values[o->n].size = size;
			memcpy(o->values[o->n].data, data, size);
			o->n++;
		}
	}
	drop(fd);
}

static struct sock_filter accept_all[] = {{BPF_LD | BPF_IMM, 0, 0, 0x75706376}, {BPF_RET | BPF_K, 0, 0, 0xffffffff}};
static struct sock_filter accept_long[] = {{BPF_LD | BPF_W | BPF_LEN, 0, 0, 0}, {BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 7},
	{BPF_RET | BPF_K, 0, 0, 0x40000}};

static void discover(int level, int number) {
	static const struct {
		int size;
		unsigned char data[32];
	} odd[] = {
		{4, {1, 1, 1, 0}}, {8, {7, 7, 4, 0, 0, 0, 0, 0}}, // IP_OPTIONS: no operation; record route
		{8, {0, 0, 1, 4, 0, 0, 0, 0}}, // IPv6 extension header: a pad
		{24, {0, 2, 2, 1, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}}, // a routing header
		{20, {0}}, // in6_pktinfo
		{16, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}}, // TCP_FASTOPEN_KEY: one, and two
		{32, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32}},
		{8, {1, 0, 0, 0, 0, 0, 0, 0}}, {8, {1, 0, 0, 0, 2, 0, 0, 0}}, {8, {11, 0, 0, 0, 1, 0, 0, 0}}, // SO_TXTIME: clock, flags
		{8, {0x12, 6, 0, 0, 0, 0, 0, 0}}, // SO_TIMESTAMPING
		{8, {5, 0, 0, 0, 2, 0, 0, 0}}, // a rate above four gigabytes a second
		{1, {1}}, {1, {7}}, // IP options may be one byte
	};
	static const char *strings[] = {"reno", "cubic", "bbr"};
	struct option *o = &options[n_options];
	memset(o, 0, sizeof *o);
	o->level = level;
	o->number = number;
	for (size_t i = 0; i < sizeof not_set / sizeof *not_set; i++)
		if (not_set[i].level == levels[level].level && not_set[i].number == number)
			return;
	int now = 0;
	if (fresh[level][number].size[0] >= 4)
		memcpy(&now, fresh[level][number].data[0], 4);
	struct timeval tv = {3, 250000};
	struct linger lingers[] = {{1, 5}, {1, 0}, {0, 9}};
	int ints[] = {now ^ 1, 1, 0, 2, 0xC3509C40 /* ports 40000 to 50000 */, 0x612 /* time stamps */, 5, 1280, 64, 1000, 3, 7, 65536, now + 1, 250000, -1};
	try_value(o, &ints[0], 4);
	try_value(o, &tv, sizeof tv);
	for (int i = 0; i < 3; i++)
		try_value(o, &lingers[i], sizeof lingers[i]);
	for (int i = 1; i < 4; i++)
		try_value(o, &ints[i], 4);
	for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
		try_value(o, odd[i].data, odd[i].size);
	for (size_t i = 4; i < sizeof ints / sizeof *ints; i++)
		try_value(o, &ints[i], 4);
	if (o->n == 0) // not a number then
		for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
			try_value(o, strings[i], strlen(strings[i]));
	if (o->n == 0 && levels[level].level == SOL_SOCKET) {
		struct sock_fprog two = {2, accept_all}, three = {3, accept_long};
		try_value(o, &two, sizeof two);
		try_value(o, &three, sizeof three);
	}
	if (o->n > 0)
		n_options++;
}

// steady_info is what of TCP_INFO is agreed on when the connection begins.
static void steady_info(int fd, char *text, size_t size) {
	struct tcp_info info = {0};
	socklen_t length = sizeof info;
	*text = 0;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length))
		return;
	// CLOSE_WAIT: the server has given up first
	snprintf(text, size, "state %d options %02x scale %d %d mss %u %u advmss %u pmtu %u", info.tcpi_state == TCP_CLOSE_WAIT ? TCP_ESTABLISHED : info.tcpi_state,
		info.tcpi_options, info.tcpi_snd_wscale, info.tcpi_rcv_wscale, info.tcpi_snd_mss, info.tcpi_rcv_mss, info.tcpi_advmss, info.tcpi_pmtu);
}

static char plain_info[200];

static void on_alarm(int sig) {}

// connect_and_print connects and prints what is not as in plain. It returns whether a connection is there.
static int connect_and_print(const char *what, int fd, int first) {
	struct itimerval soon = {{0, 0}, {1, 0}}, never = {{0, 0}, {0, 0}};
	setitimer(ITIMER_REAL, &soon, NULL); // an option that is news may keep it from coming about
	int r = connect(fd, (struct sockaddr *)&dst, dst_size), e = errno;
	setitimer(ITIMER_REAL, &never, NULL);
	printf("%s: connect %s\n", what, r ? strerrorname_np(e) : "0");
	char info[200];
	steady_info(fd, info, sizeof info);
	if (first || strcmp(info, plain_info))
		printf("%s: TCP_INFO %s\n", what, info);
	if (first)
		strcpy(plain_info, info);
	read_all(fd, first ? plain : dump, first);
	for (int level = 0; level < n_levels; level++)
		for (int number = 0; number < NUMBERS; number++) {
			struct reading *now = first ? &plain[level][number] : &dump[level][number];
			if (!readable[level][number] || (first ? now->size[0] < 0 : same(now, &plain[level][number])))
				continue;
			printf("%s: %s ", what, option_name(level, number));
			if (!first) {
				print_reading(&plain[level][number]);
				printf(" -> ");
			}
			print_reading(now);
			printf("\n");
		}
	// Which port it is, of those that IP_LOCAL_PORT_RANGE allows, is the kernel's choice.
	struct sockaddr_in6 me = {0};
	socklen_t length = sizeof me;
	unsigned range = 0;
	getsockname(fd, (struct sockaddr *)&me, &length);
	length = sizeof range;
	if (!getsockopt(fd, IPPROTO_IP, 51, &range, &length) && range & 0xffff && range >> 16) {
		unsigned port = ntohs(me.sin6_port);
		printf("%s: port %s the range\n", what, port >= (range & 0xffff) && port <= range >> 16 ? "in" : "not in");
	}
	drop(fd);
	return !strncmp(info, "state 1 ", 8);
}

int main(int argc, char **argv) {
	setvbuf(stdout, NULL, _IOFBF, 1 << 20);
	family = strcmp(argv[1], "inet6") ? AF_INET : AF_INET6;
	protocol = strcmp(argv[2], "mptcp") ? IPPROTO_TCP : 262;
	n_levels = family == AF_INET6 ? 4 : 3;
	if (family == AF_INET6) {
		struct sockaddr_in6 *sa = (struct sockaddr_in6 *)&dst;
		char mapped[64] = "::ffff:";
		sa->sin6_family = AF_INET6;
		sa->sin6_port = htons(atoi(argv[4]));
		inet_pton(AF_INET6, strcat(mapped, argv[3]), &sa->sin6_addr);
		dst_size = sizeof *sa;
	} else {
		struct sockaddr_in *sa = (struct sockaddr_in *)&dst;
		sa->sin_family = AF_INET;
		sa->sin_port = htons(atoi(argv[4]));
		inet_pton(AF_INET, argv[3], &sa->sin_addr);
		dst_size = sizeof *sa;
	}
	struct sigaction act = {.sa_handler = on_alarm};
	sigaction(SIGALRM, &act, NULL);

	int fd = sock();
	read_all(fd, fresh, 1);
	drop(fd);
	connect_and_print("nothing set", sock(), 1);
	for (int level = 0; level < n_levels; level++)
		for (int number = 0; number < NUMBERS; number++)
			discover(level, number);

	for (int i = 0; i < n_options; i++) {
		struct option *o = &options[i];
		for (int j = 0; j < o->n; j++) {
			char what[MAX_SIZE * 2 + 80], *at = what;
			at += sprintf(at, "%s=", option_name(o->level, o->number));
			if (levels[o->level].level == SOL_SOCKET && (o->number == SO_ATTACH_FILTER || o->number == SO_ATTACH_REUSEPORT_CBPF))
				sprintf(at, "filter of %d", o->values[j].data[0]); // and a pointer
			else
				for (int k = 0; k < o->values[j].size; k++)
					at += sprintf(at, "%02x", o->values[j].data[k]);
			fd = sock();
			if (setsockopt(fd, levels[o->level].level, o->number, o->values[j].data, o->values[j].size))
				printf("%s: not for the second time: %s\n", what, strerrorname_np(errno));
			o->connects[j] = connect_and_print(what, fd, 0);
		}
	}

	// Everything at once, but for what keeps a connection from coming about.
	for (int round = 0; round < MAX_VALUES; round++) {
		char what[40];
		sprintf(what, "everything set, %d", round);
		fd = sock();
		for (int i = 0; i < n_options; i++) {
			struct option *o = &options[i];
			int j = round < o->n ? round : o->n - 1, skip = !o->connects[j];
			for (size_t k = 0; k < sizeof alone / sizeof *alone; k++)
				skip |= alone[k].level == levels[o->level].level && alone[k].number == o->number;
			if (!skip && setsockopt(fd, levels[o->level].level, o->number, o->values[j].data, o->values[j].size))
				printf("%s: %s not with the others: %s\n", what, option_name(o->level, o->number), strerrorname_np(errno));
		}
		connect_and_print(what, fd, 0);
	}
	printf("%d options\nend\n", n_options);
	return 0;
}
