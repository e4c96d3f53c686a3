/* The heads of frames (docs/protocols/tcp.md). */
#include "../../base/wire.h"
#include "tcp.h"

void tcp_put_request(uint8_t out[TCP_REQUEST], const struct tcp_request *q)
{
    out[0] = q->code;
    out[1] = 0;
    put_u16(out + 2, q->pieces);
    put_u32(out + 4, q->slot);
    put_u64(out + 8, q->nbytes);
    memcpy(out + 16, q->key, TCP_KEY);
    put_u64(out + 32, q->offset);
    put_u64(out + 40, q->number);
}

void tcp_get_request(const uint8_t in[TCP_REQUEST], struct tcp_request *q)
{
    q->code = in[1] ? 0 : in[0];
    q->pieces = get_u16(in + 2);
    q->slot = get_u32(in + 4);
    q->nbytes = get_u64(in + 8);
    memcpy(q->key, in + 16, TCP_KEY);
    q->offset = get_u64(in + 32);
    q->number = get_u64(in + 40);
}

void tcp_put_reply(uint8_t out[TCP_REPLY], const struct tcp_reply *r)
{
    put_u64(out, r->number);
    put_u32(out + 8, r->ops);
    put_u16(out + 12, r->status);
    put_u16(out + 14, r->flags);
    put_u64(out + 16, r->nbytes);
}

void tcp_get_reply(const uint8_t in[TCP_REPLY], struct tcp_reply *r)
{
    r->number = get_u64(in);
    r->ops = get_u32(in + 8);
    r->status = get_u16(in + 12);
    r->flags = get_u16(in + 14);
    r->nbytes = get_u64(in + 16);
}
