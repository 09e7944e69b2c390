/*
 * load: connects guests to a lock daemon, makes calls, and prints the measurements as one line of JSON.
 *
 * Each connection belongs to a separate process, which connects, registers with its own pid and then sleeps, like the
 * child process that becomes QEMU. So the daemon sees the same as on a real host: one owner process for each guest,
 * which is the peer of its connection. All processes share one descriptor table (CLONE_FILES). So one thread with
 * epoll can make the measured calls on all connections. It can make a few hundred thousand calls per second;
 * "generator_busy" is the share of a processor that it used.
 *
 * After the output, all connections stay open until standard input ends. Stop the daemon before that: a daemon kills
 * an owner whose connection is closed while it holds locks.
 */
#define _GNU_SOURCE
#include "protocol.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LARGEST_CALL = 512, MOST_IN_FLIGHT = 64, MOST_RUNS = 8, PATIENCE_MS = 10000 };

static const char usage[] =
    "usage: load --socket PATH --files DIRECTORY [OPTION...]\n"
    "  --guests N      first start N guests: connect, register, acquire one file, restrict; they stay (0)\n"
    "  --starters N    guests that start at a time (1)\n"
    "  --held N        files that one more owner holds meanwhile (0)\n"
    "  --lockspaces N  lockspaces that it makes beforehand (0)\n"
    "  --clients N,... clients that acquire and release without pause, one run for each number (1)\n"
    "  --in-flight N   calls that a client sends before it waits for the first reply (1)\n"
    "  --seconds S     length of a run (1)\n"
    "  --lockspace DIR clients' resources are in this lockspace, with AUTOCREATE (direct)\n"
    "  --shared        all clients share one resource\n"
    "  --contended     all clients ask for one resource that somebody else holds\n"
    "  --daemon PID    the daemon's process: its processor time is measured too\n"
    "  --upgrade       instead of runs: SIGUSR1 to the daemon, and how long nobody was answered\n";

static struct {
    const char *socket, *files, *lockspace;
    long guests, starters, held, lockspaces, in_flight, daemon;
    long clients[MOST_RUNS];
    int runs;
    double seconds;
    bool shared, contended, upgrade;
} options = {.starters = 1, .clients = {1}, .runs = 1, .in_flight = 1, .seconds = 1};

struct message {
    size_t length;
    unsigned char bytes[LARGEST_CALL];
};

/* The process of a guest, and the calls that it makes before the measured calls. */
struct guest {
    int socket;
    pid_t pid;
    bool restricts;
    const char *prefix; /* of the names of the files that it acquires and holds; NULL: none */
    long first, count;
    long lockspaces; /* number of lockspaces that it creates */
    uint64_t started; /* duration of all these calls, in ns */
};

struct client {
    int socket;
    struct message acquire, release;
    uint32_t sent, answered;
    uint64_t sent_at[MOST_IN_FLIGHT];
    size_t received;
    unsigned char input[8192];
};

/* Shared by all processes: `turn` lets a guest start, `done` is posted when it has started. */
static struct {
    sem_t turn, done;
    volatile bool failed;
} *stage;

static struct guest *guests;
static long guest_count;

static uint32_t *samples;
static size_t sample_count, sample_space;

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* -- messages -- */

static void add_word(struct message *message, uint32_t value)
{
    value = htonl(value);
    memcpy(message->bytes + message->length, &value, 4);
    message->length += 4;
}

static void add_string(struct message *message, const char *text)
{
    size_t length = strlen(text);
    if (message->length + length + 16 > sizeof message->bytes)
        errx(2, "%s: the path is too long", text);
    add_word(message, (uint32_t)length);
    memset(message->bytes + message->length, 0, length + 4);
    memcpy(message->bytes + message->length, text, length);
    message->length += (length + 3) & ~(size_t)3;
}

static void begin(struct message *message, enum procedure procedure)
{
    message->length = 0;
    add_word(message, 0);
    add_word(message, PROGRAM);
    add_word(message, VERSION);
    add_word(message, procedure);
    add_word(message, CALL);
    add_word(message, 0);
    add_word(message, OK);
}

static void end(struct message *message, uint32_t flags)
{
    add_word(message, flags);
    set_word(message->bytes, LENGTH, (uint32_t)message->length);
}

