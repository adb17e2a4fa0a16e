// usage: client_libevent HOW ADDRESS PORT
//
// Reads the greeting over 20 connections at a time. Their events are registered before they are connected (HOW is before), or
// when libevent thinks best (own).
#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { CONNECTIONS = 20 };
static int left = CONNECTIONS;
static struct event_base *base;

static void on_event(struct bufferevent *b, short what, void *arg) {
	char text[100] = "";
	if (what & BEV_EVENT_CONNECTED)
		return;
	bufferevent_read(b, text, sizeof text - 1);
	printf("%s%s", text, what & BEV_EVENT_EOF ? "" : what & BEV_EVENT_TIMEOUT ? "timeout\n" : "error\n");
	bufferevent_free(b);
	if (--left == 0)
		event_base_loopbreak(base);
}

int main(int argc, char **argv) {
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
	inet_pton(AF_INET, argv[2], &sa.sin_addr);
	base = event_base_new();
	if (strncmp(event_base_get_method(base), "epoll", 5))
		printf("not with epoll\n");
	for (int i = 0; i < CONNECTIONS; i++) {
		int fd = -1;
		if (!strcmp(argv[1], "before"))
			fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		struct bufferevent *b = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
		struct timeval patience = {30, 0};
		bufferevent_setcb(b, NULL, NULL, on_event, NULL);
		bufferevent_set_timeouts(b, &patience, NULL);
		if (fd >= 0)
			bufferevent_enable(b, EV_READ | EV_WRITE);
		if (bufferevent_socket_connect(b, (struct sockaddr *)&sa, sizeof sa))
			printf("cannot connect\n");
		bufferevent_enable(b, EV_READ | EV_WRITE);
	}
	event_base_dispatch(base);
	return 0;
}
