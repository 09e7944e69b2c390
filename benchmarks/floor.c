/*
 * floor SOCKET: a server with the least work that this protocol needs. Its speed is the upper bound for a daemon.
 *
 * One thread with epoll opens, locks and closes files and answers calls. It has no lock table, does not check its
 * callers, and has at most one file open for each connection. It is of no use as a lock daemon: it shows how much
 * time a real daemon needs for its other work.
 */
#define _GNU_SOURCE
#include "protocol.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LARGEST_FRAME = 8192, EVENTS_PER_TURN = 256 };

struct connection {
    int socket;
    int file;
    size_t received;
    unsigned char input[LARGEST_FRAME];
};

static uint32_t acquire(struct connection *connection, unsigned char *arguments)
{
    /* Only the direct lockspace: the arguments are an empty path (one word), the name and the flags. The NUL
     * overwrites padding or the first byte of the flags, which are 0 for an exclusive lock in that lockspace. */
    uint32_t length = get_word(arguments, 1);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    if (get_word(arguments, 0) != 0 || length > LARGEST_FRAME - HEADER_SIZE - 16)
        return ERROR;
    arguments[8 + length] = '\0';
    connection->file = open((char *)arguments + 8, O_RDWR | O_CLOEXEC);
    if (connection->file < 0 || fcntl(connection->file, F_SETLK, &lock) < 0)
        return ERROR;
    return OK;
}

static uint32_t release(struct connection *connection)
{
    int file = connection->file;
    connection->file = -1;
    return close(file) < 0 ? ERROR : OK;
}

static uint32_t serve(struct connection *connection, unsigned char *frame)
{
    switch (get_word(frame, PROCEDURE)) {
    case ACQUIRE:
        return acquire(connection, frame + HEADER_SIZE);
    case RELEASE:
        return release(connection);
    default:
        return OK;
    }
}

/* Answers all whole frames that have arrived, with one write. Returns -1 if the connection has to be closed. */
static int turn(struct connection *connection)
{
    unsigned char output[LARGEST_FRAME];
    size_t begin = 0, replies = 0;
    ssize_t count = read(connection->socket, connection->input + connection->received,
                         sizeof connection->input - connection->received);
    if (count <= 0)
        return -1;
    connection->received += (size_t)count;
    while (connection->received - begin >= HEADER_SIZE) {
        unsigned char *frame = connection->input + begin, *reply = output + replies;
        size_t length = get_word(frame, LENGTH);
        if (length < HEADER_SIZE || length > LARGEST_FRAME)
            return -1;
        if (connection->received - begin < length)
            break;
        memcpy(reply, frame, HEADER_SIZE);
        set_word(reply, LENGTH, HEADER_SIZE);
        set_word(reply, TYPE, REPLY);
        set_word(reply, STATUS, serve(connection, frame));
        replies += HEADER_SIZE;
        begin += length;
    }
    connection->received -= begin;
    memmove(connection->input, connection->input + begin, connection->received);
    return replies && write(connection->socket, output, replies) != (ssize_t)replies ? -1 : 0;
}

static void accept_all(int poll, int listener)
{
    int socket;
    while ((socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        struct connection *connection = calloc(1, sizeof *connection);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        if (!connection)
            err(1, "calloc");
        connection->socket = socket;
        connection->file = -1;
        if (epoll_ctl(poll, EPOLL_CTL_ADD, socket, &event) < 0)
            err(1, "epoll_ctl");
    }
    if (errno != EAGAIN)
        err(1, "accept");
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS_PER_TURN];
    int poll = epoll_create1(EPOLL_CLOEXEC), listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path)
        errx(2, "usage: floor SOCKET");
    strcpy(address.sun_path, argv[1]);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, SOMAXCONN) < 0)
        err(1, "%s", argv[1]);
    if (epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event) < 0)
        err(1, "epoll_ctl");
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS_PER_TURN, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!connection) {
                accept_all(poll, listener);
            } else if (turn(connection) < 0) {
                close(connection->socket);
                if (connection->file >= 0)
                    close(connection->file);
                free(connection);
            }
        }
    }
}