static struct message resource_call(enum procedure procedure, const char *lockspace, const char *name, uint32_t flags)
{
    struct message message;
    begin(&message, procedure);
    add_string(&message, lockspace);
    add_string(&message, name);
    end(&message, flags);
    return message;
}

static struct message register_call(uint32_t id, pid_t pid)
{
    struct message message;
    char name[32];
    begin(&message, REGISTER);
    for (int i = 0; i < 4; i++)
        add_word(&message, id);
    snprintf(name, sizeof name, "guest-%" PRIu32, id);
    add_string(&message, name);
    add_word(&message, id);
    add_word(&message, (uint32_t)pid);
    end(&message, 0);
    return message;
}

static struct message lockspace_call(const char *path)
{
    struct message message;
    begin(&message, CREATE_LOCKSPACE);
    add_string(&message, path);
    end(&message, 0);
    return message;
}

static struct message plain_call(enum procedure procedure)
{
    struct message message;
    begin(&message, procedure);
    end(&message, 0);
    return message;
}

/* Sends one call and waits for its reply. Returns whether the call succeeded. */
static bool call(int socket, const struct message *message)
{
    unsigned char reply[4096];
    if (send(socket, message->bytes, message->length, MSG_NOSIGNAL) != (ssize_t)message->length)
        return false;
    return recv(socket, reply, sizeof reply, 0) >= HEADER_SIZE && get_word(reply, STATUS) == OK;
}

/* -- guests -- */

static const char *file_name(const char *prefix, long number)
{
    static char name[PATH_MAX];
    snprintf(name, sizeof name, "%s/%s-%05ld", options.files, prefix, number);
    return name;
}

static void make_file(const char *name)
{
    int file = open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (file < 0)
        err(1, "%s", name);
    close(file);
}

static bool start(struct guest *guest, uint32_t id)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct message message = register_call(id, getpid());
    strcpy(address.sun_path, options.socket);
    if (connect(guest->socket, (struct sockaddr *)&address, sizeof address) < 0 || !call(guest->socket, &message))
        return false;
    for (long i = 0; i < guest->count; i++) {
        message = resource_call(ACQUIRE, "", file_name(guest->prefix, guest->first + i), 0);
        if (!call(guest->socket, &message))
            return false;
    }
    for (long i = 0; i < guest->lockspaces; i++) {
        message = lockspace_call(file_name("lockspace", i));
        if (!call(guest->socket, &message))
            return false;
    }
    message = plain_call(RESTRICT);
    return !guest->restricts || call(guest->socket, &message);
}

/* Creates the process of a guest. It starts when start_guests() lets it, and lives until the load generator ends. */
static void spawn(struct guest guest)
{
    uint32_t id = (uint32_t)guest_count + 1;
    struct guest *place = &guests[guest_count++];
    guest.socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (guest.socket < 0)
        err(1, "socket");
    for (long i = 0; i < guest.count; i++)
        make_file(file_name(guest.prefix, guest.first + i));
    *place = guest;
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid < 0)
        err(1, "clone");
    if (pid > 0) {
        place->pid = pid; /* set by the parent only: the child shares this memory */
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sem_wait(&stage->turn);
    uint64_t begun = now();
    if (!start(place, id))
        stage->failed = true;
    place->started = now() - begun;
    sem_post(&stage->done);
    for (;;)
        pause();
}

/* Lets the `count` guests start that were spawned last, `at_a_time` at a time. Returns the duration in ns. */
static uint64_t start_guests(long count, long at_a_time)
{
    uint64_t begun = now();
    for (long i = 0; i < at_a_time; i++)
        sem_post(&stage->turn);
    for (long i = 0; i < count; i++) {
        while (sem_wait(&stage->done) < 0)
            ;
        if (stage->failed)
            errx(1, "a guest was refused or lost its connection while it started");
        sem_post(&stage->turn);
    }
    uint64_t took = now() - begun;
    for (long i = 0; i < at_a_time; i++)
        sem_wait(&stage->turn);
    return took;
}

static void end_guests(void)
{
    for (long i = 0; i < guest_count; i++)
        kill(guests[i].pid, SIGKILL);
    while (wait(NULL) > 0)
        ;
}

