// case_epoll numbers tcp|udp ADDRESS FROM TO: for each descriptor number, a socket with that number is put into an epoll set, and
// then connected, or sends. It must get its event, and EPOLL_CTL_DEL must find it. Prints what was lost, and the last line is
// "N numbers, M lost". It gives up at the third.
//
// case_epoll number tcp|udp ADDRESS NUMBER: the same for one number, once a line has come on standard input.
//
// case_epoll cases tcp|udp ADDRESS: prints a line for each way that a socket may have come into a set. All end in "1 of 1".
//
// TCP goes to port 7080, where somebody accepts, and UDP to port 7000, which echoes.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int udp;
static struct sockaddr_in to;

static void die(const char *what) {
	printf("%s: %s\n", what, strerror(errno));
	exit(2);
}

static int new_socket(void) {
	int fd = socket(AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);
	if (fd < 0)
		die("socket");
	return fd;
}

static int new_set(void) {
	int set = epoll_create1(0);
	if (set < 0)
		die("epoll_create1");
	return set;
}

static void add(int set, int fd, unsigned long data) {
	struct epoll_event e = {.events = (udp ? EPOLLIN : EPOLLOUT) | EPOLLET, .data.u64 = data};
	if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &e))
		die("EPOLL_CTL_ADD");
	while (epoll_wait(set, &e, 1, 0) > 0) // what an idle socket says
		;
}

// go connects, or sends a datagram unlike the one before: the translator of the tests makes wrong checksums of some, and
// would of the same one again.
static void go(int fd) {
	static char content;
	content++;
	if (udp ? sendto(fd, &content, 1, 0, (void *)&to, sizeof to) != 1 : connect(fd, (void *)&to, sizeof to) && errno != EINPROGRESS)
		die(udp ? "sendto" : "connect");
}

// came returns whether the set tells of the socket with the data within ten seconds.
static int came(int set, unsigned long data) {
	struct epoll_event e;
	return epoll_wait(set, &e, 1, 10000) == 1 && e.data.u64 == data;
}

// try_number returns whether a socket with a number has lost its place, and says so.
static int try_number(int set, int number) {
	int any = new_socket(), fd = fcntl(any, F_DUPFD, number), lost = 1;
	close(any);
	if (fd != number) { // it is in use
		close(fd);
		return 0;
	}
	add(set, fd, number);
	go(fd);
	int is = came(set, number);
	if (!is && udp) { // the datagram may be what was lost
		go(fd);
		is = came(set, number);
	}
	if (!is)
		printf("number %d: no event\n", number);
	else if (epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL))
		printf("number %d: EPOLL_CTL_DEL: %s\n", number, strerror(errno));
	else
		lost = 0;
	close(fd);
	return lost;
}

static void check(const char *what, int set, int fd, unsigned long data) {
	go(fd);
	int n = came(set, data);
	if (!n && udp) { // the datagram may be what was lost
		go(fd);
		n = came(set, data);
	}
	printf("%s: %d of 1\n", what, n);
	fflush(stdout);
}

static void others(int set, int n) {
	for (int i = 0; i < n; i++) {
		int fd = eventfd(0, 0);
		struct epoll_event e = {.events = EPOLLIN};
		if (fd < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &e))
			die("eventfd");
	}
}

// own_table is a thread with a table of descriptors of its own, in which it makes a set.
static void *own_table(void *arg) {
	if (unshare(CLONE_FILES))
		die("unshare");
	int set = new_set(), fd = new_socket();
	add(set, fd, 5);
	check(arg, set, fd, 5);
	set = new_set(); // now that its table is known
	fd = new_socket();
	add(set, fd, 6);
	check(arg, set, fd, 6);
	return NULL;
}

static void *shared_table(void *arg) {
	int *all = arg, fd = new_socket();
	add(all[0], fd, 7);
	check("another thread", all[0], fd, 7);
	all[1] = new_set();
	return NULL;
}

static void cases(void) {
	int set = new_set(), fd = new_socket(), other, status;
	add(set, fd, 0x123456789abcdef0);
	check("one set", set, fd, 0x123456789abcdef0);

	set = new_set();
	fd = new_socket();
	add(set, fd, 1);
	check("a set made since", set, fd, 1);

	other = fcntl(set, F_DUPFD, 40); // an event loop that wants a certain number
	close(set);
	fd = new_socket();
	add(other, fd, 2);
	check("a set that has moved", other, fd, 2);

	int on_its_number = open("/dev/null", O_RDONLY); // set's
	fd = new_socket();
	add(other, fd, 3);
	check("a file under its old number", other, fd, 3);
	close(on_its_number);

	set = new_set();
	fd = new_socket();
	int second = new_set(), outer = new_set();
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = 9};
	if (epoll_ctl(outer, EPOLL_CTL_ADD, set, &e))
		die("a set in a set");
	add(set, fd, 4);
	add(second, fd, 8);
	go(fd);
	int nested = epoll_wait(outer, &e, 1, 10000) == 1 && e.data.u64 == 9;
	printf("a set in a set: %d of 1\n", nested && came(set, 4));
	printf("a second set: %d of 1\n", came(second, 8));
	fflush(stdout);

	set = new_set();
	others(set, 2000);
	for (int i = 0; i < 3; i++) { // it takes one to learn that the set is large
		fd = new_socket();
		add(set, fd, 10 + i);
		check("a large set", set, fd, 10 + i);
	}

	set = new_set();
	fd = new_socket();
	pid_t child = fork();
	if (child == 0) { // with sets and sockets of its parent's
		add(set, fd, 11);
		check("a set of the parent's", set, fd, 11);
		set = new_set();
		fd = new_socket();
		add(set, fd, 12);
		check("a set of the child's", set, fd, 12);
		_exit(0);
	}
	waitpid(child, &status, 0);

	pthread_t thread;
	int all[2] = {new_set()};
	pthread_create(&thread, NULL, shared_table, all);
	pthread_join(thread, NULL);
	fd = new_socket();
	add(all[1], fd, 13);
	check("a set that another thread has made", all[1], fd, 13);
	pthread_create(&thread, NULL, own_table, "a thread with its own table");
	pthread_join(thread, NULL);
}

int main(int argc, char **argv) {
	if (argc < 4)
		return 2;
	struct rlimit limit;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	setvbuf(stdout, NULL, _IOLBF, 0);
	udp = !strcmp(argv[2], "udp");
	to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(udp ? 7000 : 7080)};
	if (inet_pton(AF_INET, argv[3], &to.sin_addr) != 1)
		return 2;
	if (!strcmp(argv[1], "cases")) {
		cases();
		return 0;
	}
	int from = atoi(argv[4]), last = argc > 5 ? atoi(argv[5]) : from, set = new_set(), n = 0, lost = 0;
	if (!strcmp(argv[1], "number")) {
		printf("ready\n");
		getchar();
	}
	for (int number = from; number <= last && lost < 3; number++, n++)
		lost += try_number(set, number);
	printf("%d numbers, %d lost\n", n, lost);
	return lost != 0;
}
