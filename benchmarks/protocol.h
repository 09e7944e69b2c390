/* The part of virtlockd's protocol that load.c and floor.c use: big-endian XDR (RFC 4506). */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { PROGRAM = 0x0EA7BEEF, VERSION = 1 };
enum procedure { REGISTER = 1, RESTRICT = 2, ACQUIRE = 6, RELEASE = 7, CREATE_LOCKSPACE = 8 };
enum { SHARED = 1, AUTOCREATE = 2 };
enum { CALL = 0, REPLY = 1 };
enum { OK = 0, ERROR = 1 };
enum { RESOURCE_BUSY = 87 };

/* A frame starts with seven words: its length, which includes the length word itself, and the header. */
enum word { LENGTH, PROGRAM_NUMBER, VERSION_NUMBER, PROCEDURE, TYPE, SERIAL, STATUS, HEADER_WORDS };
enum { HEADER_SIZE = HEADER_WORDS * 4 };

static inline uint32_t get_word(const unsigned char *frame, size_t word)
{
    uint32_t value;
    memcpy(&value, frame + word * 4, 4);
    return ntohl(value);
}

static inline void set_word(unsigned char *frame, size_t word, uint32_t value)
{
    value = htonl(value);
    memcpy(frame + word * 4, &value, 4);
}

#endif