/* -- latencies -- */

static void add_sample(uint64_t nanoseconds)
{
    if (sample_count == sample_space) {
        sample_space = sample_space ? sample_space * 2 : 1 << 16;
        samples = reallocarray(samples, sample_space, sizeof *samples);
        if (!samples)
            err(1, "reallocarray");
    }
    samples[sample_count++] = nanoseconds > UINT32_MAX ? UINT32_MAX : (uint32_t)nanoseconds;
}

static int compare_samples(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

/* Prints the latencies in microseconds as JSON members, and deletes the samples. */
static void print_samples(void)
{
    static const struct {
        const char *name;
        double share;
    } percentiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"worst", 1}};
    qsort(samples, sample_count, sizeof *samples, compare_samples);
    printf("\"latency_us\": {");
    for (size_t i = 0; i < sizeof percentiles / sizeof *percentiles; i++) {
        size_t index = (size_t)((double)(sample_count - 1) * percentiles[i].share);
        printf("%s\"%s\": %.1f", i ? ", " : "", percentiles[i].name, sample_count ? samples[index] / 1e3 : 0);
    }
    printf("}");
    sample_count = 0;
}

/* -- clients -- */

static void prepare(struct client *client, int socket, long number)
{
    const char *lockspace = options.lockspace ? options.lockspace : "";
    bool common = options.shared || options.contended;
    uint32_t flags = (options.shared ? SHARED : 0) | (options.lockspace ? AUTOCREATE : 0);
    const char *name = file_name(common ? "common" : "client", common ? 0 : number);
    if (!options.lockspace)
        make_file(name);
    else
        name += strlen(options.files) + 1;
    *client = (struct client){.socket = socket};
    client->acquire = resource_call(ACQUIRE, lockspace, name, flags);
    client->release = resource_call(RELEASE, lockspace, name, 0);
}

/* Sends `count` further calls with one write: acquire and release alternately, or only acquire if all are refused. */
static void send_calls(struct client *client, long count)
{
    unsigned char output[MOST_IN_FLIGHT * LARGEST_CALL];
    size_t length = 0;
    uint64_t time = now();
    for (long i = 0; i < count; i++) {
        const struct message *message =
            client->sent % 2 && !options.contended ? &client->release : &client->acquire;
        memcpy(output + length, message->bytes, message->length);
        set_word(output + length, SERIAL, client->sent);
        client->sent_at[client->sent++ % MOST_IN_FLIGHT] = time;
        length += message->length;
    }
    if (length && send(client->socket, output, length, MSG_NOSIGNAL) != (ssize_t)length)
        err(1, "send");
}

static void check_reply(const struct client *client, const unsigned char *frame)
{
    uint32_t status = get_word(frame, STATUS);
    if (get_word(frame, SERIAL) != client->answered)
        errx(1, "reply %" PRIu32 " came where %" PRIu32 " was due", get_word(frame, SERIAL), client->answered);
    if (options.contended ? status != ERROR || get_word(frame, HEADER_WORDS) != RESOURCE_BUSY : status != OK)
        errx(1, "call %" PRIu32 " was %s", client->answered, status == OK ? "granted" : "refused");
}

/* Reads the replies that have arrived. Returns their number. */
static long receive(struct client *client)
{
    size_t begin = 0;
    long replies = 0;
    ssize_t count = recv(client->socket, client->input + client->received,
                         sizeof client->input - client->received, MSG_DONTWAIT);
    uint64_t time = now();
    if (count <= 0)
        errx(1, "the daemon closed a client's connection");
    client->received += (size_t)count;
    while (client->received - begin >= HEADER_SIZE) {
        const unsigned char *frame = client->input + begin;
        size_t length = get_word(frame, LENGTH);
        if (length < HEADER_SIZE || length > sizeof client->input)
            errx(1, "a reply of %zu bytes", length);
        if (client->received - begin < length)
            break;
        check_reply(client, frame);
        add_sample(time - client->sent_at[client->answered++ % MOST_IN_FLIGHT]);
        begin += length;
        replies++;
    }
    client->received -= begin;
    memmove(client->input, client->input + begin, client->received);
    return replies;
}

static int poll_clients(struct client *clients, long count)
{
    int poll = epoll_create1(EPOLL_CLOEXEC);
    for (long i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &clients[i]};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, clients[i].socket, &event) < 0)
            err(1, "epoll_ctl");
    }
    return poll;
}

/* Returns the processor time that a process has used, in seconds; pid 0 means this process. */
static double processor_seconds(pid_t pid)
{
    clockid_t clock;
    struct timespec time;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) < 0)
        errx(1, "process %d has no processor time to read", pid);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Keeps all clients busy for the given time, prints the result, and then reads the last replies. */
static void run(struct client *clients, long count)
{
    struct epoll_event events[256];
    int poll = poll_clients(clients, count);
    double own = processor_seconds(0), daemons = options.daemon ? processor_seconds((pid_t)options.daemon) : 0;
    uint64_t begun = now(), time = begun, stop = begun + (uint64_t)(options.seconds * 1e9);
    long calls = 0, waiting = count * options.in_flight;
    for (long i = 0; i < count; i++)
        send_calls(&clients[i], options.in_flight);
    while ((time = now()) < stop) {
        int ready = epoll_wait(poll, events, 256, PATIENCE_MS);
        if (ready == 0)
            errx(1, "no reply within %d ms", PATIENCE_MS);
        for (int i = 0; i < ready; i++) {
            long replies = receive(events[i].data.ptr);
            send_calls(events[i].data.ptr, replies);
            calls += replies;
        }
    }
    double seconds = (double)(time - begun) / 1e9;
    own = processor_seconds(0) - own;
    daemons = options.daemon ? processor_seconds((pid_t)options.daemon) - daemons : 0;
    printf("{\"clients\": %ld, \"calls\": %ld, \"seconds\": %.4f, \"calls_per_second\": %.0f, "
           "\"generator_busy\": %.3f, \"daemon_us_per_call\": %.3f, ",
           count, calls, seconds, (double)calls / seconds, own / seconds, daemons / (double)calls * 1e6);
    print_samples();
    printf("}");
    while (waiting > 0) {
        int ready = epoll_wait(poll, events, 256, PATIENCE_MS);
        if (ready == 0)
            errx(1, "%ld calls were never answered", waiting);
        for (int i = 0; i < ready; i++)
            waiting -= receive(events[i].data.ptr);
    }
    sample_count = 0;
    close(poll);
}

/*
 * Asks for a live upgrade while one call is sent every millisecond, each by the next client that does not wait for a
 * reply. Measures the longest time without any reply. A client whose call the daemon loses sends no further calls.
 */
static void upgrade(struct client *clients, long count)
{
    const uint64_t millisecond = 1000000;
    struct epoll_event events[256];
    int poll = poll_clients(clients, count);
    uint64_t begun = now(), signal_at = begun + 200 * millisecond, stop = begun + (uint64_t)(options.seconds * 1e9);
    uint64_t last_reply = begun, next_call = begun, pause_length = 0, time;
    long next = 0, lost = 0, calls = 0;
    bool asked = false;
    while ((time = now()) < stop) {
        if (!asked && time >= signal_at) {
            if (kill((pid_t)options.daemon, SIGUSR1) < 0)
                err(1, "SIGUSR1");
            asked = true;
        }
        if (time >= next_call) {
            for (long tried = 0; tried < count; tried++) {
                struct client *client = &clients[next++ % count];
                if (client->sent == client->answered) {
                    send_calls(client, 1);
                    calls++;
                    break;
                }
            }
            next_call = time + millisecond;
        }
        int ready = epoll_wait(poll, events, 256, 1);
        for (int i = 0; i < ready; i++)
            receive(events[i].data.ptr);
        if (ready > 0) {
            uint64_t reply = now();
            if (asked && reply - last_reply > pause_length)
                pause_length = reply - last_reply;
            last_reply = reply;
        }
    }
    if (time - last_reply > 1000 * millisecond)
        errx(1, "no reply after the upgrade");
    for (long i = 0; i < count; i++)
        lost += clients[i].sent != clients[i].answered;
    printf("{\"clients\": %ld, \"calls\": %ld, \"pause_ms\": %.1f, \"lost_calls\": %ld}", count, calls,
           (double)pause_length / 1e6, lost);
    close(poll);
}

/* -- main program -- */

static void parse_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"socket", required_argument, NULL, 's'},    {"files", required_argument, NULL, 'f'},
        {"guests", required_argument, NULL, 'g'},    {"starters", required_argument, NULL, 'S'},
        {"held", required_argument, NULL, 'H'},      {"clients", required_argument, NULL, 'c'},
        {"in-flight", required_argument, NULL, 'i'}, {"seconds", required_argument, NULL, 't'},
        {"lockspaces", required_argument, NULL, 'L'},
        {"lockspace", required_argument, NULL, 'l'}, {"shared", no_argument, NULL, 'r'},
        {"contended", no_argument, NULL, 'b'},       {"daemon", required_argument, NULL, 'd'},
        {"upgrade", no_argument, NULL, 'u'},
        {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 's': options.socket = optarg; break;
        case 'f': options.files = optarg; break;
        case 'g': options.guests = atol(optarg); break;
        case 'S': options.starters = atol(optarg); break;
        case 'H': options.held = atol(optarg); break;
        case 'L': options.lockspaces = atol(optarg); break;
        case 'i': options.in_flight = atol(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        case 'l': options.lockspace = optarg; break;
        case 'r': options.shared = true; break;
        case 'b': options.contended = true; break;
        case 'd': options.daemon = atol(optarg); break;
        case 'u': options.upgrade = true; break;
        case 'c':
            options.runs = 0;
            for (char *number = strtok(optarg, ","); number && options.runs < MOST_RUNS; number = strtok(NULL, ","))
                options.clients[options.runs++] = atol(number);
            break;
        default: errx(2, "%s", usage);
        }
    }
    if (!options.socket || !options.files || (options.upgrade && !options.daemon) || optind < argc || options.in_flight < 1 ||
        options.in_flight > MOST_IN_FLIGHT || strlen(options.socket) >= sizeof((struct sockaddr_un *)0)->sun_path)
        errx(2, "%s", usage);
}

int main(int argc, char **argv)
{
    long most_clients = 0, extra = 0;
    parse_options(argc, argv);
    for (int i = 0; i < options.runs; i++)
        most_clients = options.clients[i] > most_clients ? options.clients[i] : most_clients;

    guests = mmap(NULL, (size_t)(options.guests + most_clients + 2) * sizeof *guests, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct client *clients = calloc((size_t)most_clients, sizeof *clients);
    if (guests == MAP_FAILED || stage == MAP_FAILED || !clients)
        err(1, "memory");
    sem_init(&stage->turn, 1, 0);
    sem_init(&stage->done, 1, 0);

    for (long i = 0; i < options.guests; i++)
        spawn((struct guest){.restricts = true, .prefix = "guest", .first = i, .count = 1});
    uint64_t started = options.guests ? start_guests(options.guests, options.starters) : 0;
    for (long i = 0; i < options.guests; i++)
        add_sample(guests[i].started);
    printf("{\"guests\": %ld, \"start\": {\"seconds\": %.4f, ", options.guests, (double)started / 1e9);
    print_samples();
    printf("}, \"runs\": [");

    if (options.held || options.lockspaces) {
        spawn((struct guest){.restricts = true, .prefix = "held", .count = options.held,
                             .lockspaces = options.lockspaces});
        extra++;
    }
    if (options.contended) {
        spawn((struct guest){.restricts = true, .prefix = "common", .count = 1});
        extra++;
    }
    for (long i = 0; i < most_clients; i++)
        spawn((struct guest){.restricts = false});
    start_guests(most_clients + extra, 1);
    for (long i = 0; i < most_clients; i++)
        prepare(&clients[i], guests[guest_count - most_clients + i].socket, i);
    if (options.lockspace) {
        struct message message = lockspace_call(options.lockspace);
        if (!call(clients[0].socket, &message))
            errx(1, "%s: the daemon does not make this lockspace", options.lockspace);
    }

    if (options.upgrade)
        upgrade(clients, most_clients);
    for (int i = 0; i < options.runs && !options.upgrade; i++) {
        printf("%s", i ? ", " : "");
        run(clients, options.clients[i]);
    }
    printf("]}\n");
    fflush(stdout);

    while (getchar() != EOF)
        ;
    end_guests();
    return 0;
}
